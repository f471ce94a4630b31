//! Cluster addresses and address families of a Service: what was asked for, what it kept, what it is given.
//!
//! Pure: the ranges of the cluster and what others hold are arguments. The rules are those of dual-stack Services (KEP-563).

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::super::object::{default_to, field_mut, items, text};
use super::super::super::ranges::{Ranges, ServiceRange, family_of};
use super::super::super::status::Cause;

/// Addresses tried at random before the server gives up.
const TRIES: usize = 4096;
const NONE: &str = "None";
const KEYS: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];

/// What a Service says about its addresses.
struct Asked {
    /// Empty when it does not say.
    policy: String,
    families: Vec<String>,
    addresses: Vec<String>,
    headless: bool,
    has_selector: bool,
}

impl Asked {
    fn of(object: &Value) -> Self {
        let texts = |pointer: &str| -> Vec<String> {
            let values = items(object, pointer).iter();
            values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
        };
        let first = text(object, "/spec/clusterIP");
        let mut addresses = texts("/spec/clusterIPs");
        if addresses.is_empty() && !first.is_empty() {
            addresses.push(first.to_owned());
        }
        let headless = addresses.iter().any(|address| address == NONE);
        if headless {
            addresses.clear();
        }
        let selector = object.pointer("/spec/selector").and_then(Value::as_object);
        Self {
            policy: text(object, "/spec/ipFamilyPolicy").to_owned(),
            families: texts("/spec/ipFamilies"),
            addresses,
            headless,
            has_selector: selector.is_some_and(|selector| !selector.is_empty()),
        }
    }
}

/// Takes everything back: a Service of type ExternalName has no addresses.
pub(super) fn release(object: &mut Value) {
    let spec = field_mut(object, "spec");
    for key in KEYS {
        spec.remove(key);
    }
}

/// Gives the Service its families and addresses. `used` are the addresses of all Services.
pub(super) fn assign(
    object: &mut Value,
    old: Option<&Value>,
    ranges: &Ranges,
    used: &BTreeSet<String>,
    causes: &mut Vec<Cause>,
) {
    if let Some(old) = old {
        keep(object, old);
    }
    let mut asked = Asked::of(object);
    let own: Vec<String> = old.map(|old| Asked::of(old).addresses).unwrap_or_default();
    let before = causes.len();
    infer(&mut asked, ranges);
    check(&asked, &own, ranges, used, causes);
    if causes.len() > before {
        return;
    }
    let addresses = if asked.headless {
        vec![NONE.to_owned()]
    } else {
        let missing = asked.families.iter().skip(asked.addresses.len());
        let given: Vec<String> = missing
            .filter_map(|family| free(ranges.of_family(family)?, used))
            .collect();
        asked.addresses.extend(given);
        asked.addresses
    };
    let spec = field_mut(object, "spec");
    spec.insert("clusterIP".to_owned(), json!(addresses.first()));
    spec.insert("clusterIPs".to_owned(), json!(addresses));
    spec.insert("ipFamilies".to_owned(), json!(asked.families));
    spec.insert("ipFamilyPolicy".to_owned(), json!(asked.policy));
}

/// What an update does not speak of stays; who goes back to one family gives the second one up.
fn keep(object: &mut Value, old: &Value) {
    let Some(old) = old.get("spec") else { return };
    let value = |key: &str| old.get(key).cloned().unwrap_or_default();
    let spec = field_mut(object, "spec");
    let asked = spec.get("clusterIP").cloned().unwrap_or_default();
    if asked == "" || asked.is_null() {
        spec.remove("clusterIP");
    }
    let same = spec.get("clusterIP").is_none_or(|asked| *asked == value("clusterIP"));
    for key in KEYS {
        if !value(key).is_null() && (same || key.starts_with("ip")) {
            default_to(spec, key, value(key));
        }
    }
    if spec.get("ipFamilyPolicy") == Some(&json!("SingleStack")) {
        for key in ["ipFamilies", "clusterIPs"] {
            if spec.get(key) == Some(&value(key))
                && let Some(Value::Array(values)) = spec.get_mut(key)
            {
                values.truncate(1);
            }
        }
    }
}

