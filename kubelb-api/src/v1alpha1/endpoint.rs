//! Where a tenant's traffic goes: addresses and ports of its nodes.

use k8s_openapi::api::core::v1::ObjectReference;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A group of addresses with the ports that each of them has: the endpoints are the product of both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerEndpoints {
    /// Name of the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Addresses of the backends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1024))]
    pub addresses: Vec<EndpointAddress>,
    /// An Addresses object in the same namespace, in place of addresses. Only its name counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_reference")]
    pub addresses_reference: Option<ObjectReference>,
    /// Ports of the backends. Not used by routes, whose ports are those of their Services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256))]
    pub ports: Vec<EndpointPort>,
}

/// One backend, by address or by name. With both, the address counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "(has(self.ip) && size(self.ip) > 0) || (has(self.hostname) && size(self.hostname) > 0)",
        "message": "at least one of ip or hostname must be set",
    },
    {
        "rule": "!has(self.ip) || !isIP(self.ip) || ip(self.ip).isGlobalUnicast()",
        "message": "ip must not be a loopback, link-local, multicast, broadcast or unspecified address",
    },
]))]
pub struct EndpointAddress {
    /// IPv4 or IPv6 address; not loopback, link-local, multicast, broadcast or unspecified.
    // KubeLB's CCM writes hostnames here when it is told to use nodes' names, and older ones write an empty text for a node without
    // address: neither is refused, or one node would cost all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ip: Option<String>,
    /// DNS name of a backend without a stable address. Such a backend is reached through Envoy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub hostname: Option<String>,
    /// Share of new connections among the addresses; 1 when left out. 0 takes no new ones and keeps those it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65_535))]
    pub weight: Option<i32>,
}

/// One port of the backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPort {
    /// The frontend port of this name uses it. May be left out when there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// Port number, mostly a NodePort.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// TCP when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    #[default]
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// The protocol as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}
