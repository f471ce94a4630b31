//! Layer 7 from Routes to answers of the real Envoy: the examples of the documents, and where precedence and refusals are easily wrong.

mod backend;
mod clients;
mod first;
mod hostile;
mod limits;
mod live;
mod nack;
mod quic;
mod random;
mod site;
#[cfg(feature = "soak")]
mod soak;

use std::collections::BTreeMap;

use kubelb_manager::xds::server::Count;
use kubelb_tests::traffic::exchange::{Answer, ask};
use kubelb_tests::traffic::{self, Trust};
use kubelb_tests::wait;
use serde_json::{Value, json};

use crate::hub::Hub;
use crate::world::{SOON, World};
use backend::call;
use site::{Site, certificate, http, https, of_a, path, secret, to, vip};

/// Asks the VIP.
struct Client<'a>(&'a World);

impl Client<'_> {
    fn ask(&self, request: &str, headers: &[(&str, &str)]) -> Answer {
        ask(&self.0.namespace, vip(80), request, headers).unwrap()
    }

    fn backend(&self, request: &str, headers: &[(&str, &str)]) -> String {
        let answer = self.ask(request, headers);
        match answer.text("backend") {
            "" => answer.status.to_string(),
            name => name.to_owned(),
        }
    }
}

fn assert_nothing_refused(hub: &Hub<'_>) {
    assert_eq!(hub.total(Count::Nacks), 0, "{}", hub.server().render_metrics());
    hub.assert_no_stall();
}

#[test]
fn requests_are_matched_as_the_documents_say() {
    let world = World::new("l7-match");
    let mut site = Site::new(&world, http());
    let names = ["one", "two", "three", "four", "five", "six"];
    let services: Vec<(&str, u16)> = names.iter().copied().zip(30_001..).collect();
    for (name, port) in &services {
        backend::http1(&world.namespace, name, *port);
    }
    let named = |name: &str, value: &str| json!([{"name": name, "value": value}]);
    let rules = json!([
        {"matches": [{"headers": named("X-Version", "2")}], "backendRefs": to("two")},
        {"matches": [{"queryParams": named("beta", "true")}], "backendRefs": to("three")},
        {"matches": [{"method": "POST"}], "backendRefs": to("four")},
        {"matches": [path("Exact", "/exact"), path("RegularExpression", "/v[0-9]+/.*")], "backendRefs": to("five")},
        {"matches": [path("PathPrefix", "/api")], "backendRefs": to("six")},
        {"backendRefs": to("one")},
    ]);
    let spec = json!({"parentRefs": [{"name": "my-gateway"}], "hostnames": ["api.example.com", "*.wild.example"], "rules": rules});
    site.route("HTTPRoute", "default", "web", spec, &services);
    // Of another namespace, to a Service of a third one that is granted.
    let refs = json!([{"name": "api-service", "namespace": "backend", "port": 8080}]);
    let spec = json!({"parentRefs": [{"name": "my-gateway", "namespace": "default"}], "hostnames": ["front.example.com"],
        "rules": [{"backendRefs": refs}]});
    site.route(
        "HTTPRoute",
        "frontend",
        "cross-ns-route",
        spec,
        &[("backend/api-service", 30_001)],
    );
    let hub = Hub::start(&world.namespace, world.state(), site.resources());
    let _envoy = world.envoy(&hub, "a");
    let client = Client(&world);
    for (request, headers, wanted) in [
        ("GET api.example.com/", &[][..], "one"),
        ("GET API.example.com:80/", &[], "one"),
        ("GET a.b.wild.example/", &[], "one"),
        ("GET wild.example/", &[], "404"),
        ("GET other.example/", &[], "404"),
        ("GET front.example.com/", &[], "one"),
        ("GET api.example.com/", &[("x-version", "2")], "two"),
        ("GET api.example.com/", &[("x-version", "3")], "one"),
        ("GET api.example.com/?beta=true", &[], "three"),
        ("POST api.example.com/?beta=true", &[("x-version", "2")], "four"),
        ("GET api.example.com/exact", &[("x-version", "2")], "five"),
        ("GET api.example.com/exact/", &[], "one"),
        ("GET api.example.com/v12/x", &[], "five"),
        ("POST api.example.com/api", &[], "six"),
        ("GET api.example.com/api/x", &[], "six"),
        ("GET api.example.com/apis", &[], "one"),
    ] {
        assert_eq!(client.backend(request, headers), wanted, "{request} {headers:?}");
    }
    let answer = client.ask("GET api.example.com/", &[("x-forwarded-for", "8.8.8.8")]);
    assert!(answer.seen("x-forwarded-for").starts_with("8.8.8.8,"), "{answer:?}");
    assert_nothing_refused(&hub);
}

