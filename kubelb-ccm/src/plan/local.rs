//! `externalTrafficPolicy: Local`: only nodes with endpoints of their own take traffic, in proportion to how many they have.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kubelb_api::v1alpha1::EndpointAddress;

use super::Nodes;

/// Most addresses of a group of endpoints.
const MAX_ADDRESSES: usize = 1_024;

/// Endpoints of a Service on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    ready: i32,
    /// Those that still answer and are about to end; kube-proxy falls back to them on a node with no other (KEP-1669).
    leaving: i32,
}

/// Where the endpoints of a Service are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    nodes: BTreeMap<String, Count>,
}

impl Local {
    /// Counts the endpoints of all slices of a Service. `even_not_ready` is the Service's `publishNotReadyAddresses`.
    pub fn count<S: Borrow<EndpointSlice>>(slices: impl IntoIterator<Item = S>, even_not_ready: bool) -> Self {
        // Slices of two families list the same Pods, so of each only the family with most counts on a node.
        let mut families: BTreeMap<(String, String), Count> = BTreeMap::new();
        for slice in slices {
            let slice = slice.borrow();
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(node) = &endpoint.node_name else { continue };
                let count = families.entry((node.clone(), slice.address_type.clone())).or_default();
                if is_ready(endpoint, even_not_ready) {
                    count.ready = count.ready.saturating_add(1);
                } else if is_leaving(endpoint) {
                    count.leaving = count.leaving.saturating_add(1);
                }
            }
        }
        let mut nodes: BTreeMap<String, Count> = BTreeMap::new();
        for ((node, _), count) in families {
            let most = nodes.entry(node).or_default();
            most.ready = most.ready.max(count.ready);
            most.leaving = most.leaving.max(count.leaving);
        }
        Self { nodes }
    }

    /// The addresses that take traffic, with their weights. A node whose endpoints are all about to end takes no new connections and keeps
    /// those it has, unless no other endpoint is left at all. With no endpoint anywhere all nodes are listed with weight 0, for the list must not be empty. The second value is
    /// how many addresses found no room.
    #[must_use]
    pub fn addresses(&self, nodes: &Nodes) -> (Vec<EndpointAddress>, usize) {
        let weighted = |name: &str, weight: i32| {
            let addresses = nodes.addresses_of(name).iter();
            addresses
                .map(move |address| EndpointAddress {
                    weight: Some(weight),
                    ..address.clone()
                })
                .collect::<Vec<_>>()
        };
        let mut list: Vec<EndpointAddress> = Vec::new();
        // Those that count come first, in case there are too many.
        for (name, count) in self.nodes.iter().filter(|(_, count)| count.ready > 0) {
            list.extend(weighted(name, count.ready.min(i32::from(u16::MAX))));
        }
        let is_served = !list.is_empty();
        for (name, count) in self
            .nodes
            .iter()
            .filter(|(_, count)| count.ready == 0 && count.leaving > 0)
        {
            list.extend(weighted(
                name,
                if is_served {
                    0
                } else {
                    count.leaving.min(i32::from(u16::MAX))
                },
            ));
        }
        if list.is_empty() {
            list.extend(nodes.names().flat_map(|name| weighted(name, 0)));
        }
        let too_many = list.len().saturating_sub(MAX_ADDRESSES);
        list.truncate(MAX_ADDRESSES);
        list.sort_by(|a, b| (&a.ip, &a.hostname).cmp(&(&b.ip, &b.hostname)));
        (list, too_many)
    }

    /// Whether any node has an endpoint that takes new connections.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.nodes.values().any(|count| count.ready > 0)
    }
}

fn is_ready(endpoint: &Endpoint, even_not_ready: bool) -> bool {
    let Some(conditions) = &endpoint.conditions else {
        return true;
    };
    // Nothing said is to be read as ready, and as not terminating.
    let is_terminating = conditions.terminating.unwrap_or(false);
    !is_terminating && (even_not_ready || conditions.ready.unwrap_or(true))
}

fn is_leaving(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_some_and(|conditions| conditions.terminating.unwrap_or(false) && conditions.serving.unwrap_or(false))
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::*;
    use crate::plan::AddressType;

    pub(in crate::plan) fn nodes(names: &[&str]) -> Nodes {
        let list = names.iter().enumerate().map(|(index, name)| {
            serde_json::from_value::<Node>(json!({
                "metadata": {"name": name},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [{"type": "InternalIP", "address": format!("10.0.0.{}", index + 1)}],
                },
            }))
            .unwrap()
        });
        Nodes::choose(list, AddressType::InternalIp)
    }

    fn slice(family: &str, endpoints: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": "x"}, "addressType": family, "endpoints": endpoints, "ports": [],
        }))
        .unwrap()
    }

    fn on(node: &str, ready: bool) -> serde_json::Value {
        json!({"addresses": ["10.1.0.1"], "nodeName": node, "conditions": {"ready": ready}})
    }

    fn shown(local: &Local, nodes: &Nodes) -> Vec<(String, i32)> {
        let (list, too_many) = local.addresses(nodes);
        assert_eq!(too_many, 0);
        list.into_iter()
            .map(|address| (address.ip.unwrap(), address.weight.unwrap()))
            .collect()
    }

    fn at(ip: &str, weight: i32) -> (String, i32) {
        (ip.to_owned(), weight)
    }

    #[test]
    fn nodes_count_by_their_ready_endpoints() {
        let nodes = nodes(&["a", "b", "c"]);
        let slices = [
            slice("IPv4", json!([on("a", true), on("a", true), on("b", false)])),
            slice("IPv4", json!([on("a", true), on("c", true)])),
            // The same Pods once more.
            slice(
                "IPv6",
                json!([on("a", true), on("a", true), on("a", true), on("c", true)]),
            ),
        ];
        let local = Local::count(&slices, false);
        assert!(local.is_served());
        assert_eq!(shown(&local, &nodes), [at("10.0.0.1", 3), at("10.0.0.3", 1)]);
        let published = Local::count(&slices, true);
        assert_eq!(
            shown(&published, &nodes),
            [at("10.0.0.1", 3), at("10.0.0.2", 1), at("10.0.0.3", 1)]
        );
    }

    #[test]
    fn a_node_whose_endpoints_are_about_to_end_keeps_what_it_has() {
        let nodes = nodes(&["a", "b"]);
        let leaving = json!({"addresses": ["10.1.0.2"], "nodeName": "b",
            "conditions": {"ready": false, "serving": true, "terminating": true}});
        let local = Local::count([slice("IPv4", json!([on("a", true), leaving]))], false);
        assert_eq!(shown(&local, &nodes), [at("10.0.0.1", 1), at("10.0.0.2", 0)]);
        let last = Local::count([slice("IPv4", json!([on("a", false), leaving]))], false);
        assert_eq!(shown(&last, &nodes), [at("10.0.0.2", 1)], "better than nothing");
    }

    #[test]
    fn with_no_endpoint_no_node_takes_new_connections() {
        let nodes = nodes(&["a", "b"]);
        let local = Local::count(Vec::<EndpointSlice>::new(), false);
        assert!(!local.is_served());
        assert_eq!(shown(&local, &nodes), [at("10.0.0.1", 0), at("10.0.0.2", 0)]);
    }

    #[test]
    fn endpoints_on_nodes_that_take_no_traffic_are_left_out() {
        let nodes = nodes(&["a"]);
        let local = Local::count([slice("IPv4", json!([on("a", true), on("gone", true)]))], false);
        assert_eq!(shown(&local, &nodes), [at("10.0.0.1", 1)]);
    }
}
