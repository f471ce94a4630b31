//! The two netlink sockets: one that listens to changes, one that asks.
//!
//! Owns framing, sequence numbers, time limits and overflow detection. Everything is awaited in one task and read into
//! one buffer per socket: there is no queue but the kernel's. Keeps no picture of the network.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate's enums are non-exhaustive: they grow with the kernel"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tracing::{debug, warn};

use super::stack::StackAddress;
use super::state::{Event, Neighbour, NeighbourKey, RouteAnswer};
use super::{Link, NetError, NoHop, wire};

/// The kernel answers requests while they are being sent; a dump takes a few reads.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Larger than any datagram the kernel builds for a dump (32 KiB, `NLMSG_GOODSIZE` and `netlink_dump`).
const READ_BUFFER: usize = 64 * 1024;
/// Room for bursts of events, in bytes; the kernel doubles it for its own book-keeping.
const EVENT_QUEUE: usize = 1024 * 1024;
/// A dump that was cut short by a change is repeated so often; after that the events that follow must do.
const DUMP_TRIES: usize = 3;
/// `NLM_F_DUMP_INTR`: the table changed during the dump.
const DUMP_INTERRUPTED: u16 = 0x10;

/// `RTNLGRP_*` (linux/rtnetlink.h) of everything that can change a next hop.
const GROUPS: [u32; 9] = [
    1,  // LINK
    3,  // NEIGH
    5,  // IPV4_IFADDR
    7,  // IPV4_ROUTE
    8,  // IPV4_RULE
    9,  // IPV6_IFADDR
    11, // IPV6_ROUTE
    19, // IPV6_RULE
    32, // NEXTHOP
];

/// What one read of the event socket gave.
#[derive(Debug)]
pub enum Events {
    /// The kernel dropped events: everything must be listed again.
    Overflow,
    /// Events in order.
    Some {
        /// Those that mean something.
        events: Vec<Event>,
        /// Messages that could not be understood; each is in `events` as [`Event::Everything`].
        undecoded: u64,
    },
}

/// A listing of a table.
#[derive(Debug)]
pub struct Listing<T> {
    /// The rows.
    pub found: Vec<T>,
    /// Rows that could not be understood.
    pub undecoded: u64,
}

/// Receives changes.
pub struct EventSocket {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl EventSocket {
    /// Opens a socket in the network namespace of the calling thread and subscribes it.
    ///
    /// # Errors
    /// When netlink refuses.
    pub fn open() -> Result<Self, NetError> {
        let mut socket = open()?;
        // Allowed up to net.core.rmem_max for anyone; what is not granted costs an overflow earlier, nothing else.
        if let Err(error) = socket.socket_ref().set_rx_buf_sz(EVENT_QUEUE) {
            debug!(%error, "the netlink event queue stays at its default size");
        }
        for group in GROUPS {
            socket
                .socket_mut()
                .add_membership(group)
                .map_err(|source| NetError::Join { group, source })?;
        }
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(READ_BUFFER),
        })
    }

    /// Waits for the next datagram. Cancel safe.
    ///
    /// # Errors
    /// When reading fails for another reason than an overflow.
    pub async fn receive(&mut self) -> Result<Events, NetError> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer).await {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Events::Overflow),
            Err(error) => return Err(NetError::Receive(error)),
        }
        let mut events = Vec::new();
        let mut undecoded = 0;
        for frame in frames(&self.buffer) {
            match decode(frame) {
                Ok(message) => match message.payload {
                    NetlinkPayload::InnerMessage(inner) => events.extend(wire::event(&inner)),
                    NetlinkPayload::Overrun(_) => return Ok(Events::Overflow),
                    _ => {}
                },
                // Nexthop objects, which the decoder does not know, come here too.
                Err(_why) if message_type(frame).is_some_and(is_nexthop_object) => events.push(Event::Everything),
                Err(error) => {
                    warn!(%error, "a netlink event could not be decoded");
                    undecoded += 1;
                    events.push(Event::Everything);
                }
            }
        }
        Ok(Events::Some { events, undecoded })
    }
}