/// Fills in the policy and the families that are meant.
fn infer(asked: &mut Asked, ranges: &Ranges) {
    let implied = asked.addresses.iter().skip(asked.families.len());
    let implied: Vec<String> = implied
        .filter_map(|address| address.parse().ok())
        .map(|address: IpAddr| family_of(address).to_owned())
        .collect();
    asked.families.extend(implied);
    // Whose endpoints are written by hand may have any.
    let by_hand = asked.headless && !asked.has_selector;
    if asked.policy.is_empty() {
        let both = by_hand || asked.families.len() > 1;
        asked.policy = if both { "RequireDualStack" } else { "SingleStack" }.to_owned();
    }
    if asked.families.is_empty() {
        let preferred = ranges.addresses.first().map_or("IPv4", |range| range.family());
        asked.families.push(preferred.to_owned());
    }
    let wants_both = asked.policy != "SingleStack" && (by_hand || ranges.is_dual_stack());
    if wants_both && let [only] = asked.families.as_slice() {
        let other = if only == "IPv4" { "IPv6" } else { "IPv4" };
        asked.families.push(other.to_owned());
    }
}

fn check(asked: &Asked, own: &[String], ranges: &Ranges, used: &BTreeSet<String>, causes: &mut Vec<Cause>) {
    let policy = json!(asked.policy);
    if !matches!(
        asked.policy.as_str(),
        "SingleStack" | "PreferDualStack" | "RequireDualStack"
    ) {
        let known = ["PreferDualStack", "RequireDualStack", "SingleStack"].map(Value::from);
        causes.push(Cause::unsupported("spec.ipFamilyPolicy", &policy, &known));
    }
    if asked.policy == "SingleStack" && asked.families.len() > 1 {
        let what = if asked.addresses.len() > 1 {
            "cluster IPs"
        } else {
            "IP families"
        };
        let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &policy, &why));
    }
    if asked.headless && !asked.has_selector {
        return;
    }
    if asked.policy == "RequireDualStack" && !ranges.is_dual_stack() {
        let why = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &policy, why));
    }
    for (index, family) in asked.families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        if asked.families.iter().take(index).any(|other| other == family) {
            causes.push(Cause::duplicate(field, &json!(family)));
        } else if ranges.of_family(family).is_none() {
            causes.push(Cause::invalid(field, &json!(family), "not configured on this cluster"));
        }
    }
    for (index, address) in asked.addresses.iter().enumerate() {
        if own.contains(address) {
            continue;
        }
        let field = format!("spec.clusterIPs[{index}]");
        let Ok(parsed) = address.parse::<IpAddr>() else {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(Cause::invalid(field, &json!(address), why));
            continue;
        };
        let family = asked.families.get(index).map(String::as_str).unwrap_or_default();
        let Some(range) = ranges.of_family(family).filter(|_| family_of(parsed) == family) else {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            causes.push(Cause::invalid(field, &json!(address), &why));
            continue;
        };
        if used.contains(&parsed.to_string()) {
            let why = format!("failed to allocate IP {address}: provided IP is already allocated");
            causes.push(Cause::invalid("spec.clusterIPs", &json!(asked.addresses), &why));
        } else if !range.contains(parsed) {
            let why = format!(
                "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. \
                 The range of valid IPs is {range}"
            );
            causes.push(Cause::invalid("spec.clusterIPs", &json!(asked.addresses), &why));
        }
    }
}

