//! Starting other programs: with output shown, or captured; errors name the whole command line.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Variables that the cargo and rustup proxies leave for their children and that would steer another toolchain's cargo.
const TOOLCHAIN_VARIABLES: &[&str] = &[
    "RUSTUP_TOOLCHAIN",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "CARGO",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
];

/// Runs `command` with its output shown and no standard input.
///
/// # Errors
/// When it cannot be started or ends with another code than 0.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = describe(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Becomes `command`: signals from the terminal are then its alone, and its end is ours.
///
/// # Errors
/// When it cannot be started; otherwise this does not return.
pub(crate) fn replace(command: &mut Command) -> anyhow::Result<()> {
    let line = describe(command);
    Err(command.exec()).with_context(|| format!("cannot start `{line}`"))
}

/// Runs `command` and returns its standard output; what it says on standard error goes into the error.
///
/// # Errors
/// When it cannot be started, ends with another code than 0, or prints what is not UTF-8.
pub(crate) fn capture(command: &mut Command) -> anyhow::Result<String> {
    let line = describe(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!(
            "`{line}` failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed bytes that are not UTF-8"))
}

/// Whether `command` starts and ends with code 0; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `program` as `PATH` finds it, or in the directories for administration commands, which are not on every user's `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let fallback = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(fallback)
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// The cargo that runs this, so that nested builds share its output.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// Takes out of `command`'s environment what belongs to the toolchain that runs this program.
pub(crate) fn forget_toolchain(command: &mut Command) -> &mut Command {
    for name in TOOLCHAIN_VARIABLES {
        command.env_remove(name);
    }
    command
}

/// `PATH` with `dirs` in front.
///
/// # Errors
/// When a directory's name holds a colon.
pub(crate) fn path_with(dirs: &[&Path]) -> anyhow::Result<OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    let all = dirs.iter().map(|dir| dir.to_path_buf()).chain(env::split_paths(&rest));
    env::join_paths(all).context("a directory for PATH holds a colon")
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
