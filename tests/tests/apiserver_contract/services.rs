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

fn plain(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    service
}

#[tokio::test]
async fn a_service_has_the_families_that_it_asks_for() {
    let world = World::start().await;
    let both = plain("both", json!({"ipFamilyPolicy": "RequireDualStack"}));
    let both = world.admin.post(SERVICES, both).await.ok(201);
    assert_eq!(both["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let addresses: Vec<std::net::IpAddr> = both["spec"]["clusterIPs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|address| address.as_str().unwrap().parse().unwrap())
        .collect();
    assert!(addresses[0].is_ipv4() && addresses[1].is_ipv6(), "{addresses:?}");
    assert_eq!(both["spec"]["clusterIP"], both["spec"]["clusterIPs"][0]);

    let sixth = plain("sixth", json!({"ipFamilies": ["IPv6"]}));
    let sixth = world.admin.post(SERVICES, sixth).await.ok(201);
    assert_eq!(sixth["spec"]["ipFamilyPolicy"], "SingleStack");
    assert!(sixth["spec"]["clusterIP"].as_str().unwrap().starts_with("fd00:96:"));

    let path = format!("{SERVICES}/sixth");
    let more = json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}});
    let more = world.admin.merge(&path, more).await.ok(200);
    assert_eq!(more["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    assert_eq!(more["spec"]["clusterIPs"][0], sixth["spec"]["clusterIP"]);
    let less = json!({"spec": {"ipFamilyPolicy": "SingleStack"}});
    let less = world.admin.merge(&path, less).await.ok(200);
    assert_eq!(less["spec"]["clusterIPs"], sixth["spec"]["clusterIPs"]);
    assert_eq!(less["spec"]["ipFamilies"], json!(["IPv6"]));

    let single = plain(
        "x",
        json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
    );
    let status = world.admin.post(SERVICES, single).await.fails(422, "Invalid");
    assert_eq!(
        blamed(&status),
        [("spec.ipFamilyPolicy".to_owned(), "FieldValueInvalid".to_owned())]
    );
    let taken = plain("x", json!({"clusterIP": both["spec"]["clusterIP"]}));
    let status = world.admin.post(SERVICES, taken).await.fails(422, "Invalid");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .ends_with("provided IP is already allocated")
    );
}

#[tokio::test]
async fn the_server_is_reached_through_a_service_of_its_own() {
    let world = World::start_empty().await;
    let service = world
        .admin
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await
        .ok(200);
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let port = &service["spec"]["ports"][0];
    assert_eq!((&port["name"], &port["port"]), (&json!("https"), &json!(443)));
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slices = world
        .admin
        .get(&format!(
            "{slices}?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes"
        ))
        .await
        .ok(200);
    let slice = &slices["items"][0];
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(slice["ports"][0]["port"], port["targetPort"]);
    assert!(slice["endpoints"][0]["addresses"][0].is_string());
}
