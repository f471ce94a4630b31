//! Whether a control plane is asked who announces addresses. Most know nothing of that; one that ends the stream over the question is not asked
//! again for a while, so that it can go on configuring. Pure; time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Streams in a row that may end with the question unanswered: managers die and are restarted, too.
const UNANSWERED: u32 = 2;
/// Longest time from the question to the end of the stream that is held against the question.
const AT_ONCE: Duration = Duration::from_secs(5);
/// After this the question is put again.
const AGAIN: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
struct Manager {
    asked: Option<Instant>,
    unanswered: u32,
    last: Option<Instant>,
}

/// See the module. Managers go by their number.
#[derive(Debug, Default)]
pub(super) struct Asking {
    managers: BTreeMap<usize, Manager>,
}

impl Asking {
    /// Whether to ask on this stream now. Once for each stream counts.
    pub(super) fn may_ask(&mut self, manager: usize, now: Instant) -> bool {
        let manager = self.managers.entry(manager).or_default();
        if manager.last.is_some_and(|last| now.duration_since(last) >= AGAIN) {
            (manager.unanswered, manager.last) = (0, None);
        }
        let may = manager.unanswered < UNANSWERED;
        if may {
            manager.asked.get_or_insert(now);
        }
        may
    }

    /// It has answered.
    pub(super) fn answered(&mut self, manager: usize) {
        self.managers.insert(manager, Manager::default());
    }

    /// The stream has ended.
    pub(super) fn ended(&mut self, manager: usize, now: Instant) {
        let Some(manager) = self.managers.get_mut(&manager) else {
            return;
        };
        if let Some(asked) = manager.asked.take()
            && now.duration_since(asked) <= AT_ONCE
        {
            manager.unanswered += 1;
            manager.last = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_ends_streams_is_not_put_again_for_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut asking = Asking::default();
        for turn in 0..2 {
            assert!(asking.may_ask(0, at(turn)) && asking.may_ask(0, at(turn)));
            asking.ended(0, at(turn));
        }
        assert!(!asking.may_ask(0, at(10)));
        asking.ended(0, at(10));
        assert!(asking.may_ask(1, at(10)), "of another manager nothing is known");
        assert!(asking.may_ask(0, at(700)));
        asking.answered(0);
        asking.ended(0, at(700));
        assert!(asking.may_ask(0, at(701)));
        asking.ended(0, at(900));
        assert!(asking.may_ask(0, at(901)), "it had listened for long");
    }
}
