use super::*;
use serde_json::{Value, json};

fn objects(services: Value, slices: Value) -> Objects {
    let node = json!({
        "metadata": {"name": "n1"},
        "spec": {"podCIDRs": ["10.100.1.0/24", "fd00:64:1::/64"]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "192.168.77.11"},
            {"type": "Hostname", "address": "n1"},
        ]},
    });
    let services: Vec<Service> = serde_json::from_value(services).unwrap();
    let slices: Vec<EndpointSlice> = serde_json::from_value(slices).unwrap();
    Objects {
        services: services.into_iter().map(Arc::new).collect(),
        slices: slices.into_iter().map(Arc::new).collect(),
        node: Some(Arc::new(serde_json::from_value(node).unwrap())),
    }
}

fn service(spec: Value) -> Value {
    let mut whole =
        json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ports": [{"name": "http", "port": 80}]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    json!({"metadata": {"namespace": "a", "name": "s"}, "spec": whole})
}

fn slice(endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "a", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "other", "port": 9, "protocol": "TCP"}],
    })
}

fn state(service: Value, endpoints: Value) -> State {
    build(
        &objects(json!([service]), json!([slice(endpoints)])),
        "n1",
        &BTreeSet::new(),
    )
}

fn addresses(endpoints: &BTreeSet<SocketAddr>) -> Vec<String> {
    endpoints.iter().map(ToString::to_string).collect()
}

#[test]
fn endpoints_are_those_of_the_named_port_and_what_says_nothing_is_ready() {
    let found = state(
        service(json!({})),
        json!([
            {"addresses": ["10.100.1.2"], "nodeName": "n1"},
            {"addresses": ["10.100.2.2"], "nodeName": "n2", "conditions": {"ready": true}},
            {"addresses": ["10.100.2.3"], "conditions": {"ready": false}},
        ]),
    );
    assert_eq!(found.ports.len(), 1);
    assert_eq!(
        addresses(&found.ports[0].endpoints),
        ["10.100.1.2:8080", "10.100.2.2:8080"]
    );
    assert_eq!(addresses(&found.ports[0].local), ["10.100.1.2:8080"]);
    assert_eq!(found.node_addresses.len(), 1);
    assert_eq!(found.pod_cidrs.len(), 2);
}

#[test]
fn a_node_without_ready_endpoints_uses_its_draining_ones_whatever_others_have() {
    let draining = json!({"ready": false, "serving": true, "terminating": true});
    let found = state(
        service(json!({})),
        json!([
            {"addresses": ["10.100.1.2"], "nodeName": "n1", "conditions": draining},
            {"addresses": ["10.100.2.2"], "nodeName": "n2"},
        ]),
    );
    assert_eq!(addresses(&found.ports[0].endpoints), ["10.100.2.2:8080"]);
    assert_eq!(addresses(&found.ports[0].local), ["10.100.1.2:8080"]);
}

#[test]
fn what_is_not_ours_to_forward_is_left_alone() {
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName", "externalName": "example.com"}),
    ] {
        assert_eq!(state(service(spec), json!([])).ports, []);
    }
    let mut other = service(json!({}));
    other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    assert_eq!(state(other, json!([])).ports, []);
    let dns = BTreeSet::from(["10.96.0.20".parse().unwrap()]);
    let objects = objects(json!([service(json!({}))]), json!([]));
    assert_eq!(build(&objects, "n1", &dns).ports, []);
}

#[test]
fn addresses_that_the_load_balancer_proxies_are_not_forwarded() {
    let mut balanced =
        service(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "fd00::/8", "x"]}));
    balanced["status"] = json!({"loadBalancer": {"ingress": [
        {"ip": "203.0.113.1", "ipMode": "Proxy"}, {"ip": "203.0.113.2", "ipMode": "VIP"}, {"ip": "203.0.113.3"}, {"hostname": "h"},
    ]}});
    let found = state(balanced, json!([]));
    let port = &found.ports[0];
    let expected: BTreeSet<IpAddr> = ["203.0.113.2", "203.0.113.3"].map(|text| text.parse().unwrap()).into();
    assert_eq!(port.load_balancer_ips, expected);
    assert_eq!(port.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn a_pod_with_addresses_of_both_families_is_one_endpoint_to_a_health_check() {
    let endpoint =
        |address: &str| json!([{"addresses": [address], "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "p"}}]);
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000});
    let slices = json!([slice(endpoint("10.100.1.2")), slice(endpoint("fd00:64:1::2"))]);
    let found = build(&objects(json!([service(spec)]), slices), "n1", &BTreeSet::new());
    assert_eq!(found.health_checks[&30000].local_endpoints, 1);
}
