//! Small parts of messages: names, addresses, durations, packed messages.
//!
//! Must not know: listeners and clusters as a whole.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use kubelb_api::names::TenantName;
use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::google::protobuf as google;
use kubelb_xds::pb::xds::core::v3::TypedExtensionConfig;
use kubelb_xds::{Owner, contract};
use prost::{Message, Name};

use crate::ir::{ClusterId, Family, Frontend, LoadBalancer, Protocol};
use crate::object::ObjectName;

/// The first part of all names of layer 7, where those of an object have its namespace. No tenant's namespace is called so.
pub(crate) const LAYER7: &str = "http";

pub(super) fn owner(tenant: &TenantName) -> Owner {
    Owner::tenant(tenant.as_str())
}

pub(crate) fn listener_name(load_balancer: &LoadBalancer, frontend: &Frontend) -> String {
    let name = contract::ListenerName {
        namespace: load_balancer.name.namespace.to_string(),
        object: load_balancer.name.name.to_string(),
        address: frontend.address,
        port: frontend.port,
        protocol: protocol(frontend.protocol),
    };
    name.to_string()
}

/// The object that a resource of this name is made of; `None` for those that are of no one object.
pub(crate) fn object_of(resource: &str) -> Option<ObjectName> {
    let mut parts = resource.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(LAYER7), ..) => None,
        (Some(namespace), Some(name), Some(_)) => Some(ObjectName::new(namespace, name)),
        _ => None,
    }
}

/// The contract's name; a cluster with names for Envoy only has the same form with `dns` at its end.
pub(super) fn cluster_name(load_balancer: &LoadBalancer, id: ClusterId) -> String {
    let named = |family| {
        let name = contract::ClusterName {
            namespace: load_balancer.name.namespace.to_string(),
            object: load_balancer.name.name.to_string(),
            port: id.port,
            protocol: protocol(id.protocol),
            family,
        };
        name.to_string()
    };
    match id.family {
        Family::V4 => named(contract::Family::V4),
        Family::V6 => named(contract::Family::V6),
        Family::Dns => format!(
            "{}/{}-{}/dns",
            load_balancer.name,
            id.port,
            protocol(id.protocol).as_str()
        ),
    }
}

const fn protocol(protocol: Protocol) -> contract::Protocol {
    match protocol {
        Protocol::Tcp => contract::Protocol::Tcp,
        Protocol::Udp => contract::Protocol::Udp,
    }
}

pub(super) fn address(host: String, port: u16, protocol: Protocol) -> core::Address {
    let protocol = match protocol {
        Protocol::Tcp => core::socket_address::Protocol::Tcp,
        Protocol::Udp => core::socket_address::Protocol::Udp,
    };
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            protocol: protocol.into(),
            address: host,
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..core::SocketAddress::default()
        })),
    }
}

pub(super) fn range(network: &IpNet) -> core::CidrRange {
    core::CidrRange {
        address_prefix: network.network().to_string(),
        prefix_len: Some(number(network.prefix_len().into())),
    }
}

/// Whether no client of this address's family is in any of the networks.
pub(super) fn excludes_family(ranges: &[IpNet], address: IpAddr) -> bool {
    !ranges.is_empty() && !ranges.iter().any(|range| range.addr().is_ipv4() == address.is_ipv4())
}

pub(super) fn number(value: u32) -> google::UInt32Value {
    google::UInt32Value { value }
}

/// Durations of the IR are far below what the message can say.
pub(super) fn duration(value: Duration) -> google::Duration {
    google::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

pub(super) fn any<M: Message + Name>(message: &M) -> google::Any {
    google::Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

pub(super) fn extension<M: Message + Name>(name: &str, message: &M) -> TypedExtensionConfig {
    TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(any(message)),
    }
}