/// Asks questions, one batch at a time.
pub struct RequestSocket {
    socket: TokioSocket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl RequestSocket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When netlink refuses.
    pub fn open() -> Result<Self, NetError> {
        let mut socket = open()?;
        socket
            .socket_mut()
            .connect(&SocketAddr::new(0, 0))
            .map_err(NetError::Open)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(READ_BUFFER),
            sequence: 0,
        })
    }

    /// All links.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub async fn links(&mut self) -> Result<Listing<(u32, Link)>, NetError> {
        self.list("links", wire::list_links, |message| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                wire::link(message)
            } else {
                None
            }
        })
        .await
    }

    /// All neighbours of both families.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub async fn neighbours(&mut self) -> Result<Listing<(NeighbourKey, Neighbour)>, NetError> {
        self.list("neighbours", wire::list_neighbours, |message| {
            if let RouteNetlinkMessage::NewNeighbour(message) = message {
                wire::neighbour(message)
            } else {
                None
            }
        })
        .await
    }

    /// The kernel's answers for `addresses`, in any order. An answer that got lost or was not understood is
    /// [`NoHop::Refused`] with `EPROTO`.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub async fn routes(&mut self, addresses: &[IpAddr]) -> Result<Vec<(IpAddr, RouteAnswer)>, NetError> {
        let messages = addresses.iter().map(|address| wire::route_question(*address)).collect();
        let sequences = self.send(messages).await?;
        let mut open: BTreeMap<u32, IpAddr> = sequences.into_iter().zip(addresses.iter().copied()).collect();
        let mut answers = Vec::with_capacity(addresses.len());
        self.until_answered(&mut open, |address, payload| {
            let answer = match payload {
                Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))) => wire::route_answer(&route),
                Some(NetlinkPayload::Error(error)) => {
                    RouteAnswer::Nowhere(wire::route_refusal(error.raw_code().saturating_abs()))
                }
                _ => RouteAnswer::Nowhere(NoHop::Refused(libc::EPROTO)),
            };
            answers.push((address, answer));
        })
        .await?;
        Ok(answers)
    }

    /// Has the kernel resolve or confirm `neighbours`. What it refuses (the link went down meanwhile) is only logged:
    /// the pace of the state brings it up again.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub async fn kick(&mut self, neighbours: &[NeighbourKey]) -> Result<(), NetError> {
        let messages = neighbours.iter().map(|key| wire::kick(*key)).collect();
        let sequences = self.send(messages).await?;
        let mut open: BTreeMap<u32, NeighbourKey> = sequences.into_iter().zip(neighbours.iter().copied()).collect();
        self.until_answered(&mut open, |(ifindex, address), payload| {
            if let Some(NetlinkPayload::Error(error)) = payload
                && error.raw_code() != 0
            {
                debug!(ifindex, %address, error = %error.to_io(), "the kernel would not look for a neighbour");
            }
        })
        .await
    }

    /// Addresses that this agent has given interfaces.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub async fn own_addresses(&mut self) -> Result<Listing<StackAddress>, NetError> {
        self.list("addresses", wire::list_addresses, |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message {
                wire::own_address(message)
            } else {
                None
            }
        })
        .await
    }

    /// Adds (`true`) or removes addresses; those that the kernel refused, and why.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub async fn change_addresses(
        &mut self,
        changes: &[(StackAddress, bool)],
    ) -> Result<Vec<(StackAddress, io::Error)>, NetError> {
        let message = |(address, add): &(StackAddress, bool)| {
            if *add {
                wire::add_address(*address)
            } else {
                wire::remove_address(*address)
            }
        };
        let sequences = self.send(changes.iter().map(message).collect()).await?;
        let addresses = changes.iter().map(|(address, _)| *address);
        let mut open: BTreeMap<u32, StackAddress> = sequences.into_iter().zip(addresses).collect();
        let mut refused = Vec::new();
        self.until_answered(&mut open, |address, payload| match payload {
            Some(NetlinkPayload::Error(error)) if error.raw_code() == 0 => {}
            Some(NetlinkPayload::Error(error)) => refused.push((address, error.to_io())),
            _ => refused.push((address, io::Error::other("the kernel's answer was not understood"))),
        })
        .await?;
        Ok(refused)
    }

    /// Sends `messages` in one datagram and returns their sequence numbers.
    async fn send(&mut self, messages: Vec<NetlinkMessage<RouteNetlinkMessage>>) -> Result<Vec<u32>, NetError> {
        let mut bytes = Vec::new();
        let mut sequences = Vec::with_capacity(messages.len());
        for mut message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.header.sequence_number = self.sequence;
            sequences.push(self.sequence);
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            if let Some(room) = bytes.get_mut(start..) {
                message.serialize(room);
            }
        }
        self.socket.send(&bytes).await.map_err(NetError::Send)?;
        Ok(sequences)
    }

    /// Reads until every one of `open` is answered; hands on the payload, or `None` for one that could not be decoded.
    /// What is lost to an overflow is handed on as `None` as well.
    async fn until_answered<K>(
        &mut self,
        open: &mut BTreeMap<u32, K>,
        mut answered: impl FnMut(K, Option<NetlinkPayload<RouteNetlinkMessage>>),
    ) -> Result<(), NetError> {
        while !open.is_empty() {
            if !self.read().await? {
                while let Some((_, key)) = open.pop_first() {
                    answered(key, None);
                }
                return Ok(());
            }
            for frame in frames(&self.buffer) {
                let Some(key) = sequence_of(frame).and_then(|sequence| open.remove(&sequence)) else {
                    continue;
                };
                answered(key, decode(frame).ok().map(|message| message.payload));
            }
        }
        Ok(())
    }

    async fn list<T>(
        &mut self,
        table: &'static str,
        question: fn() -> NetlinkMessage<RouteNetlinkMessage>,
        row: impl Fn(&RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Listing<T>, NetError> {
        let mut listing = Listing {
            found: Vec::new(),
            undecoded: 0,
        };
        for _ in 0..DUMP_TRIES {
            listing.found.clear();
            listing.undecoded = 0;
            self.send(vec![question()]).await?;
            if self.read_dump(table, &row, &mut listing).await? {
                break;
            }
        }
        Ok(listing)
    }

    /// True when the dump is complete and was not interrupted by a change.
    async fn read_dump<T>(
        &mut self,
        table: &'static str,
        row: &impl Fn(&RouteNetlinkMessage) -> Option<T>,
        listing: &mut Listing<T>,
    ) -> Result<bool, NetError> {
        let mut whole = true;
        loop {
            if !self.read().await? {
                return Ok(false);
            }
            for frame in frames(&self.buffer) {
                if sequence_of(frame) != Some(self.sequence) {
                    continue;
                }
                let message = match decode(frame) {
                    Ok(message) => message,
                    Err(error) => {
                        warn!(%error, table, "a row could not be decoded");
                        listing.undecoded += 1;
                        continue;
                    }
                };
                whole &= message.header.flags & DUMP_INTERRUPTED == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => listing.found.extend(row(&inner)),
                    NetlinkPayload::Done(_) => return Ok(whole),
                    NetlinkPayload::Error(error) => {
                        let source = error.to_io();
                        return Err(NetError::List { table, source });
                    }
                    _ => {}
                }
            }
        }
    }

    /// Fills the buffer; false on an overflow.
    async fn read(&mut self) -> Result<bool, NetError> {
        self.buffer.clear();
        match tokio::time::timeout(ANSWER_WITHIN, self.socket.recv(&mut self.buffer)).await {
            Err(_elapsed) => Err(NetError::Silent(ANSWER_WITHIN)),
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(false),
            Ok(Err(error)) => Err(NetError::Receive(error)),
        }
    }
}

