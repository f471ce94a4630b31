//! Services: what the server fills in, gives and takes back.

use serde_json::{Value, json};

use super::client::{blamed, owners, revision};
use super::world::World;

const SERVICES: &str = "/api/v1/namespaces/rec/services";
const SVC: &str = "/api/v1/namespaces/rec/services/svc";

async fn balanced() -> (World, Value) {
    let world = World::start().await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "svc"},
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "kubelb", "selector": {"app": "a"},
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        },
    });
    let made = world.admin.post(SERVICES, service).await.ok(201);
    (world, made)
}

#[tokio::test]
async fn a_new_service_has_addresses_node_ports_and_defaults() {
    let (_world, made) = balanced().await;
    let spec = &made["spec"];
    let address: std::net::Ipv4Addr = spec["clusterIP"].as_str().unwrap().parse().unwrap();
    assert_eq!(address.octets()[..2], [10, 96]);
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
    for (key, value) in [
        ("sessionAffinity", json!("None")),
        ("externalTrafficPolicy", json!("Cluster")),
        ("internalTrafficPolicy", json!("Cluster")),
        ("allocateLoadBalancerNodePorts", json!(true)),
        ("ipFamilies", json!(["IPv4"])),
        ("ipFamilyPolicy", json!("SingleStack")),
    ] {
        assert_eq!(spec[key], value, "{key}");
    }
    assert_eq!(
        (&spec["ports"][0]["protocol"], &spec["ports"][1]["targetPort"]),
        (&json!("TCP"), &json!(53))
    );
    for port in spec["ports"].as_array().unwrap() {
        assert!((30_000..=32_767).contains(&port["nodePort"].as_i64().unwrap()));
    }
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    assert!(made["metadata"].get("generation").is_none());
    // What the server allocates belongs to no one.
    let fields = &owners(&made)[0].2["f:spec"];
    let item = json!({".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}});
    assert_eq!(fields["f:ports"][r#"k:{"port":80,"protocol":"TCP"}"#], item);
    assert!(fields.get("f:clusterIP").is_none() && fields.get("f:sessionAffinity").is_some());
}

#[tokio::test]
async fn ports_merge_by_number_in_a_strategic_patch() {
    let (world, made) = balanced().await;
    let kind = "strategic-merge-patch+json";
    let renamed = world
        .admin
        .patch(SVC, kind, json!({"spec": {"ports": [{"port": 80, "name": "web"}]}}))
        .await
        .ok(200);
    let ports = renamed["spec"]["ports"].as_array().unwrap();
    assert_eq!(
        (ports.len(), &ports[0]["name"], &ports[0]["targetPort"]),
        (2, &json!("web"), &json!(8080))
    );
    assert_eq!(ports[0]["nodePort"], made["spec"]["ports"][0]["nodePort"]);

    let gone = json!({"spec": {"ports": [{"$patch": "delete", "port": 53, "protocol": "UDP"}]}});
    let left = world.admin.patch(SVC, kind, gone).await.ok(200);
    assert_eq!(left["spec"]["ports"].as_array().unwrap().len(), 1);
    assert!(
        owners(&left)[0].2["f:spec"]["f:ports"]
            .get(r#"k:{"port":53,"protocol":"UDP"}"#)
            .is_none()
    );
}

#[tokio::test]
async fn the_status_has_a_path_of_its_own() {
    let (world, _) = balanced().await;
    let ingress = |ip: &str| json!({"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}});
    let written = world
        .admin
        .merge(&format!("{SVC}/status"), ingress("203.0.113.10"))
        .await
        .ok(200);
    assert_eq!(
        written["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "203.0.113.10", "ipMode": "VIP"}])
    );
    let fields = json!({"f:status": {"f:loadBalancer": {"f:ingress": {}}}});
    assert_eq!(
        owners(&written)[1],
        ("unknown".to_owned(), "Update status".to_owned(), fields)
    );
    let ignored = world.admin.merge(SVC, ingress("203.0.113.99")).await.ok(200);
    assert_eq!(ignored["status"], written["status"]);
    assert_eq!(revision(&ignored), revision(&written));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let (world, _) = balanced().await;
    let bad = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad"},
        "spec": {"ports": [{"port": 80}, {"port": 81}]},
    });
    let status = world.admin.post(SERVICES, bad).await.fails(422, "Invalid");
    let wanted =
        r#"Service "bad" is invalid: [spec.ports[0].name: Required value, spec.ports[1].name: Required value]"#;
    assert_eq!(status["message"], wanted);
    let required = |field: &str| (field.to_owned(), "FieldValueRequired".to_owned());
    assert_eq!(
        blamed(&status),
        [required("spec.ports[0].name"), required("spec.ports[1].name")]
    );

    let status = world
        .admin
        .merge(SVC, json!({"spec": {"loadBalancerClass": "third"}}))
        .await
        .fails(422, "Invalid");
    let wanted = r#"Service "svc" is invalid: spec.loadBalancerClass: Invalid value: "third": may not change once set"#;
    assert_eq!(status["message"], wanted);
}

#[tokio::test]
async fn another_type_gives_back_what_it_does_not_have() {
    let (world, made) = balanced().await;
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}}});
    world.admin.merge(&format!("{SVC}/status"), ingress).await.ok(200);
    let inside = world
        .admin
        .merge(SVC, json!({"spec": {"type": "ClusterIP"}}))
        .await
        .ok(200);
    for gone in [
        "allocateLoadBalancerNodePorts",
        "externalTrafficPolicy",
        "loadBalancerClass",
    ] {
        assert!(inside["spec"].get(gone).is_none(), "{gone}");
    }
    assert!(inside["spec"]["ports"][0].get("nodePort").is_none());
    assert_eq!(inside["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(inside["status"], json!({"loadBalancer": {}}));

    let back = json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "other"}});
    let back = world.admin.merge(SVC, back).await.ok(200);
    assert_eq!(back["spec"]["loadBalancerClass"], "other");
    assert!(back["spec"]["ports"][0]["nodePort"].is_i64());
    assert_eq!(back["spec"]["externalTrafficPolicy"], "Cluster");
}