#[test]
fn requests_are_changed_as_the_documents_say() {
    let world = World::new("l7-filters");
    let mut site = Site::new(&world, http());
    backend::http1(&world.namespace, "one", 30_001);
    let rewrite = |from: &str, to: &str| {
        json!({"matches": [path("PathPrefix", from)], "backendRefs": self::to("one"),
            "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": to}}}]})
    };
    let headers = json!([
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {
            "set": [{"name": "X-Forwarded-Proto", "value": "https"}, {"name": "Host", "value": "inner.example"}],
            "add": [{"name": "X-Copy", "value": "%REQ(X-REQUEST-ID)%"}, {"name": "X-Env", "value": "%ENVIRONMENT(HOME)% 100%"}],
            "remove": ["X-Internal-Header"]}},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"add": [{"name": "X-Response-Time", "value": "%RESPONSE_DURATION%"}]}},
    ]);
    let full = json!({"type": "ReplaceFullPath", "replaceFullPath": "/full"});
    let redirect = |filter: Value| json!([{"type": "RequestRedirect", "requestRedirect": filter}]);
    let rules = json!([
        rewrite("/api/v1", "/api/v2"),
        rewrite("/strip", "/"),
        {"matches": [path("PathPrefix", "/headers")], "filters": headers, "backendRefs": to("one")},
        {"matches": [path("PathPrefix", "/all")], "backendRefs": to("one"),
            "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "other.example", "path": full}}]},
        {"matches": [path("PathPrefix", "/secure")], "filters": redirect(json!({"scheme": "https", "statusCode": 301}))},
        {"matches": [path("PathPrefix", "/old")], "filters": redirect(json!({"hostname": "new.example", "statusCode": 308,
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}))},
        {"matches": [path("PathPrefix", "/slow")], "timeouts": {"request": "500ms"}, "backendRefs": to("one")},
    ]);
    let spec = json!({"parentRefs": [{"name": "my-gateway"}], "rules": rules});
    site.route("HTTPRoute", "default", "web", spec, &[("one", 30_001)]);
    let spec = json!({"parentRefs": [{"name": "my-gateway"}], "hostnames": ["retry.example"], "rules": [{"backendRefs": to("one")}]});
    let annotations = json!({"gateway.envoyproxy.io/retry-on": "5xx,reset,connect-failure", "gateway.envoyproxy.io/num-retries": "3"});
    site.apply(of_a("HTTPRoute", "default", "retry-route").annotated(annotations, spec, &[("one", 30_001)]));
    let hub = Hub::start(&world.namespace, world.state(), site.resources());
    let _envoy = world.envoy(&hub, "a");
    let client = Client(&world);
    for (request, path) in [
        ("GET h.example/api/v1/users?q=1", "/api/v2/users?q=1"),
        ("GET h.example/api/v1", "/api/v2"),
        ("GET h.example/strip/a", "/a"),
        ("GET h.example/strip", "/"),
        ("GET h.example/all/x?q=1", "/full?q=1"),
    ] {
        assert_eq!(client.ask(request, &[]).body["path"], path, "{request}");
    }
    let answer = client.ask(
        "GET h.example/headers",
        &[("x-internal-header", "1"), ("x-request-id", "abc")],
    );
    assert_eq!(answer.seen("x-forwarded-proto"), "https");
    assert_eq!(answer.seen("host"), "inner.example");
    assert_eq!(answer.seen("x-copy"), answer.seen("x-request-id"));
    assert_eq!(answer.seen("x-env"), "%ENVIRONMENT(HOME)% 100%");
    assert_eq!(answer.seen("x-internal-header"), "");
    assert!(answer.headers["x-response-time"].parse::<u32>().is_ok(), "{answer:?}");
    assert_eq!(client.ask("GET h.example/all", &[]).seen("host"), "other.example");
    for (request, status, location) in [
        ("GET h.example/secure/x?q=1", 301, "https://h.example/secure/x?q=1"),
        ("GET h.example/old/x", 308, "http://new.example/new/x"),
    ] {
        let answer = client.ask(request, &[]);
        assert_eq!(
            (answer.status, answer.headers["location"].as_str()),
            (status, location),
            "{request}"
        );
    }
    assert_eq!(client.ask("GET h.example/slow", &[]).status, 504);
    assert_eq!(client.ask("GET retry.example/flaky", &[]).status, 200);
    assert_nothing_refused(&hub);
}

