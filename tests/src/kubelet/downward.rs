//! The downward API: what a Pod may ask about itself, as environment or as files. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What is known of a Pod and its node beside the object.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) pod_ips: Vec<IpAddr>,
    pub(super) host_ips: Vec<IpAddr>,
    pub(super) node: String,
    /// What a container without a limit may use.
    pub(super) allocatable: BTreeMap<String, Quantity>,
}

/// The value of a `fieldRef`. The error names what is unknown.
pub(super) fn field(pod: &Pod, facts: &Facts, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let joined = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |list: &[IpAddr]| list.first().map(IpAddr::to_string).unwrap_or_default();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(meta
            .labels
            .as_ref()
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(meta
            .annotations
            .as_ref()
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => joined(&facts.host_ips),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => joined(&facts.pod_ips),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

fn subscript<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

/// One `key="value"` for each, as files of the downward API have them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`: whole units of its divisor, rounded up.
pub(super) fn resource(container: &Container, facts: &Facts, wanted: &ResourceFieldSelector) -> Result<String, String> {
    let unknown = || format!("unsupported container resource: {}", wanted.resource);
    let (kind, name) = wanted.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.clone().unwrap_or_default();
    let (limits, requests) = (
        resources.limits.unwrap_or_default(),
        resources.requests.unwrap_or_default(),
    );
    let quantity = match kind {
        "limits" => limits.get(name).or_else(|| facts.allocatable.get(name)),
        "requests" => requests.get(name).or_else(|| limits.get(name)),
        _ => return Err(unknown()),
    };
    let value = quantity.map_or(Ok(0), |quantity| thousandths(&quantity.0))?;
    let divisor = match wanted.divisor.as_ref().map(|quantity| thousandths(&quantity.0)) {
        None | Some(Ok(0)) => 1000,
        Some(divisor) => divisor?,
    };
    Ok(value.div_ceil(divisor).to_string())
}

/// A quantity in thousandths of its unit.
pub(super) fn thousandths(quantity: &str) -> Result<u128, String> {
    let wrong = || format!("{quantity} is no quantity");
    let end = quantity
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(end);
    let factor: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return Err(wrong()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = whole.parse().map_err(|_error| wrong())?;
    let digits = u32::try_from(part.len()).map_err(|_error| wrong())?;
    let part: u128 = if part.is_empty() {
        0
    } else {
        part.parse().map_err(|_error| wrong())?
    };
    let unit = 10_u128.checked_pow(digits).ok_or_else(wrong)?;
    whole
        .checked_mul(factor)
        .and_then(|value| value.checked_add(part.checked_mul(factor)? / unit))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_the_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"a.b/c": "1", "x": "y"}},
            "spec": {"containers": [], "serviceAccountName": "sa"},
        }))
        .unwrap();
        let facts = Facts {
            pod_ips: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            node: "n1".to_owned(),
            ..Facts::default()
        };
        let of = |path: &str| field(&pod, &facts, path);
        assert_eq!(of("status.podIP").unwrap(), "10.0.0.2");
        assert_eq!(of("status.podIPs").unwrap(), "10.0.0.2,fd00::2");
        assert_eq!(of("metadata.labels['a.b/c']").unwrap(), "1");
        assert_eq!(of("metadata.labels").unwrap(), "a.b/c=\"1\"\nx=\"y\"");
        assert_eq!(of("spec.nodeName").unwrap(), "n1");
        assert!(of("spec.containers").is_err());
    }

    #[test]
    fn resources_in_units_of_the_divisor() {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}))
                .unwrap();
        let of = |resource: &str, divisor: &str| {
            let selector = json!({"resource": resource, "divisor": divisor});
            super::resource(
                &container,
                &Facts::default(),
                &serde_json::from_value(selector).unwrap(),
            )
            .unwrap()
        };
        assert_eq!(of("limits.cpu", "0"), "2");
        assert_eq!(of("limits.cpu", "1m"), "1500");
        assert_eq!(of("limits.memory", "1Mi"), "1024");
        assert_eq!(of("requests.memory", "1"), "1073741824");
        assert_eq!(thousandths("1.5").unwrap(), 1500);
    }
}
