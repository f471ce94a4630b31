//! Where things are: the checkout, build output, and the cache of tools that survives `cargo clean`.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

/// Overrides where tools built for this project are kept.
const CACHE_VARIABLE: &str = "KUBELB_CACHE";

/// Directories of one checkout.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The checkout that this xtask was started from.
    ///
    /// # Errors
    /// When it was not started by cargo inside a checkout.
    pub(crate) fn locate() -> anyhow::Result<Self> {
        // Cargo sets the variable for `cargo run`; the path noted at build time serves a binary started by hand.
        let package =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.parent().context("the xtask package has no parent directory")?;
        if !root.join("Cargo.lock").is_file() {
            return Err(anyhow!(
                "{} holds no Cargo.lock; start this with `cargo xtask` inside the checkout",
                root.display()
            ));
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Top directory of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's output directory for host code.
    pub(crate) fn target(&self) -> PathBuf {
        // Every cargo that we start works in the checkout's top directory, so that is what a relative value is relative to.
        self.root
            .join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
    }

    /// Output directory of the eBPF build, apart from the host's so that the two never invalidate or lock each other.
    /// Fixed, whatever `CARGO_TARGET_DIR` says: the agent's build script looks for the object there.
    pub(crate) fn ebpf_target(&self) -> PathBuf {
        self.root.join("target").join("ebpf")
    }

    /// Where tools built for this project are kept: `$KUBELB_CACHE`, else `$XDG_CACHE_HOME/kubelb`, else `~/.cache/kubelb`.
    ///
    /// # Errors
    /// When none of the three variables is set.
    pub(crate) fn cache() -> anyhow::Result<PathBuf> {
        let from = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        from(CACHE_VARIABLE)
            .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("kubelb")))
            .or_else(|| from("HOME").map(|dir| dir.join(".cache").join("kubelb")))
            .with_context(|| format!("no directory for tools: set {CACHE_VARIABLE} or HOME"))
    }
}
