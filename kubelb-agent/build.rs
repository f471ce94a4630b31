//! Embeds the eBPF object that `cargo xtask build-ebpf` built.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=KUBELB_EBPF_OBJECT");
    let default =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../target/ebpf/kubelb.bpf.o");
    let object = env::var_os("KUBELB_EBPF_OBJECT").map_or(default, PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    // `canonicalize` also makes the path the same however it was named, so that cargo does not build the agent twice.
    let object = match fs::canonicalize(&object) {
        Ok(object) => object,
        Err(error) => {
            println!(
                "cargo::error=no eBPF object at {} ({error}): run `cargo xtask build-ebpf` first",
                object.display()
            );
            return;
        }
    };
    println!("cargo:rustc-env=KUBELB_EBPF_OBJECT_PATH={}", object.display());
}
