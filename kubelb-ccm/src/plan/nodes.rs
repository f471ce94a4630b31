//! Which nodes take traffic, and by which addresses.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use k8s_openapi::api::core::v1::Node;
use kubelb_api::v1alpha1::{AddressesSpec, EndpointAddress};

/// Kubernetes' label for nodes that load balancers shall leave out; its value does not count (KEP-1143).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Taint by which the cluster autoscaler says that it is about to remove a node.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// Most addresses that an Addresses object may have.
const MAX_ADDRESSES: usize = 16_384;

/// Which of a node's addresses traffic is sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressType {
    /// `ExternalIP`.
    #[default]
    ExternalIp,
    /// `InternalIP`.
    InternalIp,
    /// `Hostname`: a name that the management cluster must be able to resolve.
    Hostname,
}

impl AddressType {
    /// The type as a Node's status has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExternalIp => "ExternalIP",
            Self::InternalIp => "InternalIP",
            Self::Hostname => "Hostname",
        }
    }
}

impl fmt::Display for AddressType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no type of address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no type of a node's address; use ExternalIP, InternalIP or Hostname")]
pub struct AddressTypeError(String);

impl FromStr for AddressType {
    type Err = AddressTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::ExternalIp, Self::InternalIp, Self::Hostname]
            .into_iter()
            .find(|known| known.as_str() == text)
            .ok_or_else(|| AddressTypeError(text.to_owned()))
    }
}

/// The nodes that take traffic, and their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    by_name: BTreeMap<String, Vec<EndpointAddress>>,
    /// Nodes that would take traffic and have no address of the type.
    pub without_address: BTreeSet<String>,
}

impl Nodes {
    /// Chooses among all nodes: those that are Ready, are not about to go, and do not ask to be left out.
    pub fn choose<N: Borrow<Node>>(nodes: impl IntoIterator<Item = N>, type_: AddressType) -> Self {
        let mut chosen = Self::default();
        for node in nodes {
            let node = node.borrow();
            let Some(name) = &node.metadata.name else { continue };
            if !takes_traffic(node) {
                continue;
            }
            let found = addresses_of(node, type_);
            if found.is_empty() {
                chosen.without_address.insert(name.clone());
            } else {
                chosen.by_name.insert(name.clone(), found);
            }
        }
        chosen
    }

    /// Addresses of one node; none when it takes no traffic.
    #[must_use]
    pub fn addresses_of(&self, node: &str) -> &[EndpointAddress] {
        self.by_name.get(node).map_or(&[], Vec::as_slice)
    }

    /// Names of the nodes, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// How many nodes take traffic.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether no node takes traffic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// What `Addresses/default` shall hold: every address once, sorted. `None` when there is none: what was there before is better than
/// nothing, and the kind refuses an empty list.
#[must_use]
pub fn addresses(nodes: &Nodes) -> Option<AddressesSpec> {
    let all: BTreeSet<(Option<IpAddr>, Option<&str>, Option<&str>)> = nodes
        .by_name
        .values()
        .flatten()
        .map(|address| {
            let ip = address.ip.as_deref();
            (ip.and_then(|ip| ip.parse().ok()), ip, address.hostname.as_deref())
        })
        .collect();
    let addresses: Vec<EndpointAddress> = all
        .into_iter()
        .take(MAX_ADDRESSES)
        .map(|(_, ip, hostname)| EndpointAddress {
            ip: ip.map(str::to_owned),
            hostname: hostname.map(str::to_owned),
            weight: None,
        })
        .collect();
    (!addresses.is_empty()).then_some(AddressesSpec { addresses })
}

fn takes_traffic(node: &Node) -> bool {
    let is_excluded = node
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(EXCLUDED));
    let is_leaving = node.metadata.deletion_timestamp.is_some()
        || node
            .spec
            .iter()
            .flat_map(|spec| spec.taints.iter().flatten())
            .any(|taint| taint.key == TO_BE_DELETED);
    let is_ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    is_ready && !is_excluded && !is_leaving
}

