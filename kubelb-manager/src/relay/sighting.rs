//! Which nodes are there, by what several managers have heard of their agents, and when.
//!
//! A node is never given up because of a manager: what a manager that has gone was told counts for as long as agents take to find another one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kubelb_xds::contract::relay::NodePresence;

use crate::owners::{Nodes, Standing};

/// A node whose agent ended its stream in good order is about to come back for so long: a restart, or an upgrade.
pub const RESTART: Duration = Duration::from_secs(60);
/// From the last word of a manager: its agents have found another one by then. An agent notices within 1.75 s, and tries the next at once.
pub const RECONNECT: Duration = Duration::from_secs(3);
/// The same from the last renewal of the Lease, for whoever takes it: that is possible after 3 s.
const TAKEOVER: Duration = Duration::from_secs(4);
/// After it has begun to lead, a manager gives those that tell it something at least so long.
const GREETING: Duration = Duration::from_secs(1);
/// What was seen so long before a leader was last heard may have been known to it.
const KNOWN_BEFORE: Duration = Duration::from_secs(1);

/// What somebody knows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// How it was.
    pub how: How,
    /// When that was so last.
    pub at: Instant,
}

/// How a node was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Its agent is heard.
    Heard,
    /// Its agent was heard by a manager that is not there any more.
    Orphaned,
    /// Its agent went in good order.
    Closed,
    /// Its agent was not heard any more.
    Lost,
}

impl Sighting {
    /// By a manager that has said so, and said its last word `at`; `is_gone`: it will not say another.
    #[must_use]
    pub fn relayed(presence: NodePresence, since: Instant, at: Instant, is_gone: bool) -> Self {
        match presence {
            NodePresence::Heard if is_gone => Self { how: How::Orphaned, at },
            NodePresence::Heard => Self { how: How::Heard, at },
            NodePresence::Closed => Self {
                how: How::Closed,
                at: since,
            },
            NodePresence::Silent | NodePresence::Lost | NodePresence::Unspecified => Self {
                how: How::Lost,
                at: since,
            },
        }
    }

    /// What it makes of the node; `None`: it is lost.
    fn standing(self, now: Instant) -> Option<Standing> {
        let lasts = |time: Duration| now.saturating_duration_since(self.at) < time;
        match self.how {
            How::Heard => Some(Standing::Here),
            How::Orphaned if lasts(RECONNECT) => Some(Standing::Away),
            How::Closed if lasts(RESTART) => Some(Standing::Away),
            How::Orphaned | How::Closed | How::Lost => None,
        }
    }

    /// One that is heard counts for more than one that is not, then the later one.
    fn rank(self) -> (bool, Instant) {
        (self.how == How::Heard, self.at)
    }
}

/// A time in which nodes that were not heard yet are about to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// What was seen before says nothing.
    pub since: Instant,
    /// When it is over.
    pub until: Instant,
}

impl Arrival {
    /// Of a manager that has just started.
    #[must_use]
    pub fn of_start(now: Instant, time: Duration) -> Self {
        Self {
            since: now,
            until: now + time,
        }
    }

    /// Of one that begins to lead, after another that was last seen to do so at `vacated`. An agent that went from here to the other one before that
    /// was the other's to watch.
    #[must_use]
    pub fn of_leader(vacated: Instant, now: Instant) -> Self {
        Self {
            since: vacated.checked_sub(KNOWN_BEFORE).unwrap_or(vacated),
            until: (vacated + TAKEOVER).max(now + GREETING),
        }
    }