fn free(range: ServiceRange, used: &BTreeSet<String>) -> Option<String> {
    std::iter::repeat_with(|| range.host(fastrand::u32(range.hosts())).to_string())
        .take(TRIES)
        .find(|address| !used.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(both: bool) -> Ranges {
        let mut addresses = vec![ServiceRange::usual()];
        if both {
            addresses.push("fd00:96::/108".parse().unwrap());
        }
        Ranges {
            addresses,
            node_ports: 30_000..=32_767,
        }
    }

    fn assigned(spec: Value, old: Option<&Value>, both: bool) -> Result<Value, Vec<String>> {
        let mut object = json!({"spec": spec});
        let mut causes = Vec::new();
        let used = BTreeSet::from(["10.96.0.9".to_owned()]);
        assign(&mut object, old, &ranges(both), &used, &mut causes);
        if causes.is_empty() {
            Ok(object)
        } else {
            Err(causes.into_iter().map(|cause| cause.field).collect())
        }
    }

    #[test]
    fn one_family_unless_more_is_asked_for() {
        let plain = assigned(json!({}), None, true).unwrap();
        assert_eq!(plain["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(plain["spec"]["ipFamilyPolicy"], "SingleStack");
        let both = assigned(json!({"ipFamilyPolicy": "PreferDualStack"}), None, true).unwrap();
        assert_eq!(both["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert!(both["spec"]["clusterIPs"][1].as_str().unwrap().starts_with("fd00:96::"));
        let one = assigned(json!({"ipFamilyPolicy": "PreferDualStack"}), None, false).unwrap();
        assert_eq!(one["spec"]["clusterIPs"].as_array().unwrap().len(), 1);
        let sixth = assigned(json!({"ipFamilies": ["IPv6"]}), None, true).unwrap();
        assert!(sixth["spec"]["clusterIP"].as_str().unwrap().contains(':'));
        let two = assigned(json!({"ipFamilies": ["IPv6", "IPv4"]}), None, true).unwrap();
        assert_eq!(two["spec"]["ipFamilyPolicy"], "RequireDualStack");
    }

    #[test]
    fn what_the_cluster_does_not_have_is_refused() {
        let fails = |spec: Value, both: bool| assigned(spec, None, both).unwrap_err();
        assert_eq!(
            fails(json!({"ipFamilyPolicy": "RequireDualStack"}), false),
            ["spec.ipFamilyPolicy"]
        );
        assert_eq!(fails(json!({"ipFamilies": ["IPv6"]}), false), ["spec.ipFamilies[0]"]);
        let many = json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]});
        assert_eq!(fails(many, true), ["spec.ipFamilyPolicy"]);
        for taken in ["10.96.0.9", "10.97.0.1"] {
            assert_eq!(fails(json!({"clusterIP": taken}), true), ["spec.clusterIPs"]);
        }
        assert_eq!(fails(json!({"clusterIP": "x"}), true), ["spec.clusterIPs[0]"]);
        let wrong = json!({"clusterIP": "fd00:96::7", "ipFamilies": ["IPv4"]});
        assert_eq!(fails(wrong, true), ["spec.clusterIPs[0]"]);
    }

    #[test]
    fn headless_services_have_families_without_addresses() {
        let by_hand = assigned(json!({"clusterIP": "None"}), None, false).unwrap();
        assert_eq!(by_hand["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(by_hand["spec"]["clusterIPs"], json!(["None"]));
        let selected = assigned(json!({"clusterIP": "None", "selector": {"a": "b"}}), None, false).unwrap();
        assert_eq!(selected["spec"]["ipFamilies"], json!(["IPv4"]));
    }

    #[test]
    fn an_update_keeps_its_addresses_and_may_add_or_give_up_the_second() {
        let one = assigned(json!({}), None, true).unwrap();
        let more = assigned(json!({"ipFamilyPolicy": "RequireDualStack"}), Some(&one), true).unwrap();
        assert_eq!(more["spec"]["clusterIP"], one["spec"]["clusterIP"]);
        assert_eq!(more["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
        let mut less = more["spec"].clone();
        less["ipFamilyPolicy"] = json!("SingleStack");
        let less = assigned(less, Some(&more), true).unwrap();
        assert_eq!(less["spec"]["clusterIPs"], json!([one["spec"]["clusterIP"]]));
        assert_eq!(less["spec"]["ipFamilies"], json!(["IPv4"]));
        let silent = assigned(json!({"clusterIP": ""}), Some(&more), true).unwrap();
        assert_eq!(silent["spec"]["clusterIPs"], more["spec"]["clusterIPs"]);
    }
}
