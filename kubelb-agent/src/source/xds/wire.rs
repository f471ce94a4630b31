//! Values of the xDS API as this crate has them. Owns the checks that several resource types share.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use ipnet::IpNet;
use kubelb_xds::contract::{Metadata, metadata};
use kubelb_xds::pb::envoy::config::core::v3::{CidrRange, Metadata as EnvoyMetadata};
use kubelb_xds::pb::google::protobuf::{Any, Duration as WireDuration};
use prost::{Message, Name};

use super::refusal::{Refusal, refuse};
use crate::source::limits::MAX_SOURCE_RANGES;

pub(super) fn decode<M: Message + Default>(bytes: &[u8], path: &str) -> Result<M, Refusal> {
    M::decode(bytes).or_else(|error| refuse(path, format!("cannot be decoded: {error}")))
}

/// What an `Any` holds, if that is an `M`.
pub(super) fn typed<M: Message + Name + Default>(any: &Any, path: &str) -> Result<M, Refusal> {
    if any.type_url.rsplit('/').next() != Some(M::full_name().as_str()) {
        return refuse(
            path,
            format!("is a {}; the kernel path knows {} here", any.type_url, M::full_name()),
        );
    }
    decode(&any.value, path)
}

pub(super) fn metadata(metadata: Option<&EnvoyMetadata>) -> Result<Metadata, Refusal> {
    Metadata::decode(metadata).or_else(|error| refuse(metadata_field(&error.path), error.problem.to_string()))
}

pub(super) fn metadata_field(path: &str) -> String {
    format!("metadata.filter_metadata[{:?}].{path}", metadata::KEY)
}

/// An address that one machine has: not unspecified, multicast or broadcast, and no IPv4 in disguise.
pub(super) fn unicast(field: &str, text: &str) -> Result<IpAddr, Refusal> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return refuse(
            field,
            format!("{text:?} is not an IP address; names are not resolved here"),
        );
    };
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || is_broadcast || address != address.to_canonical() {
        return refuse(field, format!("{address} is not the address of one machine"));
    }
    Ok(address)
}

pub(super) fn port(field: &str, value: u32) -> Result<NonZeroU16, Refusal> {
    let port = u16::try_from(value).ok().and_then(NonZeroU16::new);
    port.map_or_else(|| refuse(field, format!("{value} is not a port from 1 to 65535")), Ok)
}

pub(super) fn duration(field: &str, time: WireDuration) -> Result<Duration, Refusal> {
    let parts = u64::try_from(time.seconds).ok().zip(u32::try_from(time.nanos).ok());
    match parts {
        Some((seconds, nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => refuse(field, "is negative or not in its normal form"),
    }
}

pub(super) fn within(
    field: &str,
    time: Duration,
    (shortest, longest): (Duration, Duration),
) -> Result<Duration, Refusal> {
    if (shortest..=longest).contains(&time) {
        Ok(time)
    } else {
        refuse(field, format!("{time:?} is not from {shortest:?} to {longest:?}"))
    }
}

/// Networks, host bits cut off as Envoy does.
///
/// # Errors
/// With the first that is none, or when there are too many.
pub(super) fn networks(field: &str, ranges: &[CidrRange]) -> Result<Vec<IpNet>, Refusal> {
    if ranges.len() > MAX_SOURCE_RANGES {
        return refuse(
            field,
            format!("are {}; at most {MAX_SOURCE_RANGES} are possible", ranges.len()),
        );
    }
    let one = |(index, range): (usize, &CidrRange)| {
        // Left out, it is 0.
        let length = range.prefix_len.map_or(0, |length| length.value);
        let network = range
            .address_prefix
            .parse()
            .ok()
            .zip(u8::try_from(length).ok())
            .and_then(|(address, length)| IpNet::new(address, length).ok());
        match network {
            Some(network) => Ok(network.trunc()),
            None => refuse(
                format!("{field}[{index}]"),
                format!("{}/{length} is not a network", range.address_prefix),
            ),
        }
    };
    ranges.iter().enumerate().map(one).collect()
}

/// # Errors
/// Also for what [`unicast`] and [`port`] refuse.
pub(super) fn socket_address(field: &str, address: &str, port_value: u32) -> Result<SocketAddr, Refusal> {
    let ip = unicast(&format!("{field}.address"), address)?;
    let port = port(&format!("{field}.port_value"), port_value)?;
    Ok(SocketAddr::new(ip, port.get()))
}
