//! Writes the gRPC code. Needs no protoc: protox compiles the `.proto` files.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Compiles every `.proto` under `crates/proto/proto` into `crates/proto/src/gen`.
pub(crate) fn write() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let protos = root.join("proto");
    let out = root.join("src/gen");
    let mut files = Vec::new();
    collect(&protos, &mut files)?;
    files.sort();
    if out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("empty {}", out.display()))?;
    }
    std::fs::create_dir_all(&out)?;
    let descriptors = protox::compile(&files, [&protos])?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .out_dir(&out)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .context("generate code")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for item in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = item?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
