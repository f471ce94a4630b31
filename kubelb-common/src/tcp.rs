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
    /// The client acknowledged the backend's SYN.
    pub const ESTABLISHED: u32 = 1 << 1;
    /// FIN from the client.
    pub const CLIENT_FIN: u32 = 1 << 2;
    /// FIN from the backend.
    pub const BACKEND_FIN: u32 = 1 << 3;
    /// RST from either.
    pub const RESET: u32 = 1 << 4;
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
