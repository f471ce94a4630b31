//! ClusterLoadAssignment → addresses with weights. Must not know clusters.

use std::net::SocketAddr;
use std::num::NonZeroU16;

use kubelb_xds::pb::envoy::config::core::v3::HealthStatus;
use kubelb_xds::pb::envoy::config::core::v3::address::Address as AddressKind;
use kubelb_xds::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use kubelb_xds::pb::envoy::config::endpoint::v3 as pb;

use super::refusal::{Refusal, nothing_else, refuse};
use super::wire;
use crate::source::limits::MAX_BACKENDS;

/// Endpoints in the order of the resource.
pub(super) type Endpoints = Vec<Endpoint>;

/// An endpoint as the kernel path sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// 0 takes no new flows.
    pub(super) weight: u32,
    /// Port for health checks, when it is not the endpoint's own.
    pub(super) check_port: Option<NonZeroU16>,
}

/// # Errors
/// With the first field that is wrong or cannot be done.
pub(super) fn decode(bytes: &[u8]) -> Result<Endpoints, Refusal> {
    of(wire::decode(bytes, "")?, "")
}

/// The same of a message that is part of another.
pub(super) fn of(mut message: pb::ClusterLoadAssignment, path: &str) -> Result<Endpoints, Refusal> {
    let path = if path.is_empty() {
        String::new()
    } else {
        format!("{path}.")
    };
    message.cluster_name.clear();
    let localities = std::mem::take(&mut message.endpoints);
    if let Some(mut policy) = message.policy.take() {
        // The share of healthy endpoints at which a priority is full; there is one priority.
        policy.overprovisioning_factor = None;
        nothing_else(&format!("{path}policy"), &policy)?;
    }
    nothing_else(path.trim_end_matches('.'), &message)?;
    let mut endpoints = Endpoints::new();
    for (index, mut locality) in localities.into_iter().enumerate() {
        let path = format!("{path}endpoints[{index}]");
        let members = std::mem::take(&mut locality.lb_endpoints);
        // Which zone it is changes nothing without weights of zones.
        locality.locality = None;
        locality.metadata = None;
        nothing_else(&path, &locality)?;
        for (index, member) in members.into_iter().enumerate() {
            endpoints.push(endpoint(member, &format!("{path}.lb_endpoints[{index}]"))?);
        }
    }
    if endpoints.len() > MAX_BACKENDS {
        return refuse(
            format!("{path}endpoints"),
            format!("are {}; at most {MAX_BACKENDS} can be served", endpoints.len()),
        );
    }
    Ok(endpoints)
}

fn endpoint(mut member: pb::LbEndpoint, path: &str) -> Result<Endpoint, Refusal> {
    let weight = member.load_balancing_weight.take().map_or(1, |weight| weight.value);
    let takes_flows = takes_flows(&mut member, path)?;
    let Some(pb::lb_endpoint::HostIdentifier::Endpoint(mut endpoint)) = member.host_identifier.take() else {
        return refuse(format!("{path}.endpoint"), "is missing");
    };
    member.metadata = None;
    nothing_else(path, &member)?;
    let path = format!("{path}.endpoint");
    let Some(AddressKind::SocketAddress(socket)) = endpoint.address.take().and_then(|address| address.address) else {
        return refuse(format!("{path}.address.socket_address"), "is missing");
    };
    let port = match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => port,
        Some(PortSpecifier::NamedPort(_)) | None => 0,
    };
    let address = wire::socket_address(&format!("{path}.address.socket_address"), &socket.address, port)?;
    let check_port = check_port(&mut endpoint, &path)?;
    endpoint.hostname.clear();
    nothing_else(&path, &endpoint)?;
    Ok(Endpoint {
        address,
        weight: if takes_flows { weight } else { 0 },
        check_port,
    })
}

/// What the control plane says of its health; the agent's own checks come on top.
fn takes_flows(member: &mut pb::LbEndpoint, path: &str) -> Result<bool, Refusal> {
    match HealthStatus::try_from(std::mem::take(&mut member.health_status)) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Ok(true),
        Ok(HealthStatus::Draining | HealthStatus::Unhealthy | HealthStatus::Timeout) => Ok(false),
        Ok(HealthStatus::Degraded) | Err(_) => refuse(
            format!("{path}.health_status"),
            "this agent knows UNKNOWN, HEALTHY, DRAINING, UNHEALTHY and TIMEOUT",
        ),
    }
}

fn check_port(endpoint: &mut pb::Endpoint, path: &str) -> Result<Option<NonZeroU16>, Refusal> {
    let Some(mut config) = endpoint.health_check_config.take() else {
        return Ok(None);
    };
    let port = std::mem::take(&mut config.port_value);
    nothing_else(&format!("{path}.health_check_config"), &config)?;
    if port == 0 {
        return Ok(None);
    }
    wire::port(&format!("{path}.health_check_config.port_value"), port).map(Some)
}
