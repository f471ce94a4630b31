//! A stream on which one end tells the other what differs from what that knows. Levels on both ends: what is lost with a stream is told again on
//! the next one.
//!
//! Owns when a message is sent, which place it has in its stream, and whether everything has been told once. No I/O and no clock. Must not know:
//! what is told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// When messages are sent and how long they are.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Shortest time between two messages.
    pub spacing: Duration,
    /// Longest time between two messages.
    pub heartbeat: Duration,
    /// What is in a message is not longer than this, unless one thing alone is. Bytes.
    pub message_bytes: usize,
}

/// Where a message stands in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// 1 for the first of a stream, then one more for each.
    pub sequence: u64,
    /// Part of everything that there is to tell.
    pub full: bool,
    /// Of which the rest follows.
    pub more: bool,
}

/// The end that tells.
#[derive(Debug)]
pub struct Sending {
    pace: Pace,
    /// Whether there is anything that could be told.
    is_known: bool,
    stream: Option<Stream>,
}

#[derive(Debug)]
struct Stream {
    sequence: u64,
    /// When the last message was sent.
    sent: Option<Instant>,
    opened: Instant,
    /// Not everything has been told once.
    is_opening: bool,
}

impl Sending {
    /// Without a stream, and before anything is known.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            is_known: false,
            stream: None,
        }
    }

    /// What there is to tell is known from now on; until then, messages say that more is to come.
    pub fn set_known(&mut self) {
        self.is_known = true;
    }

    /// There is a new stream, whose other end knows nothing.
    pub fn connect(&mut self, now: Instant) {
        self.stream = Some(Stream {
            sequence: 0,
            sent: None,
            opened: now,
            is_opening: true,
        });
    }

    /// The stream has ended.
    pub fn disconnect(&mut self) {
        self.stream = None;
    }

    /// How much of a message may be filled. Bytes.
    #[must_use]
    pub fn room(&self) -> usize {
        self.pace.message_bytes
    }

    /// When the next message is due; `None` without a stream. `has_news` is asked whether there is something to tell after a message of that time.
    pub fn due(&self, has_news: impl FnOnce(Instant) -> bool) -> Option<Instant> {
        let stream = self.stream.as_ref()?;
        let Some(sent) = stream.sent else {
            return Some(stream.opened);
        };
        let pause = if (stream.is_opening && self.is_known) || has_news(sent) {
            self.pace.spacing
        } else {
            self.pace.heartbeat
        };
        sent.checked_add(pause)
    }

    /// A message is sent now, after which something is left to tell or not. Where it stands; `None` without a stream.
    pub fn send(&mut self, has_rest: bool, now: Instant) -> Option<Place> {
        let stream = self.stream.as_mut()?;
        stream.sequence += 1;
        stream.sent = Some(now);
        let full = stream.is_opening;
        stream.is_opening = full && (has_rest || !self.is_known);
        Some(Place {
            sequence: stream.sequence,
            full,
            more: stream.is_opening,
        })
    }
}

/// The end that is told.
#[derive(Clone, Debug, Default)]
pub struct Receiving {
    sequence: u64,
    is_complete: bool,
}

/// A message that is not the next one: the stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfPlace {
    /// A message is missing, or came twice.
    #[error("message {got} came where message {expected} was to come")]
    Sequence {
        /// The number that was to come.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// The first message does not begin to tell everything.
    #[error("the first message of a stream is not a full one")]
    NotFull,
}

impl OutOfPlace {
    /// A fixed word for each variant, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Sequence { .. } => "sequence",
            Self::NotFull => "not_full",
        }
    }
}

impl Receiving {
    /// Whether this is the message that was to come.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self, place: Place) -> Result<(), OutOfPlace> {
        let expected = self.sequence + 1;
        if place.sequence != expected {
            return Err(OutOfPlace::Sequence {
                expected,
                got: place.sequence,
            });
        }
        if self.sequence == 0 && !place.full {
            return Err(OutOfPlace::NotFull);
        }
        Ok(())
    }

    /// The message has been taken in. Whether with it everything has been told for the first time.
    pub fn taken(&mut self, place: Place) -> bool {
        self.sequence = place.sequence;
        let completes = !place.more && !self.is_complete;
        self.is_complete |= completes;
        completes
    }

    /// Messages that have been taken in.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether everything has been told once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }
}

/// Keys of what only one of the two has, or each has otherwise.
pub fn differing<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let other = after.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    gone.chain(other.map(|(key, _)| key))
}
