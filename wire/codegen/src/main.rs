//! Writes the code of the protocols: `src/generated/` of each room from its `proto/`.
//!
//! Run by `make generate`, never by a build script, so that building Atoll needs neither a proto compiler nor this
//! crate.

use std::path::Path;

use anyhow::Context;

/// A room of the workspace and the protocols that it speaks, relative to its `proto/`.
const ROOMS: &[(&str, &[&str])] = &[
    ("wire", &["atoll/gateway/v1/gateway.proto", "atoll/watchdog/v1/watchdog.proto"]),
    ("device-plugin", &["deviceplugin.proto", "podresources.proto"]),
    ("agent", &["cri.proto"]),
];

fn main() -> anyhow::Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the workspace is not there")?;
    for (room, protos) in ROOMS {
        let room = workspace.join(room);
        generate(&room, protos).with_context(|| format!("generate the code of {}", room.display()))?;
    }
    Ok(())
}

fn generate(room: &Path, protos: &[&str]) -> anyhow::Result<()> {
    let out = room.join("src/generated");
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let files = protox::Compiler::new([room.join("proto")])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(protos)?
        .file_descriptor_set();
    tonic_prost_build::configure().out_dir(&out).compile_fds(files)?;
    Ok(())
}
