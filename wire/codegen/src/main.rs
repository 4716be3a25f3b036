//! Writes `wire/src/generated/` from `wire/proto/`.
//!
//! Run by `cargo run -p atoll-wire-codegen`, never by a build script, so that building Atoll needs neither a proto
//! compiler nor this crate. `--check` writes nothing and fails when what is committed differs.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

const PROTO: &str = "atoll/gateway/v1/gateway.proto";
const GENERATED: &str = "atoll.gateway.v1.rs";

fn main() -> anyhow::Result<()> {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        other => bail!("unknown arguments {other:?}; the only one is --check"),
    };
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the codegen crate has no parent folder")?;
    let committed = wire.join("src/generated");
    let out = if check {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/wire-codegen")
    } else {
        committed.clone()
    };
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;

    let files = protox::Compiler::new([wire.join("proto")])?
        .include_imports(true)
        .include_source_info(true)
        .open_file(PROTO)?
        .file_descriptor_set();
    tonic_prost_build::configure().out_dir(&out).compile_fds(files).context("generate")?;

    if check && std::fs::read(out.join(GENERATED))? != std::fs::read(committed.join(GENERATED))? {
        bail!("{} is out of date: run `cargo run -p atoll-wire-codegen`", committed.join(GENERATED).display());
    }
    Ok(())
}