#[test]
fn shares_are_kept_also_by_backends_that_are_not_there() {
    let world = World::new("l7-shares");
    let mut site = Site::new(&world, http());
    backend::http1(&world.namespace, "stable", 30_001);
    backend::http1(&world.namespace, "canary", 30_002);
    let one = |name: &str, weight: u32| json!({"name": name, "port": 8080, "weight": weight});
    let changed = |name: &str, weight: u32, filter: Value| json!({"name": name, "port": 8080, "weight": weight, "filters": [filter]});
    let path_to = |path: &str| json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": path}}});
    let set = |value: &str| json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-set", "value": value}]}});
    let rules = json!([
        {"matches": [path("PathPrefix", "/split")], "backendRefs": [one("stable", 90), one("canary", 10)]},
        {"matches": [path("PathPrefix", "/mix")], "backendRefs": [one("nowhere", 1), one("gone", 1), one("stable", 0)]},
        {"matches": [path("PathPrefix", "/gone")], "backendRefs": [one("gone", 1)]},
        {"matches": [path("PathPrefix", "/paths")], "backendRefs": [changed("stable", 1, path_to("/s")), changed("canary", 1, path_to("/c"))]},
        {"matches": [path("PathPrefix", "/sets")], "backendRefs": [changed("stable", 1, set("s")), changed("canary", 1, set("c"))]},
    ]);
    let spec = json!({"parentRefs": [{"name": "my-gateway"}], "rules": rules});
    site.route(
        "HTTPRoute",
        "default",
        "web",
        spec,
        &[("stable", 30_001), ("canary", 30_002), ("nowhere", 30_003)],
    );
    // A Service without any node that has it.
    let mut routes: Vec<Value> = Vec::new();
    for route in site.store.routes().values() {
        let mut value = serde_json::to_value(&**route).unwrap();
        value["spec"]["endpoints"] = json!([{"addressesReference": {"name": "default"}},
            {"name": "default/nowhere", "addresses": [], "ports": []}]);
        routes.push(value);
    }
    for route in routes {
        site.apply(route);
    }
    let hub = Hub::start(&world.namespace, world.state(), site.resources());
    let _envoy = world.envoy(&hub, "a");
    let client = Client(&world);
    let count = |request: &str, times: usize| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..times {
            let answer = client.ask(request, &[]);
            let key = format!(
                "{} {} {} {}",
                answer.status,
                answer.text("backend"),
                answer.body["path"],
                answer.seen("x-set")
            );
            *counts.entry(key).or_default() += 1;
        }
        counts
    };
    let split = count("GET h.example/split", 100);
    let canary = split.get("200 canary \"/split\" ").copied().unwrap_or_default();
    assert!((1..=40).contains(&canary) && split.len() == 2, "{split:?}");
    let mix = count("GET h.example/mix", 40);
    assert_eq!(
        mix.keys().map(|key| &key[..3]).collect::<Vec<_>>(),
        ["500", "503"],
        "{mix:?}"
    );
    assert!(mix.values().all(|count| *count >= 5), "{mix:?}");
    assert_eq!(client.ask("GET h.example/gone", &[]).status, 500);
    let paths = count("GET h.example/paths", 40);
    assert_eq!(
        paths.keys().collect::<Vec<_>>(),
        ["200 canary \"/c\" ", "200 stable \"/s\" "],
        "{paths:?}"
    );
    let sets = count("GET h.example/sets", 40);
    assert_eq!(
        sets.keys().collect::<Vec<_>>(),
        ["200 canary \"/sets\" c", "200 stable \"/sets\" s"],
        "{sets:?}"
    );
    assert_nothing_refused(&hub);
}

