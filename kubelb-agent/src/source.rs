//! Where the wanted configuration comes from.
//!
//! Owns the decision between sources and the channel that they all deliver into; a source decodes and validates, and
//! knows nothing of maps, health or packets.

pub mod file;
mod limits;
pub mod xds;

use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::Desired;
use file::ConfigErrors;

/// What a source says after a change: the whole new configuration, or why it was refused. After a refusal the receiver
/// keeps what it has.
pub type Update = Result<Desired, ConfigErrors>;

/// A place that configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A YAML file, watched.
    File(PathBuf),
}

impl Source {
    /// Starts delivering: the present state at once, then every change, until `shutdown`. Two updates may collapse into
    /// one when the receiver is slow; the last state always arrives.
    #[must_use]
    pub fn start(self, shutdown: CancellationToken) -> mpsc::Receiver<Update> {
        match self {
            Self::File(path) => file::watch(path, shutdown),
        }
    }
}
