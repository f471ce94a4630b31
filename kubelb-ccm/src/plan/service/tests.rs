//! What becomes of each field of a Service.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;
use crate::plan::local;

fn settings() -> Settings {
    Settings {
        tenant: TenantName::new("primary").unwrap(),
        use_class: false,
        to_nodes: true,
    }
}

fn service(change: impl FnOnce(&mut Value)) -> Service {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "5f1c3a0e-0000-4000-8000-000000000001"},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Cluster",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}],
        },
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn nodes() -> Nodes {
    local::tests::nodes(&["a", "b"])
}

fn on(node: &str) -> Local {
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "x"}, "addressType": "IPv4", "ports": [],
        "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": node}],
    }))
    .unwrap();
    Local::count([slice], false)
}

fn plan(service: &Service) -> Result<Planned, PlanError> {
    let (nodes, local) = (nodes(), on("a"));
    load_balancer(
        service,
        &settings(),
        Inputs {
            nodes: &nodes,
            local: &local,
        },
    )
}

fn spec(service: &Service) -> LoadBalancerSpec {
    plan(service).unwrap().load_balancer.spec
}

#[test]
fn a_plain_service_becomes_what_kubelb_has_always_made_of_it() {
    let planned = plan(&service(|value| {
        value["metadata"]["annotations"] = json!({
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "kubelb.k8c.io/proxy-protocol": "v2",
            "example.com/mine": "x",
        });
    }))
    .unwrap();
    assert_eq!(planned.notices, []);
    let object = serde_json::to_value(&planned.load_balancer).unwrap();
    assert_eq!(
        object,
        json!({
            "apiVersion": "kubelb.k8c.io/v1alpha1",
            "kind": "LoadBalancer",
            "metadata": {
                "name": "5f1c3a0e-0000-4000-8000-000000000001",
                "namespace": "tenant-primary",
                "annotations": {"example.com/mine": "x", "kubelb.k8c.io/proxy-protocol": "v2"},
                "labels": {
                    "kubelb.k8c.io/origin-ns": "shop",
                    "kubelb.k8c.io/origin-name": "web",
                    "kubelb.k8c.io/tenant": "primary",
                },
            },
            "spec": {
                "type": "LoadBalancer",
                "externalTrafficPolicy": "Cluster",
                "endpoints": [{
                    "name": "default",
                    "addressesReference": {"name": "default"},
                    "ports": [{"name": "http", "port": 30080, "protocol": "TCP"}],
                }],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            },
        })
    );
}

#[test]
fn class_type_and_deletion_decide_whose_a_service_is() {
    let class = |class: &str| service(|value| value["spec"]["loadBalancerClass"] = json!(class));
    let strict = Settings {
        use_class: true,
        ..settings()
    };
    assert!(is_ours(&service(|_| {}), &settings()));
    assert!(
        !is_ours(&service(|_| {}), &strict),
        "without a class, where one is asked for"
    );
    assert!(is_ours(&class("kubelb"), &settings()));
    assert!(is_ours(&class("kubelb"), &strict));
    assert!(!is_ours(&class("other"), &settings()), "another implementation's");
    assert!(!is_ours(
        &service(|value| value["spec"]["type"] = json!("NodePort")),
        &settings()
    ));
    let deleted = service(|value| value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert!(!is_ours(&deleted, &settings()));
}

#[test]
fn ports_without_a_name_are_named_after_number_and_protocol() {
    let spec = spec(&service(|value| {
        value["spec"]["ports"] = json!([
            {"port": 53, "protocol": "UDP", "nodePort": 30053, "name": "dns-udp"},
            {"port": 53, "nodePort": 30054, "name": ""},
        ]);
    }));
    let names: Vec<&str> = spec.ports.iter().map(|port| port.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["dns-udp", "53-tcp"]);
    assert_eq!(spec.ports[0].protocol, Some(Protocol::Udp));
    let ports: Vec<i32> = spec.endpoints[0].ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [30053, 30054]);
    assert!(
        spec.endpoints[0]
            .ports
            .iter()
            .zip(&spec.ports)
            .all(|(back, front)| back.name == front.name)
    );
}

