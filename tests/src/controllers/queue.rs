//! Work that waits, with the time when it is due: one piece runs at most once at a time, failures wait longer and longer. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// First pause after a failure; doubled each time.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(5);

/// Who does a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    /// Default ServiceAccount and root certificate of a namespace.
    Accounts,
    /// A DaemonSet.
    DaemonSet,
    /// A Deployment.
    Deployment,
    /// A PodDisruptionBudget.
    Disruption,
    /// The EndpointSlices of a Service.
    EndpointSlice,
    /// One object, by uid, and its owners.
    Garbage,
    /// A Job.
    Job,
    /// A namespace that is being deleted.
    Namespace,
    /// A node, and the Pods on it.
    Node,
    /// A ReplicaSet.
    ReplicaSet,
    /// All Pods that wait for a node.
    Scheduler,
    /// A StatefulSet.
    StatefulSet,
    /// A Secret that holds the token of a ServiceAccount.
    Token,
}

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Work {
    /// Who does it.
    pub(super) controller: Controller,
    /// Of the object; empty for objects of the cluster.
    pub(super) namespace: String,
    /// Of the object.
    pub(super) name: String,
}

impl Work {
    /// A piece of work.
    #[must_use]
    pub(super) fn new(controller: Controller, namespace: &str, name: &str) -> Self {
        Self {
            controller,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// What waits and what runs. As many entries as there are objects, at most.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Work, Timestamp>,
    due: BTreeSet<(Timestamp, Work)>,
    /// Value: asked for again meanwhile, and when.
    running: BTreeMap<Work, Option<Timestamp>>,
    failures: BTreeMap<Work, i32>,
}

impl Queue {
    /// Asks for work at a time; what was asked for earlier stays earlier. Work that has failed keeps its pause.
    pub(super) fn add(&mut self, work: Work, at: Timestamp) {
        if let Some(again) = self.running.get_mut(&work) {
            *again = Some(again.map_or(at, |known| known.min(at)));
            return;
        }
        if let Some(known) = self.waiting.get(&work) {
            if *known <= at || self.failures.contains_key(&work) {
                return;
            }
            self.due.remove(&(*known, work.clone()));
        }
        self.waiting.insert(work.clone(), at);
        self.due.insert((at, work));
    }

    /// The next piece that is due, which now runs.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<Work> {
        if self.due.first()?.0 > now {
            return None;
        }
        let (_, work) = self.due.pop_first()?;
        self.waiting.remove(&work);
        self.running.insert(work.clone(), None);
        Some(work)
    }

    /// When the next piece is due.
    #[must_use]
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A piece has run.
    pub(super) fn finished(&mut self, work: Work, succeeded: bool, now: Timestamp) {
        let again = self.running.remove(&work).flatten();
        if succeeded {
            self.failures.remove(&work);
            if let Some(at) = again {
                self.add(work, at);
            }
            return;
        }
        let failures = self.failures.entry(work.clone()).or_default();
        let pause = (FIRST_PAUSE * (1 << (*failures).min(7))).min(LONGEST_PAUSE);
        *failures = failures.saturating_add(1);
        let at = now + pause;
        self.waiting.insert(work.clone(), at);
        self.due.insert((at, work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }

    fn work(name: &str) -> Work {
        Work::new(Controller::Deployment, "n", name)
    }

    #[test]
    fn the_earlier_time_wins() {
        let mut queue = Queue::default();
        queue.add(work("a"), at(50));
        queue.add(work("a"), at(20));
        queue.add(work("a"), at(90));
        assert_eq!(queue.next(), Some(at(20)));
        assert_eq!(queue.take(at(19)), None);
        assert_eq!(queue.take(at(20)), Some(work("a")));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn what_runs_is_not_started_twice_but_runs_again() {
        let mut queue = Queue::default();
        queue.add(work("a"), at(0));
        assert_eq!(queue.take(at(0)), Some(work("a")));
        queue.add(work("a"), at(1));
        assert_eq!(queue.take(at(1)), None);
        queue.finished(work("a"), true, at(2));
        assert_eq!(queue.take(at(2)), Some(work("a")));
        queue.finished(work("a"), true, at(2));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn failures_wait_longer_up_to_a_bound_and_events_do_not_hurry_them() {
        let mut queue = Queue::default();
        let (mut now, mut pauses) = (at(0), Vec::new());
        queue.add(work("a"), now);
        for _ in 0..10 {
            queue.take(now).unwrap();
            queue.finished(work("a"), false, now);
            queue.add(work("a"), now);
            let next = queue.next().unwrap();
            pauses.push(next.duration_since(now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        queue.take(now).unwrap();
        queue.finished(work("a"), true, now);
        queue.add(work("a"), now);
        assert_eq!(queue.next(), Some(now));
    }
}
