//! Says to all on a link that an address is here, several times over: hosts that miss the first hear a later one. A task of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use kubelb_runtime::or_never::or_never;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Place, frames};

/// When each address is announced, counted from its takeover.
const AFTER: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(150),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// What is later than this is not said any more: of an agent that was stopped, the address may be another machine's by now.
const LATE: Duration = Duration::from_secs(1);
/// Frames sent in a row, and the pause after them: some tens of thousands a second.
const BURST: (usize, Duration) = (128, Duration::from_millis(2));

/// What is to be said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speech {
    /// By place: MAC address, and the number of the takeover. Another number, and it is said (again).
    pub announced: BTreeMap<Place, ([u8; 6], u64)>,
}

impl Speech {
    /// Takes over what a plan says: what is not `answered` any more is not announced either.
    pub fn follow(&mut self, announce: &BTreeMap<Place, [u8; 6]>, answered: &BTreeSet<Place>) {
        self.announced.retain(|place, _| answered.contains(place));
        for (place, mac) in announce {
            let entry = self.announced.entry(*place).or_insert((*mac, 0));
            *entry = (*mac, entry.1 + 1);
        }
    }
}

/// One address that is being announced.
#[derive(Clone, Copy, Debug)]
struct Turn {
    mac: [u8; 6],
    number: u64,
    since: Instant,
    /// Index into [`AFTER`] of the next time.
    next: usize,
}

impl Turn {
    fn due(&self) -> Option<Instant> {
        AFTER.get(self.next).map(|after| self.since + *after)
    }
}

/// Which announcements are due. Pure; time is an argument.
#[derive(Debug, Default)]
struct Schedule {
    turns: BTreeMap<Place, Turn>,
}

impl Schedule {
    fn follow(&mut self, speech: &Speech, now: Instant) {
        self.turns.retain(|place, _| speech.announced.contains_key(place));
        for (place, (mac, number)) in &speech.announced {
            if self.turns.get(place).is_none_or(|turn| turn.number != *number) {
                let turn = Turn {
                    mac: *mac,
                    number: *number,
                    since: now,
                    next: 0,
                };
                self.turns.insert(*place, turn);
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.turns.values().filter_map(Turn::due).min()
    }

    /// What is to be said now. Times that were missed by a little are made good by one announcement.
    fn take_due(&mut self, now: Instant) -> Vec<(Place, [u8; 6])> {
        let mut due = Vec::new();
        for (place, turn) in &mut self.turns {
            let mut is_due = false;
            while let Some(at) = turn.due().filter(|at| *at <= now) {
                is_due |= now.duration_since(at) <= LATE;
                turn.next += 1;
            }
            if is_due {
                due.push((*place, turn.mac));
            }
        }
        due
    }
}

/// Announces what `speech` has, until its sender is gone. `answers` is asked right before: whoever was stopped meanwhile may have lost the address.
pub async fn run(mut speech: watch::Receiver<Speech>, answers: impl Fn(Place) -> bool + Send + Sync) {
    let mut schedule = Schedule::default();
    let mut complained = false;
    loop {
        schedule.follow(&speech.borrow_and_update(), now());
        let mut due = schedule.take_due(now());
        due.retain(|(place, _)| answers(*place));
        if !due.is_empty() {
            match say(&due).await {
                Ok(()) => complained = false,
                Err(error) if !std::mem::replace(&mut complained, true) => {
                    tracing::warn!("addresses are not announced as they should be; they are answered for: {error}");
                }
                Err(_) => {}
            }
        }
        let next = schedule.poll_timeout();
        tokio::select! {
            changed = speech.changed() => if changed.is_err() {
                return;
            },
            () = or_never(next.map(sleep_until)) => {}
        }
    }
}

/// Sends them all; the first error is what is said of those that could not be sent.
async fn say(due: &[(Place, [u8; 6])]) -> io::Result<()> {
    let socket = open()?;
    let links = links()?;
    let mut result = Ok(());
    for burst in due.chunks(BURST.0) {
        for ((address, index), mac) in burst {
            let sent = send(&socket, &links, *index, *address, *mac);
            if result.is_ok() {
                result = sent;
            }
        }
        if due.len() > BURST.0 {
            sleep(BURST.1).await;
        }
    }
    result
}

/// Protocol 0: it receives nothing (packet(7)).
fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Packet, SockType::Raw, flags, None)?)
}

/// Where to send to, by interface index.
fn links() -> io::Result<BTreeMap<u32, LinkAddr>> {
    let addresses = getifaddrs()?;
    let links = addresses.filter_map(|one| one.address?.as_link_addr().copied());
    Ok(links
        .filter_map(|link| Some((u32::try_from(link.ifindex()).ok()?, link)))
        .collect())
}

fn send(
    socket: &OwnedFd,
    links: &BTreeMap<u32, LinkAddr>,
    index: u32,
    address: IpAddr,
    mac: [u8; 6],
) -> io::Result<()> {
    let link = links
        .get(&index)
        .ok_or_else(|| io::Error::other("the interface is gone"))?;
    let frame = frames::announcement(address, mac);
    sendto(socket.as_raw_fd(), &frame, link, MsgFlags::empty())?;
    Ok(())
}

fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn place(last: u8) -> Place {
        (IpAddr::from([203, 0, 113, last]), 2)
    }

    #[test]
    fn a_takeover_is_said_again_until_it_is_known_and_no_longer_than_it_lasts() {
        let start = now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut speech = Speech::default();
        speech.follow(&[(place(1), MAC), (place(2), MAC)].into(), &[place(1), place(2)].into());
        let mut schedule = Schedule::default();
        schedule.follow(&speech, start);
        assert_eq!(schedule.take_due(start).len(), 2);
        assert_eq!(schedule.poll_timeout(), Some(at(150)));
        assert!(schedule.take_due(at(149)).is_empty());
        assert_eq!(schedule.take_due(at(1_100)).len(), 2, "once, for all that was missed");
        assert_eq!(schedule.poll_timeout(), Some(at(2_000)));

        // One is another machine's now; the other is taken over anew.
        speech.follow(&[(place(2), MAC)].into(), &[place(2)].into());
        schedule.follow(&speech, at(1_200));
        assert_eq!(schedule.take_due(at(1_200)), [(place(2), MAC)]);
        schedule.follow(&speech, at(1_300));
        let said = (1_300..10_000).filter(|millis| !schedule.take_due(at(*millis)).is_empty());
        assert_eq!(said.count(), AFTER.len() - 1);
        assert_eq!(schedule.poll_timeout(), None);

        speech.follow(&[(place(3), MAC)].into(), &[place(3)].into());
        schedule.follow(&speech, at(20_000));
        assert_eq!(schedule.take_due(at(20_000)).len(), 1);
        assert!(schedule.take_due(at(99_000)).is_empty(), "it was stopped for long");
    }
}
