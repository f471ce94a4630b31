//! Replacing the authority while everything runs, in three steps that each leave all connections possible:
//!
//! 1. the next one is trusted, and the current one issues; peers are to be given the new trust (`bootstrap` again);
//! 2. the next one issues, and the previous one is trusted; peers are to be given new certificates (`bootstrap` again);
//! 3. the previous one is forgotten.
//!
//! The file itself says which step is next. A server that runs follows it.

use std::path::Path;
use std::time::SystemTime;

use super::{Authority, AuthorityError, FILE, made, state_dir};

const CERTIFICATE: &str = "CERTIFICATE";
const KEY: &str = "PRIVATE KEY";

/// A step that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next authority is trusted.
    Announced,
    /// The next authority issues.
    Switched,
    /// The previous authority is not trusted any more.
    Finished,
}

impl Step {
    /// What is to be done now.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Announced => {
                "a new authority is trusted. Run `kubelb-manager bootstrap` for every agent and Envoy, so that they trust it, then this command again"
            }
            Self::Switched => {
                "the new authority issues. Run `kubelb-manager bootstrap` for every agent and Envoy, so that they have its certificates, then this command again"
            }
            Self::Finished => "only the new authority is trusted now",
        }
    }
}

/// Takes the next step in the state directory `directory`.
///
/// # Errors
/// When the directory cannot be written or holds something else.
pub fn step(directory: &Path, now: SystemTime) -> Result<Step, AuthorityError> {
    let before = Authority::open(directory, now)?.text;
    let (certificates, keys) = (certificates(&before), keys(&before));
    let (step, text) = match (&certificates[..], &keys[..]) {
        ([previous, next], [_, key]) => (Step::Switched, [*next, *key, *previous].concat()),
        ([current, _], [key]) => (Step::Finished, [*current, *key].concat()),
        _ => (Step::Announced, format!("{before}{}", made(now)?)),
    };
    state_dir::replace(&directory.join(FILE), &text)?;
    Ok(step)
}

/// Certificates of a PEM text, each with the end of its last line.
pub(super) fn certificates(text: &str) -> Vec<&str> {
    blocks(text, CERTIFICATE)
}

fn keys(text: &str) -> Vec<&str> {
    blocks(text, KEY)
}

fn blocks<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, from)) = rest.find(&begin).and_then(|at| rest.split_at_checked(at)) {
        let Some(at) = from.find(&end) else { break };
        let after = from.get(at + end.len()..).unwrap_or_default();
        let newline = usize::from(after.starts_with('\n'));
        let (block, next) = from.split_at(at + end.len() + newline);
        blocks.push(block);
        rest = next;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn three_steps_replace_it_and_the_server_follows_each() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let first = Authority::open(directory.path(), now).unwrap();
        assert!(first.changed().unwrap().is_none());
        let old = first.trusted()[0].clone();

        assert_eq!(step(directory.path(), now).unwrap(), Step::Announced);
        let announced = first.changed().unwrap().unwrap();
        assert_eq!(announced.trusted().len(), 2);
        assert_eq!(announced.trusted()[0], old, "the old one issues");
        assert_eq!(announced.pem().matches("BEGIN CERTIFICATE").count(), 2);
        assert!(!announced.pem().contains("PRIVATE"));
        let new = announced.trusted()[1].clone();

        assert_eq!(step(directory.path(), now).unwrap(), Step::Switched);
        let switched = announced.changed().unwrap().unwrap();
        assert_eq!(switched.trusted(), [new.clone(), old]);

        assert_eq!(step(directory.path(), now).unwrap(), Step::Finished);
        let finished = switched.changed().unwrap().unwrap();
        assert_eq!(finished.trusted(), [new]);
        assert_eq!(step(directory.path(), now).unwrap(), Step::Announced, "and again");
    }
}
