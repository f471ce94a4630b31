//! Figures of the server: counted as things happen, rendered as Prometheus metrics (text exposition format 0.0.4).
//!
//! Every label has a fixed set of values, or is a type of resource that the server knows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::registry::{PeerKind, Protocol};

/// Upper bounds of the histogram of push times, in milliseconds.
const BUCKETS: [u64; 9] = [5, 10, 25, 50, 100, 250, 1_000, 5_000, 15_000];

/// Something that is counted by one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// Connections that were accepted.
    Connections,
    /// TLS handshakes that failed, by reason.
    HandshakesFailed,
    /// Connections, streams and requests that were not served, by reason.
    Refused,
    /// Requests of peers, by type.
    Requests,
    /// Responses sent, by type.
    Responses,
    /// Bytes of them, by type.
    Bytes,
    /// Resources in them, by type.
    Resources,
    /// Names of removed resources in them, by type.
    Removals,
    /// Responses that peers took, by type.
    Acks,
    /// Responses that peers refused, by type.
    Nacks,
    /// Resources that a peer asked for and may not see, by type.
    OutOfScope,
    /// Phases of a push that were given up waiting for, by type.
    Stalls,
    /// Responses that had to wait because the peer reads slowly.
    SlowReaders,
}

impl Count {
    const ALL: [Self; 13] = [
        Self::Connections,
        Self::HandshakesFailed,
        Self::Refused,
        Self::Requests,
        Self::Responses,
        Self::Bytes,
        Self::Resources,
        Self::Removals,
        Self::Acks,
        Self::Nacks,
        Self::OutOfScope,
        Self::Stalls,
        Self::SlowReaders,
    ];

    /// Name, label and help.
    fn describe(self) -> (&'static str, Option<&'static str>, &'static str) {
        let kind = Some("type");
        let reason = Some("reason");
        match self {
            Self::Connections => ("connections_total", None, "Connections that were accepted."),
            Self::HandshakesFailed => ("handshakes_failed_total", reason, "TLS handshakes that failed."),
            Self::Refused => (
                "refused_total",
                reason,
                "Connections, streams and requests that were not served.",
            ),
            Self::Requests => ("requests_total", kind, "Requests of peers."),
            Self::Responses => ("responses_total", kind, "Responses sent to peers."),
            Self::Bytes => ("response_bytes_total", kind, "Bytes of responses."),
            Self::Resources => ("resources_sent_total", kind, "Resources in responses."),
            Self::Removals => ("removals_sent_total", kind, "Names of removed resources in responses."),
            Self::Acks => ("acks_total", kind, "Responses that peers took."),
            Self::Nacks => ("nacks_total", kind, "Responses that peers refused."),
            Self::OutOfScope => (
                "out_of_scope_total",
                kind,
                "Resources that a peer asked for and may not see.",
            ),
            Self::Stalls => (
                "stalls_total",
                kind,
                "Pushes whose next phase did not wait any longer for a peer.",
            ),
            Self::SlowReaders => (
                "slow_reader_waits_total",
                None,
                "Times that a response had to wait because its peer reads slowly.",
            ),
        }
    }
}

/// The figures.
#[derive(Debug, Default)]
pub struct Metrics {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<(Count, &'static str), u64>,
    pushes: BTreeMap<&'static str, Histogram>,
}

#[derive(Debug, Default)]
struct Histogram {
    /// One for each bound, and one for what is beyond.
    buckets: [u64; BUCKETS.len() + 1],
    sum: Duration,
    slowest: Duration,
}

impl Metrics {
    /// Adds one.
    pub fn add(&self, count: Count, label: &'static str) {
        self.add_many(count, label, 1);
    }

    /// Adds `many`.
    pub fn add_many(&self, count: Count, label: &'static str, many: usize) {
        let many = u64::try_from(many).unwrap_or(u64::MAX);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let value = state.counts.entry((count, label)).or_default();
        *value = value.saturating_add(many);
    }

    /// A value, for tests and status.
    #[must_use]
    pub fn get(&self, count: Count, label: &'static str) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.counts.get(&(count, label)).copied().unwrap_or_default()
    }

    /// The sum over all labels.
    #[must_use]
    pub fn total(&self, count: Count) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let of_count = state.counts.iter().filter(|((each, _), _)| *each == count);
        of_count.map(|(_, value)| *value).sum()
    }

