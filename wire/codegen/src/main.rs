//! Writes `wire/src/generated/` from `wire/proto/`.
//!
//! Run by `make generate`, never by a build script, so that building Atoll needs neither a proto compiler nor this
//! crate.

use std::path::Path;

use anyhow::Context;

const PROTO: &str = "atoll/gateway/v1/gateway.proto";

fn main() -> anyhow::Result<()> {
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the codegen crate has no parent folder")?;
    let out = wire.join("src/generated");
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let files = protox::Compiler::new([wire.join("proto")])?
        .include_imports(true)
        .include_source_info(true)
        .open_file(PROTO)?
        .file_descriptor_set();
    tonic_prost_build::configure().out_dir(&out).compile_fds(files).context("generate")?;
    Ok(())
}
