//! What Envoy refuses although the manager saw nothing wrong in it: its words are on the tenant's own object, nothing else changes, and a fix is all it takes.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use kubelb_tests::envoy::Setup;
use kubelb_tests::traffic::{HttpLoad, http_get};
use kubelb_tests::wait;
use serde_json::{Value, json};

use super::backend;
use super::live::{Live, MANAGERS, condition, is_programmed, own};
use super::site::{Origin, base, gateway, path, to, vip};
use crate::world::SOON;

/// From a fix until the object says so.
const CLEARED_WITHIN: Duration = Duration::from_secs(2);
/// Somebody else's on the machine.
const TAKEN: u16 = 81;

fn listener(name: &str, port: u16) -> Value {
    json!({"name": name, "port": port, "protocol": "HTTP"})
}

fn web(tenant: &str, section: &str, regex: &str) -> Value {
    let origin = Origin {
        tenant,
        kind: "HTTPRoute",
        namespace: "default",
        name: section,
    };
    let rules =
        json!([{"backendRefs": to("web")}, {"matches": [path("RegularExpression", regex)], "backendRefs": to("web")}]);
    let spec = json!({"parentRefs": [{"name": "my-gateway", "sectionName": section}], "rules": rules});
    origin.route(spec, &[("web", 30_001)])
}

/// As the other one, and what is below `/named` goes to a host that only a name is known of.
fn named(tenant: &str, section: &str) -> Value {
    let origin = Origin {
        tenant,
        kind: "HTTPRoute",
        namespace: "default",
        name: section,
    };
    let rules =
        json!([{"backendRefs": to("web")}, {"matches": [path("PathPrefix", "/named")], "backendRefs": to("named")}]);
    let spec = json!({"parentRefs": [{"name": "my-gateway", "sectionName": section}], "rules": rules});
    let mut object = origin.route(spec, &[("web", 30_001), ("named", 30_002)]);
    let group =
        json!({"name": "default/named", "addresses": [{"hostname": "named.example"}], "ports": [{"port": 30_002}]});
    let groups = object["spec"]["endpoints"].as_array_mut();
    groups.unwrap().push(group);
    object
}

/// Of one listener of a Gateway's own status, or of the first parent of a route's.
fn programmed(status: &Value, listener: Option<&str>) -> (String, String, String) {
    let own = own(status);
    match listener {
        None => condition(&own["parents"][0]["conditions"], "Programmed"),
        Some(name) => {
            let all = own["listeners"].as_array().cloned().unwrap_or_default();
            let found = all.into_iter().find(|one| one["name"] == name).unwrap_or_default();
            condition(&found["conditions"], "Programmed")
        }
    }
}

fn cleared(live: &Live, uid: &str, fixed: Instant, is_fixed: impl Fn(&Value) -> bool) {
    live.until_told("a", uid, |status| is_programmed(status) && is_fixed(status));
    let took = wait::now().duration_since(fixed);
    eprintln!("{uid}: a fix is told after {took:?}");
    assert!(took <= CLEARED_WITHIN, "{uid}: {took:?}");
}

#[test]
fn the_words_of_envoy_are_on_the_object_and_a_fix_takes_them_away() {
    let mut objects = base(&["a", "b"], Value::Null);
    let good = json!([listener("good", 80), listener("other", 82)]);
    objects.extend([gateway("a", &good), gateway("b", &good)]);
    objects.extend(["good", "other"].map(|section| web("a", section, "/x")));
    objects.push(web("b", "good", "/x"));
    let live = Live::new("l7-nack", &objects);
    backend::http1(&live.namespace, "web", 30_001);
    let _taken = live
        .namespace
        .run(|| TcpListener::bind(("0.0.0.0", TAKEN)))
        .unwrap()
        .unwrap();
    let _manager = live.manager(0);
    // It allows smaller programs of regular expressions than the manager knows, and was built without clusters of hosts that have names.
    let setup = Setup {
        without: &["envoy.clusters/envoy.cluster.strict_dns"],
        ..Setup::default()
    };
    let envoy = live.envoy_with(setup, "a,b", &[MANAGERS[0][0]], |bootstrap| {
        assert!(bootstrap.contains("error_level"), "{bootstrap}");
        bootstrap.replace(": 1000", ": 60")
    });
    let (gateway_uid, route_uid) = ("gateway-default-my-gateway", "httproute-default-other");
    let uids = [
        ("a", "httproute-default-good"),
        ("b", gateway_uid),
        ("b", "httproute-default-good"),
    ];
    for (tenant, uid) in uids.into_iter().chain([("a", gateway_uid), ("a", route_uid)]) {
        live.until_told(tenant, uid, is_programmed);
    }
    let others = || uids.map(|(tenant, uid)| live.status(tenant, uid).unwrap());
    let before = others();
    let load = HttpLoad::start(&live.namespace, vip(80), "web", 2).unwrap();
    load.until_more(20).unwrap();

    // A port that is not to be had.
    live.put(&gateway(
        "a",
        &json!([listener("good", 80), listener("other", 82), listener("bad", TAKEN)]),
    ));
    let told = live.until_told("a", gateway_uid, |status| {
        programmed(status, Some("bad")).1 == "Invalid"
    });
    let (_, _, message) = programmed(&told, Some("bad"));
    assert!(message.contains("cannot bind '198.51.100.1:81': Address"), "{message}");
    assert_eq!(programmed(&told, Some("good")).0, "True", "{told:#}");
    let (status, _, message) = condition(&told["conditions"], "Programmed");
    assert!(status == "False" && message.contains("cannot bind"), "{message}");
    assert_eq!(others(), before);
    let fixed = wait::now();
    live.put(&gateway(
        "a",
        &json!([listener("good", 80), listener("other", 82), listener("bad", TAKEN + 2)]),
    ));
    cleared(&live, gateway_uid, fixed, |status| {
        programmed(status, Some("bad")).0 == "True"
    });

    // A regular expression that is too large for this Envoy.
    live.put(&web("a", "other", "/[a-z]{120}"));
    let told = live.until_told("a", route_uid, |status| programmed(status, None).1 == "Invalid");
    let (_, _, message) = programmed(&told, None);
    assert!(
        message.contains("regex") && message.contains("program size"),
        "{message}"
    );
    assert_eq!(others(), before);
    let fixed = wait::now();
    live.put(&web("a", "other", "/[a-z]{2}"));
    cleared(&live, route_uid, fixed, |status| programmed(status, None).0 == "True");

    // A cluster of a kind that it does not have. The route's other rules work.
    live.put(&named("a", "other"));
    let told = live.until_told("a", route_uid, |status| programmed(status, None).1 == "Invalid");
    let (_, _, message) = programmed(&told, None);
    assert!(
        message.contains("Cluster http/a/default/named/8080-http1") && message.contains("envoy.cluster.strict_dns"),
        "{message}"
    );
    let ((), _) = wait::until(SOON, || {
        let [named, rest] = ["/named", "/"].map(|path| http_get(&live.namespace, vip(82), path));
        let statuses = (named?.0, rest?.0);
        anyhow::ensure!(statuses == (503, 200), "{statuses:?}");
        Ok(())
    })
    .unwrap();
    let told = live.status("a", gateway_uid).unwrap();
    assert!(is_programmed(&told), "{told:#}");
    assert_eq!(others(), before);
    let fixed = wait::now();
    live.put(&web("a", "other", "/[a-z]{2}"));
    cleared(&live, route_uid, fixed, |status| programmed(status, None).0 == "True");

    assert_eq!(others(), before);
    load.until_more(20).unwrap();
    load.finish().unwrap().all_good().unwrap();
    drop(envoy);
}
