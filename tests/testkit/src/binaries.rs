//! Where Atoll's own programs are.

use std::path::{Path, PathBuf};

use crate::{Error, Result, error::Doing as _};

/// The folder that Atoll's programs are in: `ATOLL_BIN_DIR`, or where cargo
/// puts those of the profile that this test was built with.
pub fn dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("ATOLL_BIN_DIR") {
        return Ok(dir.into());
    }
    let exe = std::env::current_exe().doing("find the running program")?;
    Ok(profile_dir(&exe).to_path_buf())
}

/// The path of one of Atoll's programs, such as `atoll-operator`.
pub fn path(name: &str) -> Result<PathBuf> {
    let dir = dir()?;
    let path = dir.join(name);
    if path.is_file() { Ok(path) } else { Err(Error::MissingBinary { name: name.to_owned(), dir }) }
}

/// The library with NVML's C interface and GPUs that exist only in it (`tests/fake-nvml`), to be loaded by its path.
pub fn fake_nvml() -> Result<PathBuf> {
    // Every build puts it into deps, that of the workspace also beside the programs, where it may be older.
    path("deps/libatoll_fake_nvml.so").or_else(|_| path("libatoll_fake_nvml.so"))
}

/// Tests are in `target/<profile>/deps`, examples in `…/examples`, programs beside those folders.
fn profile_dir(exe: &Path) -> &Path {
    let dir = exe.parent().unwrap_or(exe);
    match dir.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => dir.parent().unwrap_or(dir),
        _ => dir,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_beside_the_folder_of_tests() {
        for exe in ["/t/debug/deps/e2e-12", "/t/debug/examples/demo", "/t/debug/demo"] {
            assert_eq!(profile_dir(Path::new(exe)), Path::new("/t/debug"), "{exe}");
        }
    }
}
