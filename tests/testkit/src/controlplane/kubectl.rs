//! kubectl as a process.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::io::AsyncWriteExt as _;

use crate::{Error, Result, binaries, error::Doing as _, tools};

/// What kubectl said.
#[derive(Debug, Clone)]
pub struct KubectlOutput {
    command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error: where refusals are.
    pub stderr: String,
}

impl KubectlOutput {
    /// The standard output of a success; an error with the standard error otherwise.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            Ok(self.stdout)
        } else {
            Err(Error::Command { command: self.command, status: self.status.to_string(), stderr: self.stderr })
        }
    }
}

/// Runs kubectl with this kubeconfig, with `input` on its standard input; what it keeps goes into `home`.
pub(super) async fn run(kubeconfig: &Path, home: &Path, args: Vec<OsString>, input: &str) -> Result<KubectlOutput> {
    const LIMIT: Duration = Duration::from_mins(2);
    let mut path = binaries::dir()?.into_os_string();
    if let Some(inherited) = std::env::var_os("PATH") {
        path.push(":");
        path.push(inherited);
    }
    let mut child = tokio::process::Command::new(tools::path("kube")?)
        .arg("kubectl")
        .args(&args)
        .env("KUBECONFIG", kubeconfig)
        // Its caches and preferences are the test's own.
        .env("HOME", home)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .doing("start kubectl")?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // kubectl may end without reading; what it says then is the better message.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let run = async { tokio::join!(feed, child.wait_with_output()).1 };
    let command = args.join(OsStr::new(" ")).to_string_lossy().into_owned();
    let output = tokio::time::timeout(LIMIT, run)
        .await
        .map_err(|_| Error::Timeout {
            what: format!("kubectl {command}"),
            after: LIMIT,
            last: "it runs on".to_owned(),
        })?
        .doing("run kubectl")?;
    Ok(KubectlOutput {
        command: format!("kubectl {command}"),
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