    /// Whether it lasts.
    #[must_use]
    pub fn lasts(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// The nodes by all `sightings`. While an arrival lasts, `owners` are about to come unless something is known of them since.
#[must_use]
pub fn nodes(
    sightings: impl IntoIterator<Item = (String, Sighting)>,
    arrival: Option<Arrival>,
    owners: &BTreeSet<String>,
    now: Instant,
) -> Nodes {
    let mut best: BTreeMap<String, Sighting> = BTreeMap::new();
    for (node, sighting) in sightings {
        best.entry(node)
            .and_modify(|known| {
                if sighting.rank() > known.rank() {
                    *known = sighting;
                }
            })
            .or_insert(sighting);
    }
    let mut nodes = Nodes::new();
    let arrival = arrival.filter(|arrival| arrival.lasts(now));
    if arrival.is_some() {
        nodes.extend(owners.iter().map(|node| (node.clone(), Standing::Away)));
    }
    for (node, sighting) in best {
        let is_past = arrival.is_some_and(|arrival| sighting.how != How::Heard && sighting.at < arrival.since);
        match sighting.standing(now) {
            Some(standing) => {
                nodes.insert(node, standing);
            }
            None if is_past => {}
            None => {
                nodes.remove(&node);
            }
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::server::clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn one(sightings: &[Sighting], arrival: Option<Arrival>, now: Instant) -> Option<Standing> {
        let sightings = sightings.iter().map(|sighting| ("n".to_owned(), *sighting));
        nodes(sightings, arrival, &["n".to_owned()].into(), now)
            .get("n")
            .copied()
    }

    fn seen(how: How, at: Instant) -> Sighting {
        Sighting { how, at }
    }

    #[test]
    fn who_hears_a_node_is_right_and_then_who_heard_last() {
        let now = clock() + 1_000 * SECOND;
        let (old, new) = (now - 90 * SECOND, now - SECOND);
        for (sightings, expected) in [
            (vec![seen(How::Heard, old), seen(How::Lost, new)], Some(Standing::Here)),
            (vec![seen(How::Closed, new), seen(How::Lost, old)], Some(Standing::Away)),
            (vec![seen(How::Closed, new - SECOND), seen(How::Lost, new)], None),
            (vec![seen(How::Closed, old)], None),
            (
                vec![seen(How::Orphaned, new), seen(How::Closed, old)],
                Some(Standing::Away),
            ),
            (vec![seen(How::Orphaned, now - 5 * SECOND)], None),
            (vec![], None),
        ] {
            for sightings in [sightings.clone(), sightings.into_iter().rev().collect()] {
                assert_eq!(one(&sightings, None, now), expected, "{sightings:?}");
            }
        }
    }

    #[test]
    fn a_manager_that_goes_takes_no_node_with_it_that_finds_another() {
        let last = clock() + 1_000 * SECOND;
        let relayed = |is_gone| Sighting::relayed(NodePresence::Heard, last - 100 * SECOND, last, is_gone);
        assert_eq!(one(&[relayed(false)], None, last + SECOND), Some(Standing::Here));
        assert_eq!(one(&[relayed(true)], None, last + 2 * SECOND), Some(Standing::Away));
        let found = seen(How::Heard, last + 3 * SECOND);
        assert_eq!(
            one(&[relayed(true), found], None, last + 9 * SECOND),
            Some(Standing::Here)
        );
        assert_eq!(one(&[relayed(true)], None, last + RECONNECT), None);
        let closed = Sighting::relayed(NodePresence::Closed, last - SECOND, last, true);
        assert_eq!(
            one(&[closed], None, last + 30 * SECOND),
            Some(Standing::Away),
            "a restart"
        );
    }

    #[test]
    fn a_new_leader_gives_those_time_that_it_has_not_heard() {
        let vacated = clock() + 1_000 * SECOND;
        let taken = vacated + 3 * SECOND;
        let arrival = Some(Arrival::of_leader(vacated, taken));
        assert_eq!(one(&[], arrival, taken), Some(Standing::Away));
        assert_eq!(one(&[], arrival, vacated + TAKEOVER), None);
        // It was here once, and the other one's since.
        for how in [How::Closed, How::Lost] {
            let moved = seen(how, vacated - 100 * SECOND);
            assert_eq!(one(&[moved], arrival, taken), Some(Standing::Away), "{how:?}");
            assert_eq!(one(&[moved], arrival, vacated + TAKEOVER), None, "{how:?}");
        }
        // It fell silent here with the leader.
        assert_eq!(one(&[seen(How::Lost, vacated)], arrival, taken), None);
        let late = Arrival::of_leader(vacated, vacated + 10 * SECOND);
        assert!(
            late.lasts(vacated + 10 * SECOND),
            "whoever tells something is waited for"
        );
    }
}
