//! UDP flows that the kernel still sends to endpoints that are gone: which those are, and their removal by ctnetlink.
//!
//! TCP connections end by themselves when their endpoint does; a UDP client that goes on sending would keep its entry,
//! and with it the dead endpoint, alive for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};

use super::state::{Protocol, State};

/// `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE` of the subsystem `NFNL_SUBSYS_CTNETLINK`
/// (linux/netfilter/nfnetlink_conntrack.h), as a netlink message's type.
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
/// `NLMSG_ERROR`, `NLMSG_DONE` (linux/netlink.h).
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x01;
const ACK: u16 = 0x04;
const DUMP: u16 = 0x0300;
/// Marks an attribute that holds others.
const NESTED: u16 = 0x8000;
const UDP: u8 = 17;
/// Bytes of `nlmsghdr` and of `nfgenmsg`.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// An entry: the client's packet as it came, and where the answer comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    /// Who sends.
    pub(crate) source: SocketAddr,
    /// To where, before translation.
    pub(crate) destination: SocketAddr,
    /// Who answers: the endpoint.
    pub(crate) endpoint: SocketAddr,
}

/// Those of `flows` that go through a Service to what is not its endpoint any more.
#[must_use]
pub(crate) fn stale(flows: &[Flow], state: &State) -> Vec<Flow> {
    let mut endpoints: BTreeMap<SocketAddr, BTreeSet<SocketAddr>> = BTreeMap::new();
    for port in state.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        let addresses = port
            .cluster_ip
            .iter()
            .chain(&port.external_ips)
            .chain(&port.load_balancer_ips);
        let on_addresses = addresses.map(|address| SocketAddr::new(*address, port.port));
        let on_node = state
            .node_addresses
            .iter()
            .filter_map(|address| Some(SocketAddr::new(*address, port.node_port?)));
        for destination in on_addresses.chain(on_node) {
            let served = endpoints.entry(destination).or_default();
            served.extend(port.endpoints.union(&port.local));
        }
    }
    let is_stale = |flow: &&Flow| {
        endpoints
            .get(&flow.destination)
            .is_some_and(|served| !served.contains(&flow.endpoint))
    };
    flows.iter().filter(is_stale).cloned().collect()
}

/// All UDP entries of this network namespace.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn flows() -> io::Result<Vec<Flow>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    socket.send(&message(GET, REQUEST | DUMP, 0, &[]), 0)?;
    let mut found = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&bytes) {
            match kind {
                DONE => return Ok(found),
                ERROR => return refused(body).map(|()| found),
                _ => found.extend(body.get(FAMILY_HEADER..).and_then(flow)),
            }
        }
    }
}

/// Forgets a flow. That it is gone already is no error.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn forget(flow: &Flow) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    let family = if flow.source.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let family = u8::try_from(family).unwrap_or_default();
    socket.send(&message(DELETE, REQUEST | ACK, family, &original_tuple(flow)), 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    for (kind, body) in messages(&bytes) {
        if kind == ERROR {
            return match refused(body) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                result => result,
            };
        }
    }
    Ok(())
}

fn refused(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(-code))
    }
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + FAMILY_HEADER + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and port: one request a socket needs neither.
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = Vec::from(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `CTA_TUPLE_ORIG` with `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`.
fn original_tuple(flow: &Flow) -> Vec<u8> {
    let (source, destination) = (flow.source, flow.destination);
    // CTA_IP_V4_SRC and _DST are 1 and 2, CTA_IP_V6_SRC and _DST 3 and 4.
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => (0, address.octets().to_vec()),
        IpAddr::V6(address) => (2, address.octets().to_vec()),
    };
    let ((base, from), (_, to)) = (octets(source.ip()), octets(destination.ip()));
    let addresses = [attribute(1 + base, &from), attribute(2 + base, &to)].concat();
    let protocol = [
        attribute(1, &[UDP]),
        attribute(2, &source.port().to_be_bytes()),
        attribute(3, &destination.port().to_be_bytes()),
    ];
    let tuple = [
        attribute(1 | NESTED, &addresses),
        attribute(2 | NESTED, &protocol.concat()),
    ];
    attribute(1 | NESTED, &tuple.concat())
}

