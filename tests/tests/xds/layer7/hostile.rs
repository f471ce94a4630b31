//! A tenant that tries what it may not: no byte of another tenant's changes, and what it tried is said on its own objects.

use std::collections::BTreeMap;

use kubelb_manager::ir;
use kubelb_manager::ir::http::Outcome;
use kubelb_tests::manager::Manager;
use kubelb_tests::traffic::exchange::ask;
use kubelb_tests::traffic::{HttpLoad, Trust, https_get};
use kubelb_tests::wait;
use kubelb_xds::{Owner, ResourceType};
use serde_json::{Value, json};

use super::backend;
use super::live::{Live, MANAGERS, condition, is_programmed, own};
use super::site::{OTHER_VIP, Origin, Site, VIP, base, certificate, gateway, http, https, of_a, path, secret, to, vip};
use crate::world::SOON;

/// The one that it is after.
const VICTIM: &str = "victim.example";

/// All that is served of a tenant: type and name of each resource, and its bytes.
fn served(manager: &Manager, tenant: &str) -> BTreeMap<(ResourceType, String), Vec<u8>> {
    let snapshot = manager.snapshot().unwrap();
    let mut all = BTreeMap::new();
    for kind in ResourceType::ALL {
        for (name, resource) in snapshot.table(kind) {
            if *resource.owner() == Owner::tenant(tenant) {
                all.insert((kind, name.to_string()), resource.any_bytes().to_vec());
            }
        }
    }
    all
}

fn of_b<'a>(kind: &'a str, name: &'a str) -> Origin<'a> {
    Origin {
        tenant: "b",
        kind,
        namespace: "default",
        name,
    }
}

fn route(tenant: &str, host: &str, rule: Value) -> Value {
    let spec = json!({"parentRefs": [{"name": "my-gateway"}], "hostnames": [host], "rules": [rule]});
    let origin = Origin {
        tenant,
        kind: "HTTPRoute",
        namespace: "default",
        name: "web",
    };
    origin.route(spec, &[("web", 30_001)])
}

fn listeners(secret: &str) -> Value {
    json!([{"name": "http", "port": 80, "protocol": "HTTP", "hostname": VICTIM}, https("https", VICTIM, secret)])
}

fn header(value: &str) -> Value {
    json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-told", "value": value}]}}])
}

