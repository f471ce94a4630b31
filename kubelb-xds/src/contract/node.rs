//! Names of peers. Owns the form of `node.id`; must not know what a peer may see: that is by its credential, never by its name.

use std::fmt;
use std::str::FromStr;

/// Who a peer says that it is. For logs, metrics and status only; a manager refuses one that says more than its peer has proved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeId {
    /// `agent/<node>`: the agent of this Kubernetes node.
    Agent(String),
    /// `fleet/<name>`: an Envoy of a fleet; `<name>` may have further parts.
    Fleet(String),
}

/// A node id that is neither an agent's nor a fleet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node id {0:?} is neither `agent/<node>` nor `fleet/<name>`")]
pub struct NodeIdError(String);

/// Longer ids are cut before they are repeated in an error.
const SHOWN: usize = 128;

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some(("agent", node)) if !node.is_empty() && !node.contains('/') => Ok(Self::Agent(node.to_owned())),
            Some(("fleet", name)) if !name.is_empty() => Ok(Self::Fleet(name.to_owned())),
            _ => Err(NodeIdError(text.chars().take(SHOWN).collect())),
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(node) => write!(formatter, "agent/{node}"),
            Self::Fleet(name) => write!(formatter, "fleet/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        for text in ["agent/node-1", "fleet/global", "fleet/tenant-a/pod-1"] {
            assert_eq!(text.parse::<NodeId>().unwrap().to_string(), text);
        }
        for text in ["", "agent", "agent/", "fleet/", "agent/a/b", "envoy/x", "/agent/x"] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }
}
