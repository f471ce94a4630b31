//! Looks at what the compiler made of the parts of the object where it is known to go wrong in silence.
//!
//! An atomic addition whose result is used can come out as the non-fetching form, which returns the operand; and copies of
//! structures can become calls of a byte-wise `memcpy`. Neither fails to load, both are wrong or slow.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process;
use crate::toolchain;

/// Instructions that the program cannot do without, as llvm-objdump writes them.
const REQUIRED: &[&str] = &["cmpxchg_64", "atomic_fetch_add"];
/// Functions that the compiler calls for copies it does not inline.
const COPIERS: &[&str] = &["memcpy", "memmove", "memset", "memcmp", "bcmp"];
/// Calls of [`COPIERS`] that are accepted: none on any path of a packet.
const COPIER_CALLS_ALLOWED: usize = 0;

/// Checks the instructions of `object`.
///
/// # Errors
/// When it has no disassembly, lacks an instruction that it needs, or copies by calls.
pub(crate) fn check(object: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(disassembler()?);
    let listing = process::capture(
        command
            .args(["--disassemble", "--reloc", "--no-show-raw-insn"])
            .arg(object),
    )?;
    check_listing(&listing).with_context(|| format!("{} is not what its source says", object.display()))
}

fn disassembler() -> anyhow::Result<PathBuf> {
    let packaged = toolchain::llvm_prefix().join("bin").join("llvm-objdump");
    Some(packaged)
        .filter(|path| path.is_file())
        .or_else(|| process::find("llvm-objdump"))
        .context("llvm-objdump is missing: install LLVM's binary utilities")
}

fn check_listing(listing: &str) -> anyhow::Result<()> {
    for instruction in REQUIRED {
        if !listing.contains(instruction) {
            bail!("no {instruction} among its instructions: an atomic operation was compiled to something else");
        }
    }
    let calls = copier_calls(listing);
    if calls.len() > COPIER_CALLS_ALLOWED {
        bail!(
            "{} calls copy memory byte by byte ({COPIER_CALLS_ALLOWED} allowed): {}",
            calls.len(),
            calls.join(", ")
        );
    }
    Ok(())
}

/// `caller -> callee` of each call to one of [`COPIERS`].
fn copier_calls(listing: &str) -> Vec<String> {
    let mut function = "?";
    let mut calls = Vec::new();
    for line in listing.lines() {
        if let Some(name) = line
            .strip_suffix(">:")
            .and_then(|line| line.split_once('<'))
            .map(|(_, name)| name)
        {
            function = name;
        } else if let Some((_, symbol)) = line.split_once("R_BPF_64_32")
            && let Some(callee) = COPIERS.iter().find(|copier| symbol.trim() == **copier)
        {
            calls.push(format!("{function} -> {callee}"));
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::check_listing;

    const SOUND: &str = "\
0000000000000000 <forward>:
       6:\tcall 0x1
      10:\tr7 = atomic_fetch_add((u64 *)(r6 + 0x0), r7)
      14:\tr0 = cmpxchg_64(r6 + 0x8, r0, r1)
      31:\tcall -0x1
\t\t00000000000000f8:  R_BPF_64_32\t.text
";

    #[test]
    fn atomics_that_fetch_and_calls_of_our_own_pass() {
        check_listing(SOUND).unwrap();
    }

    #[test]
    fn an_addition_that_does_not_fetch_is_refused() {
        let lost = SOUND.replace(
            "r7 = atomic_fetch_add((u64 *)(r6 + 0x0), r7)",
            "lock *(u64 *)(r6 + 0x0) += r7",
        );
        assert!(
            check_listing(&lost)
                .unwrap_err()
                .to_string()
                .contains("atomic_fetch_add")
        );
    }

    #[test]
    fn a_copy_by_call_is_refused_and_its_caller_named() {
        let copies = SOUND.replace("R_BPF_64_32\t.text", "R_BPF_64_32\tmemcpy");
        assert!(
            check_listing(&copies)
                .unwrap_err()
                .to_string()
                .contains("forward -> memcpy")
        );
    }
}
