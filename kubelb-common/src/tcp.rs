//! TCP as a load balancer that owns neither end must see it: which side said what, and how long to remember.
//!
//! Windows and sequence numbers are not checked: a box in the middle that guesses wrong cuts live connections.

use crate::frontend::timeout;

/// FIN flag (RFC 9293 §3.1).
pub const FIN: u8 = 0x01;
/// SYN flag.
pub const SYN: u8 = 0x02;
/// RST flag.
pub const RST: u8 = 0x04;
/// ACK flag.
pub const ACK: u8 = 0x10;

/// State bits; they are only ever added during a flow's life, so that two CPUs can add theirs at the same time.
pub mod state {
    /// The backend answered (TCP: SYN-ACK; UDP: any datagram).
    pub const ANSWERED: u32 = 1;
    /// The client acknowledged the backend's SYN, by its own packet or by what the backend said next.
    pub const ESTABLISHED: u32 = 1 << 1;
    /// FIN from the client.
    pub const CLIENT_FIN: u32 = 1 << 2;
    /// FIN from the backend.
    pub const BACKEND_FIN: u32 = 1 << 3;
    /// RST from either.
    pub const RESET: u32 = 1 << 4;
    /// The record is given up: nothing that comes now changes a count.
    pub const ENDED: u32 = 1 << 7;
    /// All of them; what is above is [`crate::flow::Flow::expect`]'s.
    pub const BITS: u32 = 0xff;
}

/// Which way a segment travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to backend.
    Forward,
    /// Backend to client.
    Reply,
}

/// The state after a segment with `flags`.
#[inline(always)]
#[must_use]
pub const fn step(old: u32, flags: u8, direction: Direction) -> u32 {
    let mut new = old;
    if flags & RST != 0 {
        return new | state::RESET;
    }
    match direction {
        Direction::Forward => {
            if flags & ACK != 0 && flags & SYN == 0 && old & state::ANSWERED != 0 {
                new |= state::ESTABLISHED;
            }
            if flags & FIN != 0 {
                new |= state::CLIENT_FIN;
            }
        }
        Direction::Reply => {
            if flags & ACK != 0 {
                new |= state::ANSWERED;
            }
            if flags & FIN != 0 {
                new |= state::BACKEND_FIN;
            }
        }
    }
    new
}

/// True while nobody has shown that the client hears the backend. A RST changes nothing here: such a flow keeps its place in the
/// table for a while, and whoever floods can send a RST behind each SYN.
#[inline(always)]
#[must_use]
pub const fn is_half_open(state: u32) -> bool {
    state & (state::ESTABLISHED | state::ENDED) == 0
}

/// How far the acknowledgement that completes a handshake may be ahead of the backend's SYN: data that the backend sent at once
/// (RFC 7413).
const AHEAD: u32 = 1 << 16;

/// True when a client that acknowledges this, in host byte order, has heard the backend's SYN, as far as 24 bits of the number tell:
/// one of 256 that is made up passes. `state` is the whole word of the record.
#[inline(always)]
#[must_use]
pub const fn acknowledges(state: u32, acknowledgement: u32) -> bool {
    let expected = state >> 8;
    expected == 0 || acknowledgement.wrapping_sub(expected) & 0xff_ffff < AHEAD
}

/// True when a SYN of the client on such a flow opens a new connection: both sides have finished, or one gave up.
#[inline(always)]
#[must_use]
pub const fn reopens(state: u32) -> bool {
    state & state::RESET != 0
        || state & (state::CLIENT_FIN | state::BACKEND_FIN) == state::CLIENT_FIN | state::BACKEND_FIN
}

/// Class of idle timeout, an index of [`crate::frontend::timeout`].
#[inline(always)]
#[must_use]
pub const fn timeout_class(state: u32, udp: bool) -> usize {
    if udp {
        if state & state::ANSWERED != 0 {
            timeout::UDP_REPLIED
        } else {
            timeout::UDP_UNREPLIED
        }
    } else if reopens(state) {
        timeout::TCP_CLOSING
    } else if state & state::ESTABLISHED != 0 {
        timeout::TCP_ESTABLISHED
    } else {
        timeout::TCP_HALF_OPEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(segments: &[(Direction, u8)]) -> u32 {
        segments
            .iter()
            .fold(0, |state, (direction, flags)| step(state, *flags, *direction))
    }

    #[test]
    fn handshake_then_both_fins() {
        use Direction::{Forward, Reply};
        assert_eq!(timeout_class(run(&[(Forward, SYN)]), false), timeout::TCP_HALF_OPEN);
        assert_eq!(
            timeout_class(run(&[(Forward, SYN), (Reply, SYN | ACK)]), false),
            timeout::TCP_HALF_OPEN
        );
        let open = [(Forward, SYN), (Reply, SYN | ACK), (Forward, ACK)];
        assert_eq!(timeout_class(run(&open), false), timeout::TCP_ESTABLISHED);
        let half = run(&[open[0], open[1], open[2], (Forward, FIN | ACK)]);
        assert_eq!(
            timeout_class(half, false),
            timeout::TCP_ESTABLISHED,
            "half-closed connections stay usable"
        );
        assert!(!reopens(half));
        let closed = step(half, FIN | ACK, Reply);
        assert_eq!(timeout_class(closed, false), timeout::TCP_CLOSING);
        assert!(reopens(closed));
    }

    #[test]
    fn only_what_follows_the_backends_syn_acknowledges_it() {
        let state = 0x34_5678 << 8 | state::ANSWERED;
        assert!(acknowledges(state, 0x1234_5678));
        assert!(acknowledges(state, 0x1235_5677));
        for wrong in [0x1234_5677, 0x1235_5678, 0, 0x12b4_5678] {
            assert!(!acknowledges(state, wrong), "{wrong:#x}");
        }
        assert!(acknowledges(0xff_fff0 << 8, 0x1200_0010), "around the end");
        assert!(acknowledges(state::ANSWERED, 7), "a record of an earlier version");
    }

    #[test]
    fn a_reset_shortens_and_an_ack_without_answer_does_not_establish() {
        use Direction::{Forward, Reply};
        assert_eq!(
            timeout_class(run(&[(Forward, SYN), (Forward, ACK)]), false),
            timeout::TCP_HALF_OPEN
        );
        assert_eq!(
            timeout_class(run(&[(Forward, SYN), (Reply, RST | ACK)]), false),
            timeout::TCP_CLOSING
        );
    }
}
