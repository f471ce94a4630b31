//! Why a resource is not taken, and what in a message nobody has read. Owns the form of the reasons.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// Why a resource is not taken: the field and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Refusal {
    /// Path of the field in the resource, as in the xDS API.
    pub field: String,
    /// What is wrong and what would do.
    pub reason: String,
}

pub(super) fn refuse<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        field: field.into(),
        reason: reason.into(),
    })
}

/// Refuses what is set in `rest`, a message without the fields that have been read: what a sender wants and this agent would
/// not do must not be lost in silence.
pub(super) fn nothing_else<M: Default + PartialEq + Debug>(path: &str, rest: &M) -> Result<(), Refusal> {
    let nothing = M::default();
    if *rest == nothing {
        return Ok(());
    }
    let (set, unset) = (format!("{rest:#?}"), format!("{nothing:#?}"));
    let (set, unset) = (fields(&set), fields(&unset));
    let names: Vec<&str> = set
        .iter()
        .filter(|(name, value)| unset.get(*name) != Some(*value))
        .map(|(name, _)| *name)
        .collect();
    let dot = if path.is_empty() { "" } else { "." };
    refuse(
        format!("{path}{dot}{}", names.first().unwrap_or(&"")),
        match names.get(1..) {
            Some([_, ..]) => format!(
                "the kernel path does not do this; nor: {}",
                names.get(1..).unwrap_or_default().join(", ")
            ),
            _ => "the kernel path does not do this".to_owned(),
        },
    )
}

/// The fields of a pretty-printed struct by name, each with its lines.
fn fields(pretty: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = None;
    for line in pretty.lines() {
        let Some(inner) = line.strip_prefix("    ") else {
            continue;
        };
        if !inner.starts_with([' ', '}', ']', ')'])
            && let Some((name, _)) = inner.split_once(':')
        {
            current = Some(name);
        }
        if let Some(name) = current {
            found.entry(name).or_default().push(inner);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use kubelb_xds::pb::envoy::config::cluster::v3::Cluster;
    use kubelb_xds::pb::envoy::config::core::v3::HealthCheck;

    use super::*;

    #[test]
    fn what_is_set_is_named() {
        assert_eq!(nothing_else("", &Cluster::default()), Ok(()));
        let cluster = Cluster {
            health_checks: vec![HealthCheck::default()],
            alt_stat_name: "a: b".to_owned(),
            ..Cluster::default()
        };
        let said = nothing_else("cluster", &cluster).unwrap_err().to_string();
        assert!(said.starts_with("cluster.alt_stat_name: "), "{said}");
        assert!(said.ends_with("nor: health_checks"), "{said}");
    }
}
