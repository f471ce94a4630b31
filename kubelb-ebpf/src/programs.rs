//! The programs: contexts and helpers on one side, the library's seams on the other.

mod clock;
mod maps;
mod tables;
mod tc;
mod xdp;
