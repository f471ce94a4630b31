//! Where objects come from.
//!
//! Owns the ways in; what objects mean is not known here.

pub mod catalog;
pub mod cluster;
pub mod directory;
pub mod lines;
pub mod manifest;