#[test]
fn calls_are_routed_by_service_and_method() {
    let world = World::new("l7-grpc");
    let mut site = Site::new(&world, http());
    let services = [
        ("user-service-v2", 30_001),
        ("auth-service", 30_002),
        ("default-grpc", 30_003),
    ];
    for (name, port) in services {
        backend::grpc(&world.namespace, name, port);
    }
    let method = |wanted: Value| json!([{"method": wanted}]);
    let rules = json!([
        {"matches": method(json!({"service": "my.service.v1.UserService"})), "backendRefs": to("user-service-v2")},
        {"matches": method(json!({"service": "my.service.v1.AuthService", "method": "Login"})), "backendRefs": to("auth-service")},
        {"backendRefs": to("default-grpc")},
    ]);
    let spec = json!({"parentRefs": [{"name": "my-gateway"}], "hostnames": ["grpc.example.com"], "rules": rules});
    site.route("GRPCRoute", "default", "grpc-method-routing", spec, &services);
    let hub = Hub::start(&world.namespace, world.state(), site.resources());
    let _envoy = world.envoy(&hub, "a");
    for (called, wanted) in [
        ("/my.service.v1.UserService/Get", "user-service-v2"),
        ("/my.service.v1.AuthService/Login", "auth-service"),
        ("/my.service.v1.AuthService/Logout", "default-grpc"),
        ("/other.Service/Any", "default-grpc"),
    ] {
        assert_eq!(
            call(&world.namespace, vip(80), "grpc.example.com", called).unwrap(),
            wanted,
            "{called}"
        );
    }
    // What is no call is for nobody.
    assert_eq!(Client(&world).ask("GET grpc.example.com/", &[]).status, 404);
    assert_nothing_refused(&hub);
}

#[test]
fn listeners_are_told_apart_by_name_and_certificates_come_and_go() {
    let world = World::new("l7-tls");
    let listeners = json!([https("one", "one.example", "cert-one"), https("two", "two.example", "cert-two"),
        {"name": "wild", "port": 80, "protocol": "HTTP", "hostname": "*.example"},
        {"name": "lonely", "port": 80, "protocol": "HTTP", "hostname": "lonely.example"}]);
    let mut site = Site::new(&world, listeners);
    backend::http1(&world.namespace, "web", 30_001);
    let parents: Vec<Value> = ["one", "two", "wild"]
        .map(|name| json!({"name": "my-gateway", "sectionName": name}))
        .into();
    let spec = json!({"parentRefs": parents, "rules": [{"backendRefs": to("web")}]});
    site.route("HTTPRoute", "default", "web", spec, &[("web", 30_001)]);
    let made = certificate;
    let one = made("one.example");
    site.apply(secret("a", "cert-one", &one));
    let hub = Hub::start(&world.namespace, world.state(), site.resources());
    let _envoy = world.envoy(&hub, "a");
    let get = |name: &str, made: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let trust = Trust::only(made.cert.der())?;
        traffic::https_get(&world.namespace, vip(443), name, &trust)
    };
    let until = |name: &str, made: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let ((), _) = wait::until(SOON, || {
            let status = get(name, made)?;
            anyhow::ensure!(status == 200, "{status}");
            Ok(())
        })
        .unwrap();
    };
    until("one.example", &one);
    let two = made("two.example");
    get("two.example", &two).unwrap_err();
    site.apply(secret("a", "cert-two", &two));
    hub.push(site.resources());
    until("two.example", &two);
    until("one.example", &one);
    let renewed = made("one.example");
    site.apply(secret("a", "cert-one", &renewed));
    hub.push(site.resources());
    until("one.example", &renewed);
    let client = Client(&world);
    assert_eq!(client.backend("GET a.example/", &[]), "web");
    // It has no routes, and is not answered with another listener's.
    assert_eq!(client.backend("GET lonely.example/", &[]), "404");
    assert_nothing_refused(&hub);
}