fn addresses_of(node: &Node, type_: AddressType) -> Vec<EndpointAddress> {
    let listed = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten())
        .filter(|address| address.type_ == type_.as_str());
    let mut found = Vec::new();
    for address in listed {
        let text = address.address.trim();
        let endpoint = match type_ {
            AddressType::Hostname if !text.is_empty() => EndpointAddress {
                hostname: Some(text.to_owned()),
                ..EndpointAddress::default()
            },
            // Some cloud providers list an empty text for a node without an address.
            AddressType::ExternalIp | AddressType::InternalIp if text.parse::<IpAddr>().is_ok() => EndpointAddress {
                ip: Some(text.to_owned()),
                ..EndpointAddress::default()
            },
            AddressType::Hostname | AddressType::ExternalIp | AddressType::InternalIp => continue,
        };
        if !found.contains(&endpoint) {
            found.push(endpoint);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> Node {
        let mut value = json!({
            "metadata": {"name": name},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [
                    {"type": "InternalIP", "address": format!("10.0.0.{}", name.len())},
                    {"type": "Hostname", "address": name},
                ],
            },
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn chosen(nodes: &[Node]) -> Vec<String> {
        let nodes = Nodes::choose(nodes, AddressType::InternalIp);
        nodes.names().map(str::to_owned).collect()
    }

    #[test]
    fn nodes_that_are_not_ready_excluded_or_about_to_go_take_no_traffic() {
        let nodes = [
            node("good", |_| {}),
            node("cordoned", |value| value["spec"] = json!({"unschedulable": true})),
            node("not-ready", |value| {
                value["status"]["conditions"][0]["status"] = json!("Unknown");
            }),
            node("silent", |value| value["status"]["conditions"] = json!([])),
            node("excluded", |value| {
                value["metadata"]["labels"] = json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
            }),
            node("going", |value| {
                value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }),
            node("shrinking", |value| {
                value["spec"] = json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]});
            }),
        ];
        // A cordoned node takes no new Pods; those that it has are still served.
        assert_eq!(chosen(&nodes), ["cordoned", "good"]);
    }

    #[test]
    fn every_address_of_the_type_counts_once_and_in_order() {
        let dual = node("dual", |value| {
            value["status"]["addresses"] = json!([
                {"type": "InternalIP", "address": "2001:db8::10"},
                {"type": "InternalIP", "address": "10.0.0.10"},
                {"type": "InternalIP", "address": "10.0.0.10"},
                {"type": "InternalIP", "address": ""},
                {"type": "ExternalIP", "address": "192.0.2.1"},
            ]);
        });
        let twin = node("twin", |value| {
            value["status"]["addresses"] = json!([{"type": "InternalIP", "address": "10.0.0.9"}]);
        });
        let nodes = Nodes::choose([&dual, &twin], AddressType::InternalIp);
        let list = addresses(&nodes).unwrap().addresses;
        let shown: Vec<&str> = list.iter().map(|address| address.ip.as_deref().unwrap()).collect();
        assert_eq!(shown, ["10.0.0.9", "10.0.0.10", "2001:db8::10"]);
    }

    #[test]
    fn without_any_address_there_is_nothing_to_write() {
        let nodes = Nodes::choose([node("a", |_| {})], AddressType::ExternalIp);
        assert_eq!(addresses(&nodes), None);
        assert!(nodes.without_address.contains("a"));
        let names = Nodes::choose([node("a", |_| {})], AddressType::Hostname);
        assert_eq!(addresses(&names).unwrap().addresses[0].hostname.as_deref(), Some("a"));
    }

    #[test]
    fn types_are_named_as_in_a_node() {
        assert_eq!("InternalIP".parse(), Ok(AddressType::InternalIp));
        let error = "internal".parse::<AddressType>().unwrap_err().to_string();
        assert!(error.contains("ExternalIP, InternalIP or Hostname"), "{error}");
    }
}
