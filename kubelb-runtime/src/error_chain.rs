//! One line of text for an error and everything that caused it.
//!
//! Owns the format only; errors of the workspace never repeat their source in `Display`, so the parts join without echo.

use std::error::Error;
use std::fmt;

/// Longest chain that is printed; a cyclic or absurdly deep one ends with `…`.
const MAX_DEPTH: usize = 32;

/// Shows `error: cause: cause of the cause`.
#[must_use]
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> Chain<'a> {
    Chain { error }
}

/// Displays an error with its sources; see [`chain`].
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    error: &'a (dyn Error + 'static),
}

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let mut source = self.error.source();
        for _ in 1..MAX_DEPTH {
            let Some(error) = source else { return Ok(()) };
            write!(f, ": {error}")?;
            source = error.source();
        }
        if source.is_some() {
            write!(f, ": …")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("reading the file")]
    struct Reading(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("starting")]
    struct Starting(#[source] Reading);

    #[test]
    fn causes_follow_in_order() {
        let error = Starting(Reading(io::Error::other("disk on fire")));
        assert_eq!(chain(&error).to_string(), "starting: reading the file: disk on fire");
    }

    #[test]
    fn an_error_without_cause_is_itself() {
        assert_eq!(chain(&io::Error::other("alone")).to_string(), "alone");
    }
}
