//! What Envoy has no field for: `metadata.filter_metadata["kubelb.k8c.io"]` of listeners and clusters. Owns the keys and their values' form;
//! must not know what they are used for.
//!
//! Durations are text in the JSON form of `google.protobuf.Duration` (`7440s`, `0.5s`). An unknown key is an error: what a sender wants
//! and a receiver ignores is lost in silence.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::pb::envoy::config::core::v3::Metadata as EnvoyMetadata;
use crate::pb::google::protobuf::value::Kind;
use crate::pb::google::protobuf::{Struct, Value};

/// Key in `filter_metadata`.
pub const KEY: &str = "kubelb.k8c.io";

const TENANT: &str = "tenant";
const AFFINITY_TIMEOUT: &str = "affinityTimeout";
const TIMEOUTS: &str = "timeouts";
const HALF_OPEN_BUDGET: &str = "halfOpenBudget";
const ON_UNHEALTHY: &str = "onUnhealthy";
const DENY_ALL_SOURCES: &str = "denyAllSources";

/// The longest duration of protobuf, in seconds (google/protobuf/duration.proto: 10,000 years).
const MAX_SECONDS: u64 = 315_576_000_000;

/// Facts about a listener or a cluster. Absent means the receiver's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Whose it is.
    pub tenant: Option<String>,
    /// Cluster: how long a client address without flows stays with its backend (source-ip hash policy).
    pub affinity_timeout: Option<Duration>,
    /// Listener: how long idle flows live.
    pub timeouts: FlowTimeouts,
    /// Listener: half-open TCP flows at a time.
    pub half_open_budget: Option<u32>,
    /// Cluster: what becomes of the flows of a backend that turns unhealthy.
    pub on_unhealthy: Option<OnUnhealthy>,
    /// Listener: source ranges were asked for and none is of the listener's family, so nobody may use it. (No range at all means everybody in
    /// Envoy's fields.)
    pub deny_all_sources: bool,
}

/// How long a flow without packets is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// TCP until both sides were heard.
    pub tcp_half_open: Option<Duration>,
    /// TCP after the handshake.
    pub tcp_established: Option<Duration>,
    /// TCP after FINs of both sides or a RST.
    pub tcp_closing: Option<Duration>,
    /// UDP before the first reply.
    pub udp_unreplied: Option<Duration>,
    /// UDP after it.
    pub udp_replied: Option<Duration>,
}

/// What becomes of the flows of a backend that turns unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnhealthy {
    /// They go on.
    Drain,
    /// They are reset.
    Reset,
}