fn open() -> Result<TokioSocket, NetError> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(NetError::Open)?;
    socket.socket_mut().bind_auto().map_err(NetError::Open)?;
    Ok(socket)
}

fn decode(frame: &[u8]) -> Result<NetlinkMessage<RouteNetlinkMessage>, io::Error> {
    NetlinkMessage::deserialize(frame).map_err(io::Error::other)
}

/// Cuts a datagram into its messages (`struct nlmsghdr`: a length in host byte order first, messages 4-byte aligned).
fn frames(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*datagram.first_chunk()?)).ok()?;
        if length < 16 {
            return None;
        }
        let frame = datagram.get(..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(frame)
    })
}

fn message_type(frame: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*frame.get(4..)?.first_chunk()?))
}

fn sequence_of(frame: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*frame.get(8..)?.first_chunk()?))
}

/// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`.
fn is_nexthop_object(message_type: u16) -> bool {
    matches!(message_type, 104 | 105)
}

#[cfg(test)]
mod tests {
    use super::frames;

    fn message(length: u32, body: usize) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.resize(body, 0xaa);
        bytes
    }

    #[test]
    fn a_datagram_is_cut_at_aligned_lengths() {
        let mut datagram = message(17, 20);
        datagram.extend(message(16, 16));
        let lengths: Vec<usize> = frames(&datagram).map(<[u8]>::len).collect();
        assert_eq!(lengths, [17, 16]);
    }

    #[test]
    fn lengths_that_lie_end_the_datagram() {
        for length in [0, 15, 21, u32::MAX] {
            assert_eq!(frames(&message(length, 20)).count(), 0, "length {length}");
        }
        assert_eq!(frames(&[1, 0]).count(), 0);
    }
}