#[test]
fn ports_that_cannot_be_served_are_named_and_the_others_served() {
    let planned = plan(&service(|value| {
        value["spec"]["ports"] = json!([
            {"name": "a", "port": 80, "nodePort": 30080},
            {"name": "b", "port": 132, "protocol": "SCTP", "nodePort": 30132},
            {"name": "c", "port": 81},
        ]);
    }))
    .unwrap();
    assert_eq!(planned.load_balancer.spec.ports.len(), 1);
    let fields: Vec<&str> = planned.notices.iter().map(|notice| notice.field.as_str()).collect();
    assert_eq!(fields, ["spec.ports[1].protocol", "spec.ports[2].nodePort"]);
    let nothing = plan(&service(|value| {
        value["spec"]["ports"] = json!([{"port": 1, "protocol": "SCTP"}])
    }));
    let error = nothing.unwrap_err().to_string();
    assert!(
        error.contains("spec.ports[0].protocol: SCTP is not forwarded"),
        "{error}"
    );
}

#[test]
fn local_goes_to_nodes_with_endpoints_and_asks_them_whether_they_have_some() {
    let local = service(|value| {
        value["spec"]["externalTrafficPolicy"] = json!("Local");
        value["spec"]["healthCheckNodePort"] = json!(32000);
    });
    let spec = spec(&local);
    let endpoints = &spec.endpoints[0];
    assert_eq!(endpoints.addresses_reference, None);
    assert_eq!(endpoints.addresses.len(), 1);
    assert_eq!(endpoints.addresses[0].ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(endpoints.addresses[0].weight, Some(1));
    let check = spec.health_check.unwrap();
    assert_eq!((check.type_, check.port), (Some(HealthCheckType::Http), Some(32000)));
    let none = Nodes::default();
    let inputs = Inputs {
        nodes: &none,
        local: &on("a"),
    };
    let error = load_balancer(&local, &settings(), inputs).unwrap_err().to_string();
    assert!(
        error.contains("spec.externalTrafficPolicy") && error.contains("--node-address-type"),
        "{error}"
    );
}

#[test]
fn what_a_service_says_of_clients_addresses_and_families_is_carried_over() {
    let spec = spec(&service(|value| {
        value["spec"]["sessionAffinity"] = json!("ClientIP");
        value["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 60}});
        value["spec"]["loadBalancerSourceRanges"] = json!([" 203.0.113.0/24", "2001:db8::/32"]);
        value["spec"]["loadBalancerIP"] = json!("198.51.100.7");
        value["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
        value["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    }));
    let persistence = spec.persistence.unwrap();
    assert_eq!(persistence.timeout_seconds, Some(60));
    assert_eq!(spec.source_ranges, ["203.0.113.0/24", "2001:db8::/32"]);
    assert_eq!(spec.load_balancer_ip.as_deref(), Some("198.51.100.7"));
    assert_eq!(spec.ip_families, ["IPv6", "IPv4"]);
    assert_eq!(spec.ip_family_policy.as_deref(), Some("RequireDualStack"));
}

#[test]
fn the_older_annotation_restricts_clients_too() {
    let ranges = |field: Value| {
        spec(&service(|value| {
            value["metadata"]["annotations"] =
                json!({"service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8, 192.0.2.0/24"});
            value["spec"]["loadBalancerSourceRanges"] = field;
        }))
        .source_ranges
    };
    assert_eq!(ranges(json!([])), ["10.0.0.0/8", "192.0.2.0/24"]);
    assert_eq!(
        ranges(json!(["198.51.100.0/24"])),
        ["198.51.100.0/24"],
        "the field wins"
    );
}

#[test]
fn what_is_not_done_is_said() {
    let planned = plan(&service(|value| value["spec"]["externalIPs"] = json!(["192.0.2.9"]))).unwrap();
    assert_eq!(planned.notices[0].field, "spec.externalIPs");
}

#[test]
fn without_nodes_traffic_goes_where_another_implementation_takes_it() {
    let settings = Settings {
        to_nodes: false,
        ..settings()
    };
    let inputs = Inputs {
        nodes: &Nodes::default(),
        local: &Local::default(),
    };
    let waiting = load_balancer(&service(|_| {}), &settings, inputs).unwrap_err();
    assert!(waiting.to_string().contains("status.loadBalancer.ingress"), "{waiting}");
    let given = service(|value| {
        value["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.5"}, {"hostname": "lb.example.com"}]}});
    });
    let spec = load_balancer(&given, &settings, inputs).unwrap().load_balancer.spec;
    let endpoints = &spec.endpoints[0];
    assert_eq!(endpoints.addresses[0].ip.as_deref(), Some("192.0.2.5"));
    assert_eq!(endpoints.addresses[1].hostname.as_deref(), Some("lb.example.com"));
    assert_eq!(endpoints.ports[0].port, 80, "the port that is dialled there");
}
