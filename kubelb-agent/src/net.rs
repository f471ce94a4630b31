//! Next hops: which interface, MAC addresses and MTU a packet to each wanted destination leaves with.
//!
//! Owns what the agent knows of links, routes and neighbours. [`state`] decides and is pure; [`wire`] translates
//! netlink messages; [`socket`] and this file do the I/O. Must not know frontends, backends or eBPF maps: it is told a
//! set of addresses and answers with a [`NextHopView`].

pub mod socket;
pub mod stack;
pub mod state;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use kubelb_runtime::or_never::or_never;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::model::NextHop;
use socket::{EventSocket, Events, RequestSocket};
use state::{Event, NextHops};

/// Events that arrive this long after the first one are answered together with it.
const COALESCE: Duration = Duration::from_millis(10);
/// Netlink datagrams taken in one such window: a storm delays the answer, it does not postpone it for ever.
const MAX_DATAGRAMS_PER_WINDOW: usize = 1_024;
/// Routes asked, and neighbours kicked, in one datagram. Their answers fit the default receive buffer (212,992 bytes).
const BATCH: usize = 32;

/// What the data path needs to know about the way to each wanted destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHopView {
    /// Destinations that leave through an Ethernet-like link. A hop whose neighbour is still unresolved is listed with
    /// `neighbour_mac: None`.
    pub hops: BTreeMap<IpAddr, NextHop>,
    /// Destinations that don't, and why.
    pub unroutable: BTreeMap<IpAddr, NoHop>,
    /// Links of this network namespace by interface index.
    pub links: BTreeMap<u32, Link>,
    /// Rises with every change that could make a next hop wrong that the data path holds, also of destinations that
    /// are not in `hops` (clients). It does not rise when a neighbour moves between states with the same MAC.
    pub revision: u64,
    /// What was lost or not understood since the start.
    pub counters: Counters,
}

impl NextHopView {
    /// Whether every one of `wanted` has been looked up. Until then a destination that is in neither list is not without
    /// a route: nothing is known of it yet, and what the data path has of it had better stay.
    #[must_use]
    pub fn covers(&self, wanted: &BTreeSet<IpAddr>) -> bool {
        let known = |address| self.hops.contains_key(address) || self.unroutable.contains_key(address);
        // More are never looked up, see `Counters::untracked_destinations`.
        wanted.iter().take(state::MAX_WANTED).all(known)
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Name, unique in the namespace at any one time.
    pub name: String,
    /// `None` for links without Ethernet addresses (tunnels).
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Administratively up and with carrier.
    pub up: bool,
}

/// Why a destination has no next hop that the data path could use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum NoHop {
    /// An address of this node, or of its loopback.
    Local,
    /// No route matches.
    NoRoute,
    /// A route says unreachable.
    Unreachable,
    /// A route says blackhole.
    Blackhole,
    /// A route says prohibited.
    Prohibited,
    /// A broadcast, multicast or anycast address.
    NotUnicast,
    /// The route adds an encapsulation (tunnel, MPLS, segment routing), which only the kernel's own stack does.
    Encapsulated,
    /// The outgoing link has no Ethernet header, so there is nothing to rewrite.
    NoLinkLayer,
    /// The outgoing link is not (or no longer) known.
    UnknownLink,
    /// The kernel refused the question with this errno.
    Refused(i32),
}

/// What was lost or not understood; each also causes a full re-read, or errs towards raising the revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Times the kernel's event queue overflowed and everything was listed again.
    pub overflows: u64,
    /// Messages that could not be decoded.
    pub undecoded: u64,
    /// Neighbours left out because the table was full.
    pub untracked_neighbours: u64,
    /// Destinations left out because too many were wanted.
    pub untracked_destinations: u64,
}

