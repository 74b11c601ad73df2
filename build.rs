//! Builds the library that the fork server puts into the compiler (`src/exec/preload`), for the
//! program to carry. Where it cannot be built the file is empty, and backends run as plain processes.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

const SOURCE: &str = "src/exec/preload/preload.rs";

fn main() {
    println!("cargo::rerun-if-changed=src/exec/preload");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let made = Path::new(&variable("OUT_DIR")).join("preload.so");
    let served = variable("CARGO_CFG_TARGET_OS") == "linux"
        && variable("CARGO_CFG_TARGET_ENV") == "gnu"
        && ["x86_64", "aarch64"].contains(&&*variable("CARGO_CFG_TARGET_ARCH"))
        && variable("CARGO_CFG_TARGET_POINTER_WIDTH") == "64";
    if !served || !compile(&made) {
        fs::write(&made, b"").expect("cargo's own folder can be written");
    }
}

/// Whether the library was made. A failure is a warning: nobody's build has to end for it.
fn compile(made: &Path) -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command
        .args(["--crate-name", "preload", "--crate-type", "cdylib", "--edition", "2024"])
        .args([
            "-C",
            "panic=abort",
            "-C",
            "opt-level=s",
            "-C",
            "lto=fat",
            "-C",
            "strip=symbols",
            "-D",
            "warnings",
        ])
        .args(["--target", &env::var("TARGET").unwrap_or_default()])
        .arg("-o")
        .arg(made)
        .arg(SOURCE);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        command.arg("-C").arg({
            let mut option = std::ffi::OsString::from("linker=");
            option.push(linker);
            option
        });
    }
    match command.output() {
        Ok(out) if out.status.success() => true,
        Ok(out) => {
            for line in String::from_utf8_lossy(&out.stderr).lines() {
                println!("cargo::warning={line}");
            }
            println!("cargo::warning=the fork server was not built; backends run as processes");
            false
        }
        Err(error) => {
            println!("cargo::warning=the fork server was not built: {error}");
            false
        }
    }
}
