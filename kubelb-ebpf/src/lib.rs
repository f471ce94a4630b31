//! The data path's logic: parse, steer, rewrite, answer.
//!
//! Everything here is generic over two seams, [`bytes::Bytes`] (the packet) and [`tables::Tables`] (the maps), so that
//! the same code is compiled into the XDP and tc programs and, on the host, into tests and explanations. It allocates
//! nothing, and knows nothing of map names or contexts.
#![cfg_attr(not(any(test, feature = "model")), no_std)]

pub mod answer;
pub mod bytes;
pub mod insert;
#[cfg(any(test, feature = "model"))]
pub mod model;
pub mod neighbour;
pub mod outcome;
pub mod parse;
pub mod process;
pub mod rewrite;
pub mod select;
pub mod tables;

#[cfg(test)]
mod tests;
