//! Compiles the shim for event loops, which the binary carries (`src/instance/shim.rs`).

use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "heart/loop/loop.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=heart/c/osps.h");
    let variable = |name| std::env::var(name).expect("cargo sets it");
    let shim = PathBuf::from(variable("OUT_DIR")).join("loop.so");
    let is_known = ["x86_64", "aarch64"].contains(&variable("CARGO_CFG_TARGET_ARCH").as_str());
    if !is_known || variable("CARGO_CFG_TARGET_OS") != "linux" {
        // Without one, --heart loop is refused.
        std::fs::write(&shim, "").expect("the build directory can be written to");
        return;
    }
    let compiler = cc::Build::new().get_compiler();
    let mut command = Command::new(compiler.path());
    // No library and no symbol version, so that it loads into any program; whatever the system
    // hardens by default would need symbols of the C library.
    command.args([
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-fPIC",
        "-shared",
        "-nostdlib",
        "-fvisibility=hidden",
        "-fno-stack-protector",
        "-U_FORTIFY_SOURCE",
        "-Wl,--hash-style=both",
        "-Wl,-z,noexecstack",
        "-s",
        "-o",
    ]);
    command.arg(&shim).arg(SOURCE);
    let status = command.status().expect("a C compiler is there: it links Rust, too");
    assert!(status.success(), "{command:?} failed");
}
