//! Compiles `/proto` with a pure Rust compiler, so that a build needs no `protoc`.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 12] = [
    "workload.proto",
    "authorization.proto",
    "zds.proto",
    "ambit/l7.proto",
    "ca.proto",
    "envoy/auth.proto",
    "envoy/core.proto",
    "envoy/discovery.proto",
    "google/status.proto",
    "opentelemetry/common.proto",
    "opentelemetry/logs.proto",
    "opentelemetry/trace.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure()
        .bytes(".")
        // Sorted maps, because versions of resources are hashes of their encoding.
        .btree_map(".")
        .disable_comments(["."])
        .include_file("all.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