    /// A peer took a response of type `label`, or all of a change, so long after it was sent or there.
    pub fn pushed(&self, label: &'static str, took: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = state.pushes.entry(label).or_default();
        let at = BUCKETS.partition_point(|bound| Duration::from_millis(*bound) < took);
        if let Some(bucket) = histogram.buckets.get_mut(at) {
            *bucket += 1;
        }
        histogram.sum += took;
        histogram.slowest = histogram.slowest.max(took);
    }

    /// The slowest of all pushes so far, with its type.
    #[must_use]
    pub fn slowest_push(&self) -> Option<(&'static str, Duration)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let each = state.pushes.iter();
        each.map(|(label, histogram)| (*label, histogram.slowest))
            .max_by_key(|(_, slowest)| *slowest)
    }

    /// The slowest so far of those of one label.
    #[must_use]
    pub fn slowest_of(&self, label: &str) -> Option<Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pushes.get(label).map(|histogram| histogram.slowest)
    }

    /// All of it as text; `peers` are those that are connected now.
    #[must_use]
    pub fn render(&self, peers: &BTreeMap<(PeerKind, Protocol), usize>) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _infallible = self.write(peers, &mut out);
        out
    }

    fn write(&self, peers: &BTreeMap<(PeerKind, Protocol), usize>, out: &mut String) -> std::fmt::Result {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(out, "# HELP kubelb_xds_streams Streams of peers that are open.")?;
        writeln!(out, "# TYPE kubelb_xds_streams gauge")?;
        for ((kind, protocol), many) in peers {
            let (kind, protocol) = (kind.word(), protocol.word());
            writeln!(
                out,
                "kubelb_xds_streams{{kind=\"{kind}\",protocol=\"{protocol}\"}} {many}"
            )?;
        }
        for count in Count::ALL {
            let (name, label, help) = count.describe();
            writeln!(out, "# HELP kubelb_xds_{name} {help}\n# TYPE kubelb_xds_{name} counter")?;
            for ((_, value), many) in state.counts.iter().filter(|((each, _), _)| *each == count) {
                match label {
                    Some(label) => writeln!(out, "kubelb_xds_{name}{{{label}=\"{value}\"}} {many}")?,
                    None => writeln!(out, "kubelb_xds_{name} {many}")?,
                }
            }
        }
        let name = "kubelb_xds_push_seconds";
        writeln!(
            out,
            "# HELP {name} Time from a response to its acknowledgement; snapshot: from a change to a peer's having all of it.\n# TYPE {name} histogram"
        )?;
        for (label, histogram) in &state.pushes {
            let mut many = 0;
            for (bucket, bound) in histogram.buckets.iter().zip(BUCKETS) {
                many += bucket;
                let bound = Duration::from_millis(bound).as_secs_f64();
                writeln!(out, "{name}_bucket{{type=\"{label}\",le=\"{bound}\"}} {many}")?;
            }
            let many: u64 = histogram.buckets.iter().sum();
            writeln!(out, "{name}_bucket{{type=\"{label}\",le=\"+Inf\"}} {many}")?;
            writeln!(out, "{name}_sum{{type=\"{label}\"}} {}", histogram.sum.as_secs_f64())?;
            writeln!(out, "{name}_count{{type=\"{label}\"}} {many}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rendered_with_their_labels() {
        let metrics = Metrics::default();
        metrics.add(Count::Refused, "stranger");
        metrics.add_many(Count::Resources, "Cluster", 3);
        metrics.add(Count::Connections, "");
        metrics.pushed("Cluster", Duration::from_millis(7));
        metrics.pushed("Cluster", Duration::from_secs(60));
        let text = metrics.render(&BTreeMap::from([((PeerKind::Agent, Protocol::Delta), 2)]));
        for line in [
            "kubelb_xds_streams{kind=\"agent\",protocol=\"delta\"} 2",
            "kubelb_xds_refused_total{reason=\"stranger\"} 1",
            "kubelb_xds_resources_sent_total{type=\"Cluster\"} 3",
            "kubelb_xds_connections_total 1",
            "kubelb_xds_push_seconds_bucket{type=\"Cluster\",le=\"0.005\"} 0",
            "kubelb_xds_push_seconds_bucket{type=\"Cluster\",le=\"0.01\"} 1",
            "kubelb_xds_push_seconds_bucket{type=\"Cluster\",le=\"15\"} 1",
            "kubelb_xds_push_seconds_bucket{type=\"Cluster\",le=\"+Inf\"} 2",
            "kubelb_xds_push_seconds_count{type=\"Cluster\"} 2",
        ] {
            assert!(text.lines().any(|each| each == line), "{line} is not in\n{text}");
        }
    }
}
