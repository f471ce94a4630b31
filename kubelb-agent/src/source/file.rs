//! Configuration from a YAML file: [`parse`] is pure, [`watch`] delivers the file again after each change.
//!
//! Owns the file's schema, its limits and every message about them. A file is taken whole or refused whole, with all of
//! its errors at once, each as `file:line: field: reason and the fix`.

mod address;
mod check;
mod node;
mod schema;
mod tree;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::model::Desired;

pub use super::limits::{MAX_BACKENDS, MAX_WEIGHT};
pub use watch::watch;

/// Longest file, in bytes.
pub const MAX_FILE: usize = 16 * 1024 * 1024;
/// Most frontends in a file.
pub const MAX_FRONTENDS: usize = 65_536;
/// Most SNAT addresses of a node.
pub const MAX_SNAT_ADDRESSES: usize = 8;
/// Most characters of a frontend's name, in bytes.
pub const MAX_NAME: usize = 128;
/// Errors that are listed; the rest is counted.
pub const MAX_ERRORS: usize = 100;

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Line, from 1; `None` when the file as a whole is meant.
    pub line: Option<usize>,
    /// Path of the field, such as `frontends[1].port`; empty when the file as a whole is meant.
    pub field: String,
    /// What is wrong and how to put it right.
    pub reason: String,
}

/// Why a file was refused: every mistake in it, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    path: PathBuf,
    errors: Vec<ConfigError>,
    left_out: usize,
}

impl ConfigErrors {
    /// The mistakes, at most [`MAX_ERRORS`].
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// How many mistakes there are beyond [`Self::errors`].
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn new(path: &Path, mut errors: node::Errors) -> Self {
        errors.list.sort_by_key(|error| error.line);
        Self {
            path: path.to_owned(),
            errors: errors.list,
            left_out: errors.left_out,
        }
    }

    /// A refusal that concerns the file as a whole.
    fn whole(path: &Path, reason: String) -> Self {
        let error = ConfigError {
            line: None,
            field: String::new(),
            reason,
        };
        Self {
            path: path.to_owned(),
            errors: vec![error],
            left_out: 0,
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{path}:")?;
            if let Some(line) = error.line {
                write!(f, "{line}:")?;
            }
            if !error.field.is_empty() {
                write!(f, " {}:", error.field)?;
            }
            write!(f, " {}", error.reason)?;
        }
        if self.left_out > 0 {
            write!(f, "\n{path}: and {} more errors", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads a configuration. `path` is only for messages.
///
/// # Errors
/// All mistakes of the file.
pub fn parse(path: &Path, text: &str) -> Result<Desired, ConfigErrors> {
    if text.len() > MAX_FILE {
        return Err(too_long(path));
    }
    let mut errors = node::Errors::default();
    let desired = tree::load(text, &mut errors).and_then(|root| schema::desired(&root, &mut errors));
    match desired {
        Some(desired) if errors.list.is_empty() => Ok(desired),
        _ => Err(ConfigErrors::new(path, errors)),
    }
}

fn too_long(path: &Path) -> ConfigErrors {
    ConfigErrors::whole(
        path,
        format!(
            "the file is longer than {} MiB; split the load over more nodes",
            MAX_FILE >> 20
        ),
    )
}

#[cfg(test)]
mod tests;
