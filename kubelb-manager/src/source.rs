//! Where objects come from.
//!
//! Owns the ways in; what objects mean is not known here.

pub mod lines;
pub mod manifest;