/// Type and body of each message of a datagram.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some(([a, b, c, d], [kind, more, ..])) = bytes
        .split_first_chunk::<4>()
        .and_then(|(length, rest)| Some((*length, *rest.first_chunk::<2>()?)))
    {
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(HEADER..length) else {
            break;
        };
        found.push((u16::from_ne_bytes([kind, more]), body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Kind, without flags, and payload of each attribute.
fn attributes(mut bytes: &[u8]) -> BTreeMap<u16, &[u8]> {
    let mut found = BTreeMap::new();
    while let Some([a, b, c, d]) = bytes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let Some(payload) = bytes.get(4..length) else {
            break;
        };
        // The two highest bits are flags.
        found.insert(u16::from_ne_bytes([*c, *d]) & 0x3fff, payload);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn flow(bytes: &[u8]) -> Option<Flow> {
    let all = attributes(bytes);
    let (source, destination) = tuple(all.get(&1)?)?;
    let (endpoint, _) = tuple(all.get(&2)?)?;
    Some(Flow {
        source,
        destination,
        endpoint,
    })
}

/// Source and destination of a UDP tuple.
fn tuple(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let parts = attributes(bytes);
    let protocol = attributes(parts.get(&2)?);
    if **protocol.get(&1)? != [UDP] {
        return None;
    }
    let port = |kind: u16| Some(u16::from_be_bytes(*protocol.get(&kind)?.first_chunk()?));
    let addresses = attributes(parts.get(&1)?);
    let address = |v4: u16| {
        let four = || Some(IpAddr::from(Ipv4Addr::from(*addresses.get(&v4)?.first_chunk::<4>()?)));
        let six = || {
            Some(IpAddr::from(Ipv6Addr::from(
                *addresses.get(&(v4 + 2))?.first_chunk::<16>()?,
            )))
        };
        four().or_else(six)
    };
    Some((
        SocketAddr::new(address(1)?, port(2)?),
        SocketAddr::new(address(2)?, port(3)?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(v6: bool) -> Flow {
        let (a, b, c) = if v6 {
            ("[fd77::9]:5000", "[fd77::10]:53", "[fd00:65::2]:5353")
        } else {
            ("192.168.77.9:5000", "192.168.77.10:53", "10.101.0.2:5353")
        };
        Flow {
            source: a.parse().unwrap(),
            destination: b.parse().unwrap(),
            endpoint: c.parse().unwrap(),
        }
    }

    #[test]
    fn an_original_tuple_reads_back() {
        for v6 in [false, true] {
            let flow = sample(v6);
            let bytes = original_tuple(&flow);
            let all = attributes(&bytes);
            assert_eq!(tuple(all[&1]), Some((flow.source, flow.destination)));
        }
    }

    #[test]
    fn only_flows_through_a_service_to_what_is_not_its_endpoint_are_stale() {
        let state = |endpoint: &str| {
            let service = serde_json::json!({
                "metadata": {"namespace": "a", "name": "s"},
                "spec": {"clusterIPs": ["10.96.0.20"], "ports": [{"name": "u", "port": 53, "protocol": "UDP"}]},
            });
            let slice = serde_json::json!({
                "metadata": {"namespace": "a", "name": "s", "labels": {"kubernetes.io/service-name": "s"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [endpoint]}],
                "ports": [{"name": "u", "port": 5353, "protocol": "UDP"}],
            });
            let objects = super::super::state::Objects {
                services: vec![
                    serde_json::from_value::<k8s_openapi::api::core::v1::Service>(service)
                        .unwrap()
                        .into(),
                ],
                slices: vec![
                    serde_json::from_value::<k8s_openapi::api::discovery::v1::EndpointSlice>(slice)
                        .unwrap()
                        .into(),
                ],
                node: None,
            };
            super::super::state::build(&objects, "n1", &BTreeSet::new())
        };
        let through = Flow {
            destination: "10.96.0.20:53".parse().unwrap(),
            ..sample(false)
        };
        let flows = [through.clone(), sample(false)];
        assert_eq!(stale(&flows, &state("10.101.0.2")), []);
        assert_eq!(stale(&flows, &state("10.101.0.3")), [through]);
    }

    #[test]
    fn a_datagram_that_is_cut_short_is_read_as_far_as_it_goes() {
        let bytes = [message(GET, REQUEST, 2, &[1, 2, 3, 4]), message(DONE, 0, 0, &[])].concat();
        assert_eq!(messages(&bytes).len(), 2);
        for length in 0..bytes.len() {
            assert!(messages(&bytes[..length]).len() < 2);
        }
    }
}