/// A value that a receiver cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata.filter_metadata[{KEY:?}].{path}: {problem}")]
pub struct MetadataError {
    /// Path of the field below the key.
    pub path: String,
    /// What is wrong with it.
    pub problem: MetadataProblem,
}

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataProblem {
    /// Nobody knows this key.
    #[error("unknown key")]
    UnknownKey,
    /// Not of the type that is wanted.
    #[error("must be {0}")]
    Type(&'static str),
}

/// The five timeouts by key.
fn timeout_fields(timeouts: &mut FlowTimeouts) -> [(&'static str, &mut Option<Duration>); 5] {
    [
        ("tcpHalfOpen", &mut timeouts.tcp_half_open),
        ("tcpEstablished", &mut timeouts.tcp_established),
        ("tcpClosing", &mut timeouts.tcp_closing),
        ("udpUnreplied", &mut timeouts.udp_unreplied),
        ("udpReplied", &mut timeouts.udp_replied),
    ]
}

impl Metadata {
    /// For `Listener.metadata` and `Cluster.metadata`; `None` when there is nothing to say.
    #[must_use]
    pub fn encode(&self) -> Option<EnvoyMetadata> {
        let fields = self.to_struct();
        (!fields.fields.is_empty()).then(|| EnvoyMetadata {
            filter_metadata: [(KEY.to_owned(), fields)].into(),
            ..EnvoyMetadata::default()
        })
    }

    /// Reads what [`Self::encode`] writes. Other keys of `filter_metadata` are not looked at.
    ///
    /// # Errors
    /// With the path of the first field, in the order of keys, that has an unknown key or a value of another form.
    pub fn decode(metadata: Option<&EnvoyMetadata>) -> Result<Self, MetadataError> {
        metadata
            .and_then(|metadata| metadata.filter_metadata.get(KEY))
            .map_or_else(|| Ok(Self::default()), Self::from_struct)
    }

    fn to_struct(&self) -> Struct {
        let mut fields = BTreeMap::new();
        let mut put = |key: &str, kind: Option<Kind>| {
            if let Some(kind) = kind {
                fields.insert(key.to_owned(), Value { kind: Some(kind) });
            }
        };
        put(TENANT, self.tenant.clone().map(Kind::StringValue));
        put(AFFINITY_TIMEOUT, self.affinity_timeout.map(duration_value));
        put(
            HALF_OPEN_BUDGET,
            self.half_open_budget.map(|budget| Kind::NumberValue(budget.into())),
        );
        put(
            ON_UNHEALTHY,
            self.on_unhealthy
                .map(|action| Kind::StringValue(action.as_str().to_owned())),
        );
        put(DENY_ALL_SOURCES, self.deny_all_sources.then_some(Kind::BoolValue(true)));
        let mut timeouts = self.timeouts;
        let timeouts: BTreeMap<String, Value> = timeout_fields(&mut timeouts)
            .into_iter()
            .filter_map(|(key, value)| {
                let kind = Some(duration_value((*value)?));
                Some((key.to_owned(), Value { kind }))
            })
            .collect();
        let timeouts = Struct {
            fields: timeouts.into_iter().collect(),
        };
        put(
            TIMEOUTS,
            (!timeouts.fields.is_empty()).then_some(Kind::StructValue(timeouts)),
        );
        Struct {
            fields: fields.into_iter().collect(),
        }
    }

    fn from_struct(fields: &Struct) -> Result<Self, MetadataError> {
        let mut read = Self::default();
        for (key, kind) in sorted(fields) {
            match key {
                TENANT => read.tenant = Some(string(key, kind)?.to_owned()),
                AFFINITY_TIMEOUT => read.affinity_timeout = Some(duration(key, kind)?),
                HALF_OPEN_BUDGET => read.half_open_budget = Some(count(key, kind)?),
                ON_UNHEALTHY => read.on_unhealthy = Some(OnUnhealthy::read(key, kind)?),
                DENY_ALL_SOURCES => match kind {
                    Some(Kind::BoolValue(value)) => read.deny_all_sources = *value,
                    _ => return Err(wrong(key, "a boolean")),
                },
                TIMEOUTS => {
                    let Some(Kind::StructValue(timeouts)) = kind else {
                        return Err(wrong(key, "an object"));
                    };
                    read.timeouts = FlowTimeouts::read(timeouts)?;
                }
                unknown => return Err(unknown_key(unknown.to_owned())),
            }
        }
        Ok(read)
    }
}

impl FlowTimeouts {
    fn read(fields: &Struct) -> Result<Self, MetadataError> {
        let mut read = Self::default();
        for (key, kind) in sorted(fields) {
            let path = format!("{TIMEOUTS}.{key}");
            let known = timeout_fields(&mut read).into_iter().find(|(name, _)| *name == key);
            let Some((_, field)) = known else {
                return Err(unknown_key(path));
            };
            *field = Some(duration(&path, kind)?);
        }
        Ok(read)
    }
}

impl OnUnhealthy {
    /// As in the API and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "Drain",
            Self::Reset => "Reset",
        }
    }

    fn read(path: &str, kind: Option<&Kind>) -> Result<Self, MetadataError> {
        match string(path, kind)? {
            "Drain" => Ok(Self::Drain),
            "Reset" => Ok(Self::Reset),
            _ => Err(wrong(path, "`Drain` or `Reset`")),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "sorted right here")]
fn sorted(fields: &Struct) -> BTreeMap<&str, Option<&Kind>> {
    let fields = fields.fields.iter();
    fields.map(|(key, value)| (key.as_str(), value.kind.as_ref())).collect()
}

fn duration_value(duration: Duration) -> Kind {
    let seconds = duration.as_secs().min(MAX_SECONDS);
    let nanos = format!("{:09}", duration.subsec_nanos());
    let text = match nanos.trim_end_matches('0') {
        "" => format!("{seconds}s"),
        fraction => format!("{seconds}.{fraction}s"),
    };
    Kind::StringValue(text)
}

fn duration(path: &str, kind: Option<&Kind>) -> Result<Duration, MetadataError> {
    parse_duration(string(path, kind)?).ok_or_else(|| wrong(path, "a duration like `30s` or `0.5s`"))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s')?;
    let (seconds, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds: u64 = seconds.parse().ok().filter(|seconds| *seconds <= MAX_SECONDS)?;
    Some(Duration::new(seconds, format!("{fraction:0<9}").parse().ok()?))
}

fn count(path: &str, kind: Option<&Kind>) -> Result<u32, MetadataError> {
    let error = || wrong(path, "a whole number from 0 to 4294967295");
    let Some(Kind::NumberValue(number)) = kind else {
        return Err(error());
    };
    // Through text: every f64 that is a whole number prints as one, and nothing is cut off.
    format!("{number}").parse().ok().ok_or_else(error)
}

fn string<'a>(path: &str, kind: Option<&'a Kind>) -> Result<&'a str, MetadataError> {
    match kind {
        Some(Kind::StringValue(text)) => Ok(text),
        _ => Err(wrong(path, "a string")),
    }
}

fn wrong(path: &str, wanted: &'static str) -> MetadataError {
    MetadataError {
        path: path.to_owned(),
        problem: MetadataProblem::Type(wanted),
    }
}

fn unknown_key(path: String) -> MetadataError {
    MetadataError {
        path,
        problem: MetadataProblem::UnknownKey,
    }
}

#[cfg(test)]
mod tests;
