//! Whether a Pod may be on a node: node selector, required node affinity, taints and tolerations. Pure.
//!
//! Resources, Pod affinity and topology spread are not looked at.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

/// Why a Pod may not be on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Misfit {
    /// `spec.nodeSelector` or the required node affinity.
    Affinity,
    /// A taint, as `key: value`.
    Taint(String),
}

/// Whether the Pod's node selector and required node affinity allow the node.
pub(super) fn is_selected(node: &Node, pod: &PodSpec) -> bool {
    let labels = node.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let wanted = pod.node_selector.iter().flatten();
    let by_labels = wanted.into_iter().all(|(key, value)| label(key) == Some(value));
    let affinity = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    by_labels && affinity.is_none_or(|required| required.node_selector_terms.iter().any(|term| is_met(node, term)))
}

fn is_met(node: &Node, term: &NodeSelectorTerm) -> bool {
    let labels = node.metadata.labels.as_ref();
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.metadata.name.as_deref();
    // A term without requirements selects nothing.
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|requirement| {
            let value = labels.and_then(|labels| labels.get(&requirement.key));
            holds(requirement, value.map(String::as_str))
        })
        && fields
            .iter()
            .all(|requirement| requirement.key == "metadata.name" && holds(requirement, name))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|one| one == value));
    let compare = || {
        let number = value?.parse::<i64>().ok()?;
        Some(number.cmp(&values.first()?.parse().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compare().is_some_and(std::cmp::Ordering::is_lt),
        _ => false,
    }
}

/// Whether a toleration is for a taint.
pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let same_value = text(&toleration.value) == text(&taint.value);
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match text(&toleration.operator).as_str() {
            "Exists" => true,
            "" | "Equal" => !key.is_empty() && same_value,
            _ => false,
        }
}

/// The first taint with one of these effects that none of the tolerations is for.
pub(super) fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref())?;
    taints.iter().find(|taint| {
        effects.contains(&taint.effect.as_str()) && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

/// Whether the Pod may be put on the node.
pub(super) fn check(node: &Node, pod: &PodSpec) -> Result<(), Misfit> {
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    if let Some(taint) = untolerated(node, tolerations, &["NoSchedule", "NoExecute"]) {
        let value = taint.value.as_deref().unwrap_or_default();
        return Err(Misfit::Taint(format!("{}: {value}", taint.key)));
    }
    if is_selected(node, pod) {
        Ok(())
    } else {
        Err(Misfit::Affinity)
    }
}
