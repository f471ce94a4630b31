//! The kernel side: the object, its maps in this process's memory, its programs and where they are attached.
//!
//! The only module that knows aya, map file descriptors and mapped memory. What the rows should hold is decided in
//! [`crate::tables`].

pub mod announced;
pub mod attach;
pub mod clock;
pub mod drops;
mod grow;
mod link;
pub mod load;
pub mod mapped;
pub mod maps;
pub mod pins;
pub mod store;

use std::io;
use std::path::PathBuf;

/// Why the data path could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The directory for pins is not on a bpffs, or cannot be made.
    #[error("{path}: cannot hold pinned maps and programs; mount a bpffs there (mount -t bpf bpf {path})")]
    Bpffs {
        /// The directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The directory for pins cannot be read.
    #[error("cannot use {path} as the directory of pins")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Another agent holds the directory.
    #[error("{path}: a kubelb-agent runs with this directory")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// There is nothing pinned.
    #[error("{path}: no kubelb-agent has pinned anything here")]
    NothingPinned {
        /// The directory.
        path: PathBuf,
    },
    /// The object could not be loaded, or a pinned map differs from what it wants.
    #[error("cannot load the eBPF object")]
    Load(#[source] Box<aya::EbpfError>),
    /// The kernel refused a program.
    #[error("cannot load program {name}")]
    Program {
        /// Its name.
        name: &'static str,
        /// Cause, with the verifier's last words.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A map that must be there is not.
    #[error("map {name} is missing or of another kind")]
    Map {
        /// Its name.
        name: &'static str,
        /// Cause.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// The object has no such map or program.
    #[error("the eBPF object has no {0}")]
    Absent(&'static str),
    /// A map cannot be mapped into memory.
    #[error("cannot map {name} into memory")]
    Mmap {
        /// Its name.
        name: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A pin could not be made or removed.
    #[error("cannot pin or unpin {path}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The interface does not exist.
    #[error("no network interface {interface}")]
    NoInterface {
        /// Its name.
        interface: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The interface refused the program.
    #[error("cannot attach to {interface} in mode {mode}")]
    Attach {
        /// Its name.
        interface: String,
        /// Mode asked for.
        mode: &'static str,
        /// Cause.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The interface carries another XDP program.
    #[error("{0} carries another XDP program; detach it, or use --attach-mode {0}=tcx")]
    Occupied(String),
    /// The ring of log records cannot be read.
    #[error("cannot read the data path's log records")]
    Records(#[source] io::Error),
    /// A clsact filter cannot be removed.
    #[error("cannot detach from {interface}")]
    Detach {
        /// Its name.
        interface: String,
        /// Cause.
        #[source]
        source: Box<aya::programs::tc::TcError>,
    },
    /// The clock program gave nothing sensible.
    #[error("cannot read the data path's clock: {0}")]
    Clock(&'static str),
    /// Nobody knows how many CPUs there may be.
    #[error("cannot tell how many CPUs this machine may have")]
    Cpus(#[source] io::Error),
    /// A hash map refused an update.
    #[error("cannot update map {name}")]
    Update {
        /// Its name.
        name: &'static str,
        /// Cause.
        #[source]
        source: Box<aya::maps::MapError>,
    },
}
