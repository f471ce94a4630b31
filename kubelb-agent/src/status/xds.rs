//! What is known of the managers that this node's configuration comes from: a part of the [report](super::Report) that only a running agent knows, or what it
//! left behind.
//!
//! Times are in seconds since 1970, so that they can be kept and be compared with other machines' logs. Reads no clock.

use serde::{Deserialize, Serialize};

use super::address::OwnerReport;

/// The managers, and what became of their configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdsReport {
    /// When this was so.
    pub at: u64,
    /// What this agent calls itself.
    pub node: String,
    /// All managers that were named, in their order.
    pub managers: Vec<ManagerReport>,
    /// Pause before the next manager is tried, while there is no stream. Milliseconds.
    pub back_off_ms: Option<u64>,
    /// Whether there is a stream on which everything that was asked for has been answered.
    pub is_current: bool,
    /// When the configuration was last known to be a manager's newest: `at` while [`Self::is_current`], `None` when there has never been one.
    pub current_at: Option<u64>,
    /// Resources, by type.
    pub types: Vec<TypeReport>,
    /// Resources that were refused and are still; their last good versions are in force. The first of them.
    pub rejections: Vec<RejectionReport>,
    /// How many there are.
    pub rejected: u64,
    /// Who announces which address, in their order.
    #[serde(default, skip_serializing)]
    pub owners: Vec<OwnerReport>,
}

/// One manager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerReport {
    /// As it was named.
    pub url: String,
    /// Without TLS: anyone on the way can read and change what is forwarded.
    pub is_insecure: bool,
    /// Since when there is a stream with it.
    pub connected_since: Option<u64>,
    /// What is shown to it.
    pub credential: CredentialReport,
    /// Streams that it has answered since the agent started.
    pub streams: u64,
    /// Streams that ended, or could not be opened, since the agent started.
    pub failures: u64,
    /// The last of these.
    pub last_failure: Option<FailureReport>,
}

/// A credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialReport {
    /// What it is.
    pub kind: CredentialKind,
    /// When it expires, if it says so; of what was shown last.
    pub expires_at: Option<u64>,
}

/// What an agent shows to a manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialKind {
    /// Nothing.
    #[default]
    None,
    /// A bearer token.
    Token,
    /// A client certificate.
    Certificate,
}

/// Why there was no stream, or no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReport {
    /// When.
    pub at: u64,
    /// Why.
    pub reason: String,
}

/// Resources of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeReport {
    /// As in logs: cds, eds, lds.
    pub kind: String,
    /// How many there are.
    pub resources: u64,
    /// When a response was last taken whole.
    pub acked_at: Option<u64>,
    /// When something of a response was last refused.
    pub nacked_at: Option<u64>,
}

/// A resource that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectionReport {
    /// Type, as in logs.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl XdsReport {
    /// The same at a later time.
    #[must_use]
    pub fn at(mut self, now: u64) -> Self {
        self.at = now;
        if self.is_current {
            self.current_at = Some(now);
        }
        self
    }

    /// What is left of it when the agent has ended.
    #[must_use]
    pub fn without_agent(mut self, now: u64) -> Self {
        self.at = now;
        self.is_current = false;
        self.back_off_ms = None;
        for manager in &mut self.managers {
            manager.connected_since = None;
        }
        self
    }

    /// The manager that there is a stream with.
    #[must_use]
    pub fn connected(&self) -> Option<&ManagerReport> {
        self.managers.iter().find(|manager| manager.connected_since.is_some())
    }

    /// Seconds since the configuration was known to be a manager's newest.
    #[must_use]
    pub fn age(&self) -> Option<u64> {
        self.current_at.map(|current| self.at.saturating_sub(current))
    }
}

impl CredentialKind {
    /// As JSON and the metrics have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::Certificate => "certificate",
        }
    }
}
