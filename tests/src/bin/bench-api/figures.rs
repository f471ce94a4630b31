//! The figures, as text and as JSON, and whether they pass.

use std::time::Duration;

use serde::Serialize;

/// A list of 10,000 objects takes this long at most (seconds).
const LIST_SECONDS: f64 = 1.0;
/// Changes that are made durable in a second.
const WRITES: f64 = 1000.0;
/// How far behind a watcher may be (seconds).
const LAG_SECONDS: f64 = 0.1;

/// Everything measured. All times are seconds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) cpus: usize,
    pub(crate) objects: usize,
    pub(crate) filled: Filled,
    pub(crate) lists: Lists,
    pub(crate) writes: Writes,
}

/// Objects made as fast as they are taken, with no one watching.
#[derive(Debug, Serialize)]
pub(crate) struct Filled {
    pub(crate) writes_per_second: f64,
}

/// Medians.
#[derive(Debug, Serialize)]
pub(crate) struct Lists {
    /// Until the last byte of the JSON is there.
    pub(crate) json: f64,
    pub(crate) bytes: usize,
    /// Through kube-rs, decoded.
    pub(crate) kube: f64,
}

/// Changes offered at a steady rate while watchers see them.
#[derive(Debug, Serialize)]
pub(crate) struct Writes {
    pub(crate) watchers: usize,
    pub(crate) offered_per_second: f64,
    pub(crate) done_per_second: f64,
    /// From sending a change to its answer.
    pub(crate) answer: Spread,
    /// From the answer to a change to the event, over all watchers; nothing where the event was first.
    pub(crate) lag: Spread,
    /// From sending a change to the event.
    pub(crate) from_sending: Spread,
}

/// How times are spread.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: usize| {
            let index = times.len().saturating_sub(1).saturating_mul(share) / 100;
            times.get(index).map_or(f64::NAN, Duration::as_secs_f64)
        };
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }

    fn text(self) -> String {
        let [p50, p99, max] = [self.p50, self.p99, self.max].map(|seconds| seconds * 1e3);
        format!("{p50:>8.1} {p99:>8.1} {max:>8.1}")
    }
}

impl Report {
    pub(crate) fn passed(&self) -> bool {
        self.lists.json <= LIST_SECONDS
            && self.lists.kube <= LIST_SECONDS
            && self.writes.done_per_second >= WRITES
            && self.writes.lag.max <= LAG_SECONDS
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let (lists, writes) = (&self.lists, &self.writes);
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(format!("API server and its clients on {} CPUs\n", self.cpus));
        line(format!(
            "list of {} objects: {:.0} ms as JSON ({:.1} MB), {:.0} ms through kube-rs (must ≤ {:.0})",
            self.objects,
            lists.json * 1e3,
            float(lists.bytes) / 1e6,
            lists.kube * 1e3,
            LIST_SECONDS * 1e3
        ));
        line(format!(
            "creates, no watchers, as fast as they go: {:.0}/s",
            self.filled.writes_per_second
        ));
        line(format!(
            "changes, {} watchers: {:.0}/s offered, {:.0}/s done (must ≥ {WRITES:.0})\n",
            writes.watchers, writes.offered_per_second, writes.done_per_second
        ));
        line(format!("{:<24} {:>8} {:>8} {:>8}", "milliseconds", "p50", "p99", "max"));
        line(format!("{:<24} {}", "change to answer", writes.answer.text()));
        line(format!(
            "{:<24} {}  (must ≤ {:.0})",
            "answer to event",
            writes.lag.text(),
            LAG_SECONDS * 1e3
        ));
        line(format!("{:<24} {}", "change to event", writes.from_sending.text()));
        text
    }
}

/// A count as a figure.
pub(crate) fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_shows_the_middle_and_the_end() {
        let spread = Spread::of((0..=100).map(Duration::from_secs).collect());
        assert_eq!([spread.p50, spread.p99, spread.max], [50.0, 99.0, 100.0]);
        assert!(Spread::of(Vec::new()).max.is_nan(), "nothing measured does not pass");
    }
}
