//! Where the wanted configuration comes from.
//!
//! Owns the decision between sources and the channel that they all deliver into; a source decodes and validates, and
//! knows nothing of maps, health or packets.

pub mod file;
mod limits;
pub mod xds;

use std::path::PathBuf;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::feedback::Feedback;
use crate::model::Desired;
use crate::status::xds::XdsReport;
use file::ConfigErrors;
use xds::stream::Settings;

/// What a source says after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The whole new configuration; `None`: what the receiver has stays in force.
    pub desired: Option<Desired>,
    /// Whether who decides who announces an address is there to be heard: else what another machine took is left to it.
    pub is_live: bool,
    /// What of the newest configuration is refused, or cannot be had, and why: for a person, one line each.
    pub problem: Option<String>,
}

/// A place that configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A YAML file, watched.
    File(PathBuf),
    /// Managers, over xDS.
    Xds(Settings),
}

impl Source {
    /// Starts delivering: the present state at once, then every change, until `shutdown`. Two updates may collapse into
    /// one when the receiver is slow; the last state always arrives. Beside them, where there are any, how the managers are doing.
    /// Whoever can be told how it goes is told what `feedback` says.
    #[must_use]
    pub fn start(
        self,
        feedback: Feedback,
        shutdown: CancellationToken,
    ) -> (mpsc::Receiver<Update>, Option<watch::Receiver<XdsReport>>) {
        match self {
            Self::File(path) => (file::watch(path, shutdown), None),
            Self::Xds(settings) => {
                let (updates, managers) = xds::stream::watch(settings, feedback, shutdown);
                (updates, Some(managers))
            }
        }
    }
}

impl From<Result<Desired, ConfigErrors>> for Update {
    fn from(result: Result<Desired, ConfigErrors>) -> Self {
        match result {
            Ok(desired) => Self {
                desired: Some(desired),
                is_live: true,
                problem: None,
            },
            Err(errors) => Self {
                desired: None,
                is_live: true,
                problem: Some(errors.to_string()),
            },
        }
    }
}
