//! Passes facts about the build to `build_info`. The source revision comes from the environment of
//! release builds only, so that a commit does not recompile every crate.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=AMBIT_GIT_REVISION");
    println!("cargo::rerun-if-env-changed=AMBIT_BUILD_STATUS");
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    if let Ok(output) = Command::new(rustc).arg("--version").output()
        && let Ok(text) = String::from_utf8(output.stdout)
        && let Some(version) = text.split_whitespace().nth(1)
    {
        println!("cargo::rustc-env=AMBIT_RUSTC_VERSION={version}");
    }
}
