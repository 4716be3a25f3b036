//! The project's own manifests, read from the repository as users apply them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Definitions of these kinds from `crds/`; empty: of all.
pub fn crds(plurals: &[&str]) -> Result<Vec<CustomResourceDefinition>> {
    let mut found = Vec::new();
    for path in yaml_files("crds")? {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let crd: CustomResourceDefinition =
            serde_saphyr::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        if plurals.is_empty() || plurals.contains(&crd.spec.names.plural.as_str()) {
            found.push(crd);
        }
    }
    if found.is_empty() {
        bail!("no CRDs in crds/: run `make generate`");
    }
    Ok(found)
}

/// The YAML files of a folder of the repository, by name.
pub fn yaml_files(folder: &str) -> Result<Vec<PathBuf>> {
    let dir = root().join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(&dir)
        .with_context(|| format!("list {}", dir.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    Ok(paths)
}

/// An example of `examples/`, as text.
pub fn example(name: &str) -> Result<String> {
    let path = root().join("examples").join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}
