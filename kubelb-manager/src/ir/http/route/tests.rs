use kubelb_api::names::TenantName;
use kubelb_api::v1alpha1::KubernetesSource;
use serde_json::{Value, from_value, json};

use super::*;
use crate::ir::Host;

fn draft(rules: &Value, services: &Value) -> RouteDraft {
    let source: KubernetesSource = from_value(json!({"services": services})).unwrap();
    let object: api::Viewed<api::HttpRouteSpec> = from_value(json!({
        "metadata": {"namespace": "shop", "name": "web", "generation": 3},
        "spec": {"parentRefs": [{"name": "gw"}], "rules": rules},
    }))
    .unwrap();
    let tenant = TenantName::new("x").unwrap();
    let hosts = |_: usize| -> Arc<[Host]> { Arc::new([]) };
    http(
        &object,
        &BTreeMap::new(),
        Services::new(&tenant, "shop", &source, &[], &hosts),
    )
}

fn service(name: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"ports": [{"port": 80, "nodePort": 30080}]}})
}

#[test]
fn durations_are_those_of_gateway_api() {
    for (text, millis) in [("0s", 0), ("1m30s", 90_000), ("500ms", 500), ("1h2m3s4ms", 3_723_004)] {
        assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "1", "s", "1.5s", "-1s", "100000s", "1s1s1s1s1s", "1d", "1µs"] {
        assert_eq!(duration(text), None, "{text}");
    }
}

#[test]
fn a_bad_rule_costs_itself() {
    let good = json!({"backendRefs": [{"name": "a", "port": 80}]});
    let bad_match = json!({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]});
    let bad_filter = json!({"filters": [{"type": "Later"}], "backendRefs": [{"name": "a", "port": 80}]});
    let both = draft(&json!([bad_match, bad_filter, good]), &json!([service("a")]));
    assert!(both.accepted.holds);
    let partial = both.partial.unwrap();
    for part in ["Dropped Rule: rules[0].matches[0].path.value", "rules[1].filters[0]"] {
        assert!(partial.message.contains(part), "{}", partial.message);
    }
    let actions: Vec<&Action> = both.routes.iter().map(|(_, route)| &route.rule.action).collect();
    assert_eq!(actions.len(), 2);
    assert_eq!(actions[0], &Action::Respond(500));
    let none = draft(&json!([bad_match]), &json!([]));
    assert_eq!((none.accepted.holds, none.accepted.reason), (false, "UnsupportedValue"));
}

#[test]
fn a_backend_that_is_not_there_keeps_its_share() {
    let rules = json!([{"backendRefs": [
        {"name": "a", "port": 80, "weight": 3}, {"name": "b", "port": 80}, {"name": "c", "port": 80, "weight": 0},
    ]}]);
    let read = draft(&rules, &json!([service("a")]));
    assert_eq!((read.resolved.holds, read.resolved.reason), (false, "BackendNotFound"));
    let Action::Forward(shares) = &read.routes[0].1.rule.action else {
        panic!("{read:?}");
    };
    let found: Vec<(Option<&str>, u32)> = shares
        .iter()
        .map(|share| (share.cluster.as_deref(), share.weight))
        .collect();
    assert_eq!(found, [(Some("http/x/shop/a/80-http1"), 3), (None, 1)]);
    let nothing = draft(&json!([{"backendRefs": [{"name": "b", "port": 80}]}]), &json!([]));
    assert_eq!(nothing.routes[0].1.rule.action, Action::Respond(500));
}

#[test]
fn references_are_judged_by_what_the_tenants_side_carries() {
    for (reference, reason) in [
        (json!({"name": "a", "port": 81}), "BackendNotFound"),
        (
            json!({"name": "a", "namespace": "other", "port": 80}),
            "RefNotPermitted",
        ),
        (
            json!({"name": "a", "kind": "Bucket", "group": "example.com", "port": 80}),
            "InvalidKind",
        ),
    ] {
        let read = draft(&json!([{"backendRefs": [reference]}]), &json!([service("a")]));
        assert_eq!(read.resolved.reason, reason);
    }
    let shadow = json!({
        "metadata": {"namespace": "shop", "name": "a-nodeport",
            "labels": {"kubelb.k8c.io/origin-name": "a", "kubelb.k8c.io/origin-ns": "shop"}},
        "spec": {"ports": [{"port": 80, "nodePort": 31000}]},
    });
    let read = draft(&json!([{"backendRefs": [{"name": "a", "port": 80}]}]), &json!([shadow]));
    assert!(read.resolved.holds, "{:?}", read.resolved);
    assert_eq!(read.clusters["http/x/shop/a/80-http1"].cluster.port.get(), 31000);
}

#[test]
fn filters_that_only_a_route_can_have_divide_it() {
    let rewrite = |path: &str| json!([{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": path}}}]);
    let rules = json!([{"backendRefs": [
        {"name": "a", "port": 80, "weight": 3, "filters": rewrite("/a")},
        {"name": "b", "port": 80, "weight": 5},
        {"name": "c", "port": 80, "weight": 2, "filters": rewrite("/c")},
    ]}]);
    let read = draft(&rules, &json!([service("a"), service("b"), service("c")]));
    let fractions: Vec<Option<u32>> = read.routes.iter().map(|(_, route)| route.millionths).collect();
    assert_eq!(fractions, [Some(300_000), Some(800_000), None]);
    assert!(read.routes.is_sorted_by(|a, b| a.0 < b.0));
}

#[test]
fn timeouts_and_retries() {
    let rule = |extra: Value| {
        let mut rule = json!({"backendRefs": [{"name": "a", "port": 80}]});
        rule.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let read = draft(&json!([rule]), &json!([service("a")]));
        Rule::clone(&read.routes[0].1.rule)
    };
    let both = json!({"timeouts": {"request": "30s", "backendRequest": "25s"}});
    assert_eq!(rule(both).timeout, Some(Duration::from_secs(25)));
    assert_eq!(rule(json!({"timeouts": {"request": "0s"}})).timeout, None);
    let retried =
        rule(json!({"timeouts": {"request": "3s", "backendRequest": "1s"}, "retry": {"codes": [503], "attempts": 2}}));
    assert_eq!(retried.timeout, Some(Duration::from_secs(3)));
    let retry = retried.retry.unwrap();
    assert_eq!((retry.attempts, retry.per_try), (2, Some(Duration::from_secs(1))));
    assert_eq!(retry.on, "connect-failure,refused-stream,reset,retriable-status-codes");
}