/// Why next hops can no longer be followed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// A multicast group could not be joined.
    #[error("cannot join netlink group {group}")]
    Join {
        /// RTNLGRP number.
        group: u32,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A request could not be sent.
    #[error("cannot send a netlink request")]
    Send(#[source] io::Error),
    /// Reading failed for another reason than an overflow.
    #[error("cannot read from netlink")]
    Receive(#[source] io::Error),
    /// The kernel did not answer a request.
    #[error("the kernel did not answer a netlink request within {0:?}")]
    Silent(Duration),
    /// A table could not be listed.
    #[error("the kernel refused to list {table}")]
    List {
        /// What was listed.
        table: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Follows the next hops of the `wanted` addresses until `shutdown`, or until every sender of `wanted` is gone.
///
/// Works in the network namespace of the thread that first polls it. The first view is published once every wanted
/// destination has been looked up; neighbours may still be unresolved then.
///
/// # Errors
/// When netlink can't be used at all. Overflows, refused questions and odd messages are counted in the view.
pub async fn run(
    mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
    out: watch::Sender<NextHopView>,
    shutdown: CancellationToken,
) -> Result<(), NetError> {
    let mut events = EventSocket::open()?;
    let mut requests = RequestSocket::open()?;
    let mut state = NextHops::default();
    state.set_wanted(&wanted.borrow_and_update());
    let mut list_again = true;
    loop {
        if list_again {
            list(&mut requests, &mut state).await?;
        }
        settle(&mut requests, &mut state).await?;
        publish(&state, &out);
        let wake = state
            .poll_timeout()
            .map(|at| tokio::time::sleep_until(tokio::time::Instant::from_std(at)));
        list_again = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = wanted.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                state.set_wanted(&wanted.borrow_and_update());
                false
            }
            first = events.receive() => gather(&mut events, first?, &mut state).await?,
            () = or_never(wake) => false,
        };
    }
}

/// Reads links and neighbours whole and has every route asked again.
async fn list(requests: &mut RequestSocket, state: &mut NextHops) -> Result<(), NetError> {
    let links = requests.links().await?;
    state.count_undecoded(links.undecoded);
    state.reset_links(links.found);
    let neighbours = requests.neighbours().await?;
    state.count_undecoded(neighbours.undecoded);
    state.reset_neighbours(neighbours.found);
    state.apply(Event::Everything);
    Ok(())
}

/// Asks the routes that are in question and kicks the neighbours whose time has come.
async fn settle(requests: &mut RequestSocket, state: &mut NextHops) -> Result<(), NetError> {
    loop {
        let questions = state.questions(BATCH);
        if questions.is_empty() {
            break;
        }
        for (address, answer) in requests.routes(&questions).await? {
            state.answer(address, answer);
        }
    }
    loop {
        let kicks = state.take_kicks(now(), BATCH);
        if kicks.is_empty() {
            return Ok(());
        }
        requests.kick(&kicks).await?;
    }
}

/// Applies `first` and what follows within the window; says whether everything must be listed again.
async fn gather(events: &mut EventSocket, first: Events, state: &mut NextHops) -> Result<bool, NetError> {
    let deadline = tokio::time::Instant::now() + COALESCE;
    let mut overflow = absorb(first, state);
    for _ in 1..MAX_DATAGRAMS_PER_WINDOW {
        match tokio::time::timeout_at(deadline, events.receive()).await {
            Ok(more) => overflow |= absorb(more?, state),
            Err(_elapsed) => break,
        }
    }
    Ok(overflow)
}

fn absorb(events: Events, state: &mut NextHops) -> bool {
    match events {
        Events::Overflow => {
            state.count_overflow();
            true
        }
        Events::Some { events, undecoded } => {
            state.count_undecoded(undecoded);
            for event in events {
                state.apply(event);
            }
            false
        }
    }
}

fn publish(state: &NextHops, out: &watch::Sender<NextHopView>) {
    let view = state.view();
    out.send_if_modified(|old| {
        let changed = *old != view;
        if changed {
            *old = view;
        }
        changed
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one clock of this task; the state takes time as an argument"
)]
fn now() -> Instant {
    Instant::now()
}
