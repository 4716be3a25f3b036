//! Where the programs are that `make tools` built.

use std::{collections::BTreeMap, path::PathBuf, process::Command, sync::OnceLock};

use crate::{Error, Result, error::Doing as _};

/// The control plane and what simulates nodes: enough for most tests.
pub const CORE: &[&str] = &["kube", "kwok"];
/// kube-scheduler's filter plugins as a program.
pub const FILTERS: &[&str] = &["kube-filters"];
/// What a real node needs besides [`CORE`].
pub const REAL_NODE: &[&str] =
    &["containerd", "containerd-shim-runc-v2", "ctr", "coredns", "pause", "torch-demo", "witness"];

/// The path of a program from `make tools`, by its name in `hack/tools.sh`:
/// `kube`, `kwok`, `kube-filters`, `containerd`, `containerd-shim-runc-v2`, `ctr`, `coredns`,
/// `pause`, `torch-demo` or `witness`.
pub fn path(tool: &str) -> Result<PathBuf> {
    let path = paths()?
        .get(tool)
        .cloned()
        .ok_or_else(|| Error::Unsupported(format!("hack/tools.sh knows no tool {tool}: see `hack/tools.sh paths`")))?;
    if path.is_file() { Ok(path) } else { Err(Error::MissingTool { tool: tool.to_owned(), path }) }
}

/// Asks `hack/tools.sh`, which alone knows versions and folders, once per process.
fn paths() -> Result<&'static BTreeMap<String, PathBuf>> {
    static PATHS: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    if let Some(paths) = PATHS.get() {
        return Ok(paths);
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/tools.sh");
    let output = Command::new(script).arg("paths").output().doing(format!("run {script}"))?;
    if !output.status.success() {
        return Err(Error::Command {
            command: format!("{script} paths"),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let parsed = parse(&String::from_utf8_lossy(&output.stdout));
    Ok(PATHS.get_or_init(|| parsed))
}

fn parse(lines: &str) -> BTreeMap<String, PathBuf> {
    lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, path)| (name.to_owned(), PathBuf::from(path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_may_hold_equals_signs() {
        let paths = parse("kube=/cache/a=b/kube\nnoise\nkwok=/cache/kwok\n");
        assert_eq!(paths["kube"], PathBuf::from("/cache/a=b/kube"));
        assert_eq!(paths.len(), 2);
    }

    #[test]
    fn an_unknown_tool_is_an_error_that_says_where_to_look() {
        let message = path("abacus").map_err(|e| e.to_string()).unwrap_err();
        assert!(message.contains("hack/tools.sh paths"), "{message}");
    }
}
