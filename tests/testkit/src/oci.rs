//! Container images without a registry: OCI archives from static programs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{Result, error::Doing as _};

/// An image to be made: one layer with some files.
///
/// The archive depends on nothing but what is put in, so that it has the same
/// digest everywhere.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    reference: String,
    files: Vec<(String, PathBuf)>,
    entrypoint: Vec<String>,
    env: Vec<String>,
    user: String,
}

/// An image in an OCI archive.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name, for pods.
    pub reference: String,
    /// The digest of its manifest, `sha256:…`.
    pub digest: String,
    /// The archive.
    pub archive: PathBuf,
}

impl ImageBuilder {
    /// An image of this name, with registry and tag: `atoll.test/demo:1`.
    #[must_use]
    pub fn new(reference: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            files: Vec::new(),
            entrypoint: Vec::new(),
            env: Vec::new(),
            user: "65532:65532".to_owned(),
        }
    }

    /// Puts a program at an absolute path; it must be static unless its libraries come too.
    #[must_use]
    pub fn program(mut self, path: &str, source: impl Into<PathBuf>) -> Self {
        self.files.push((path.trim_start_matches('/').to_owned(), source.into()));
        self
    }

    /// Sets what runs.
    #[must_use]
    pub fn entrypoint<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.entrypoint = words.into_iter().map(str::to_owned).collect();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Sets the user, by number so that `runAsNonRoot` can be checked; 65532 unless set.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Writes the archive.
    pub fn write(&self, archive: impl Into<PathBuf>) -> Result<Image> {
        let archive = archive.into();
        let mut blobs = Blobs::default();
        let layer = blobs.add(self.layer()?);
        let config = blobs.add_json(&self.config(&layer.digest));
        let manifest = blobs.add_json(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
        }));
        let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
        entry["annotations"] = json!({"io.containerd.image.name": self.reference});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });

        let doing = || format!("write image {}", archive.display());
        let mut tar = tar::Builder::new(Vec::new());
        let layout = json!({"imageLayoutVersion": "1.0.0"});
        append(&mut tar, "oci-layout", layout.to_string().as_bytes(), 0o644).doing(doing())?;
        append(&mut tar, "index.json", index.to_string().as_bytes(), 0o644).doing(doing())?;
        for (hex, bytes) in &blobs.0 {
            append(&mut tar, &format!("blobs/sha256/{hex}"), bytes, 0o644).doing(doing())?;
        }
        let bytes = tar.into_inner().doing(doing())?;
        fs::write(&archive, bytes).doing(doing())?;
        Ok(Image { reference: self.reference.clone(), digest: manifest.digest, archive })
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let doing = || format!("make a layer of {}", self.reference);
        let mut tar = tar::Builder::new(Vec::new());
        append_dir(&mut tar, "tmp/", 0o1777).doing(doing())?;
        let mut made = Vec::new();
        for (path, source) in &self.files {
            for dir in parents(path) {
                if !made.contains(&dir) {
                    append_dir(&mut tar, &dir, 0o755).doing(doing())?;
                    made.push(dir);
                }
            }
            let content = fs::read(source).doing(format!("read {}", source.display()))?;
            append(&mut tar, path, &content, 0o755).doing(doing())?;
        }
        tar.into_inner().doing(doing())
    }

    fn config(&self, layer: &str) -> Value {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"User": self.user, "Env": self.env, "Entrypoint": self.entrypoint, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        })
    }
}

/// The folders above a path, outermost first, as tar names them.
fn parents(path: &str) -> Vec<String> {
    let ancestors = Path::new(path).ancestors().skip(1);
    let mut dirs: Vec<_> = ancestors.map(|dir| format!("{}/", dir.display())).filter(|dir| dir != "/").collect();
    dirs.reverse();
    dirs
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8], mode: u32) -> std::io::Result<()> {
    let mut header = header(tar::EntryType::Regular, mode);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content)
}

fn append_dir(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32) -> std::io::Result<()> {
    let mut header = header(tar::EntryType::Directory, mode);
    header.set_size(0);
    tar.append_data(&mut header, path, std::io::empty())
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Contents by the hex of their digests.
#[derive(Default)]
struct Blobs(Vec<(String, Vec<u8>)>);

struct Blob {
    digest: String,
    size: usize,
}

impl Blobs {
    fn add(&mut self, bytes: Vec<u8>) -> Blob {
        let hex = hex::encode(Sha256::digest(&bytes));
        let blob = Blob { digest: format!("sha256:{hex}"), size: bytes.len() };
        self.0.push((hex, bytes));
        blob
    }

    fn add_json(&mut self, value: &Value) -> Blob {
        self.add(value.to_string().into_bytes())
    }
}

impl Blob {
    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.size})
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use super::*;

    fn build(dir: &Path, archive: &str) -> Image {
        let program = dir.join("program");
        fs::write(&program, b"#!x").unwrap();
        let image = ImageBuilder::new("atoll.test/x:1").program("/usr/bin/x", &program).entrypoint(["/usr/bin/x"]);
        image.write(dir.join(archive)).unwrap()
    }

    fn entries(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(bytes);
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().display().to_string(), content)
            })
            .collect()
    }

    #[test]
    fn every_digest_in_the_archive_is_of_a_blob_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let image = build(dir.path(), "a.tar");
        let files = entries(&fs::read(&image.archive).unwrap());
        let blob = |digest: &Value| {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            let bytes = &files[&format!("blobs/sha256/{hex}")];
            assert_eq!(hex::encode(Sha256::digest(bytes)), hex);
            bytes.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], image.digest);
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0]["digest"])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"]["digest"])).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let layer = entries(&blob(&manifest["layers"][0]["digest"]));
        assert_eq!(layer["usr/bin/x"], b"#!x");
        assert!(layer.contains_key("usr/") || layer.contains_key("usr"));
    }

    #[test]
    fn the_same_files_make_the_same_image() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(build(dir.path(), "a.tar").digest, build(dir.path(), "b.tar").digest);
    }
}
