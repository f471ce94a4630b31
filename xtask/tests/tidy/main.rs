//! The project's rules that no lint knows: who may depend on whom, how files are named and how long they are, what tests may do.
//!
//! A rule that fails names the file, the line and what to do. Exceptions are listed by name in the rule's module, with a
//! reason, and an exception that is no longer needed fails too, so that the lists only shrink.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code: a checkout that cannot be read is a failed test"
)]

mod architecture;
mod files;
mod metadata;
mod modules;
mod source;
mod test_code;

/// Fails with one line for each violation.
fn assert_none(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n  {}\n", violations.join("\n  "));
}