#[test]
fn what_a_hostile_tenant_tries_changes_no_byte_of_anothers() {
    let (certificate_a, certificate_b) = (certificate(VICTIM), certificate(VICTIM));
    let mut objects = base(&["a", "b"], Value::Null);
    objects.extend([gateway("a", &listeners("cert")), secret("a", "cert", &certificate_a)]);
    objects.push(route("a", VICTIM, json!({"backendRefs": to("web")})));
    let live = Live::new("l7-hostile", &objects);
    backend::http1(&live.namespace, "web", 30_001);
    let manager = live.manager(0);
    let _envoy = live.envoy("a,b", &[MANAGERS[0][0]]);
    let gateway_uid = "gateway-default-my-gateway";
    live.until_told("a", gateway_uid, is_programmed);
    let before = served(&manager, "a");
    assert!(before.len() >= 6, "{:?}", before.keys());
    let told = live.status("a", gateway_uid).unwrap();
    let load = HttpLoad::start(&live.namespace, vip(80), VICTIM, 1).unwrap();
    load.until_more(5).unwrap();
    let unchanged = |what: &str| {
        assert!(served(&manager, "a") == before, "{what}");
        let theirs = served(&manager, "b");
        let is_theirs = |name: &String| name.starts_with("http/b/") || name == OTHER_VIP;
        assert!(
            theirs.keys().all(|(_, name)| is_theirs(name)),
            "{what}: {:?}",
            theirs.keys()
        );
    };

    // The same names, with a certificate of its own for them.
    live.put(&secret("b", "own", &certificate_b));
    live.put(&gateway("b", &listeners("own")));
    live.put(&route("b", VICTIM, json!({"backendRefs": to("web")})));
    live.until_told("b", gateway_uid, is_programmed);
    unchanged("another's hostnames");
    let other = format!("{OTHER_VIP}:443").parse().unwrap();
    let trust = |made: &rcgen::CertifiedKey<rcgen::KeyPair>| Trust::only(made.cert.der()).unwrap();
    let ((), _) = wait::until(SOON, || {
        anyhow::ensure!(https_get(&live.namespace, vip(443), VICTIM, &trust(&certificate_a))? == 200);
        anyhow::ensure!(https_get(&live.namespace, other, VICTIM, &trust(&certificate_b))? == 200);
        Ok(())
    })
    .unwrap();
    https_get(&live.namespace, vip(443), VICTIM, &trust(&certificate_b)).unwrap_err();

    // Secrets by the names that the other's have, here and there.
    for name in ["cert", "uid-cert", "tenant-a/uid-cert"] {
        live.put(&gateway("b", &listeners(name)));
        let status = live.until_told("b", gateway_uid, |status| {
            let listeners = &own(status)["listeners"];
            let (holds, reason, message) = condition(&listeners[1]["conditions"], "ResolvedRefs");
            (holds.as_str(), reason.as_str()) == ("False", "InvalidCertificateRef")
                && message.contains(&format!("/{name}:"))
        });
        assert_eq!(
            condition(&own(&status)["listeners"][1]["conditions"], "Programmed").0,
            "False"
        );
        unchanged(name);
        assert!(
            !served(&manager, "b")
                .keys()
                .any(|(kind, _)| *kind == ResourceType::Secret)
        );
    }
    live.put(&gateway("b", &listeners("own")));
    live.until_told("b", gateway_uid, is_programmed);
    // The other's address.
    let thief = of_b("Gateway", "thief");
    let wanted = json!([{"type": "IPAddress", "value": VIP}]);
    live.put(&thief.route(
        json!({"gatewayClassName": "kubelb", "listeners": http(), "addresses": wanted}),
        &[],
    ));
    live.until_told("b", &thief.uid(), |status| {
        condition(&own(status)["conditions"], "Programmed").1 == "AddressNotUsable"
    });
    unchanged("another's address");

    // Regular expressions that nobody should run.
    let regexes = [
        "(",
        "(a{1000}){1000}",
        "(?=a)b",
        "(a+)+\\1",
        "[a-z]{950}[a-z]{950}",
        "\\C",
        "(?P<n>x)",
    ];
    for regex in regexes {
        let matches = json!([{"path": {"type": "RegularExpression", "value": regex}}]);
        live.put(&route(
            "b",
            VICTIM,
            json!({"matches": matches, "backendRefs": to("web")}),
        ));
        live.until_told("b", "httproute-default-web", |status| {
            let (holds, reason, message) = condition(&own(status)["parents"][0]["conditions"], "Accepted");
            (holds.as_str(), reason.as_str()) == ("False", "UnsupportedValue") && message.contains("path.value")
        });
        unchanged(regex);
    }
    // What Envoy would evaluate.
    let secret_text = "%ENVIRONMENT(HOME)% %FILE_CONTENT(/etc/passwd)%";
    let rule =
        json!({"matches": [path("PathPrefix", "/env")], "backendRefs": to("web"), "filters": header(secret_text)});
    live.put(&route("b", VICTIM, rule));
    let other_http = format!("{OTHER_VIP}:80").parse().unwrap();
    wait::until(SOON, || {
        let answer = ask(&live.namespace, other_http, &format!("GET {VICTIM}/env"), &[])?;
        anyhow::ensure!(
            answer.status == 200 && answer.headers.contains_key("x-told"),
            "{answer:?}"
        );
        anyhow::ensure!(answer.headers["x-told"] == secret_text, "{answer:?}");
        Ok(())
    })
    .unwrap();
    unchanged("operators");
    // Names that look like paths of others' resources, and parents that are others'.
    for name in ["../a/default/web", "a/default", "http/a"] {
        let mut strange = of_b("HTTPRoute", "strange").route(
            json!({"parentRefs": [{"name": "my-gateway", "namespace": "tenant-a"}, {"name": "my-gateway"}],
            "rules": [{"backendRefs": to("web")}]}),
            &[("web", 30_001)],
        );
        strange["spec"]["source"]["kubernetes"]["resource"]["metadata"]["name"] = json!(name);
        strange["spec"]["source"]["kubernetes"]["services"][0]["metadata"]["name"] = json!("../../a/default/web");
        live.put(&strange);
        live.until_told("b", "httproute-default-strange", |status| {
            status["resources"]["route"]["name"] == name
                && own(status)["parents"]
                    .as_array()
                    .is_some_and(|parents| parents.len() == 1)
        });
        unchanged(name);
    }
    assert_eq!(live.status("a", gateway_uid).unwrap(), told);
    load.until_more(5).unwrap();
    load.finish().unwrap().all_good().unwrap();
}

#[test]
fn ten_thousand_routes_of_a_tenant_are_bounded_and_cost_nobody_else() {
    let mut old = gateway("a", &http());
    old["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut of_others = base(&["a", "b"], Value::Null);
    of_others.push(old);
    of_others.push(gateway("b", &http()));
    of_others.push(route("b", VICTIM, json!({"backendRefs": to("web")})));
    let mut site = Site::of(of_others.clone());
    let of_others = Site::of(of_others);
    for number in 0..10_000 {
        let name = format!("many-{number}");
        let spec = json!({"parentRefs": [{"name": "my-gateway"}], "hostnames": [format!("{name}.example")], "rules": [{"backendRefs": to("web")}]});
        let mut route = of_a("HTTPRoute", "default", &name).route(spec, &[("web", 30_001)]);
        // All but the first thousand are younger.
        let second = u32::from(number >= 1_000);
        route["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:0{second}Z"));
        site.apply(route);
    }
    let (ir, _) = ir::build(&site.store, "kubelb");
    let tenant = kubelb_api::names::TenantName::new("a").unwrap();
    let http = ir.http(&tenant).unwrap();
    let refused: Vec<&str> = http
        .outcomes
        .iter()
        .filter(|(_, outcome)| matches!(&***outcome, Outcome::Refused(verdict) if verdict.reason == "TooManyRoutes"))
        .map(|(name, _)| &**name)
        .collect();
    assert_eq!(http.outcomes.len(), 10_001);
    // The Gateway is as old as the world, and so are its first routes.
    assert!((1_700..=1_900).contains(&refused.len()), "{}", refused.len());
    assert!(!refused.contains(&"httproute-default-many-0"));
    let others = |site: &Site| {
        let mut resources = site.resources();
        resources.retain(|resource| *resource.owner() == Owner::tenant("b"));
        let bytes = resources.iter().map(|resource| resource.any_bytes().to_vec());
        bytes.collect::<Vec<_>>()
    };
    assert!(others(&site) == others(&of_others));
}
