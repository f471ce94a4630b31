//! HTTP/3, with another Envoy as its client; and what is logged of requests.

use kubelb_tests::envoy::{Envoy, Setup};
use kubelb_tests::traffic::exchange::ask;
use kubelb_tests::wait;
use serde_json::{Value, json};

use super::site::{Site, VIP, base, certificate, https, of_a, secret, to, vip};
use super::{Client, assert_nothing_refused, backend};
use crate::hub::Hub;
use crate::world::{SOON, World, port};

/// Where the client takes requests that it makes by HTTP/3.
const CLIENT: u16 = 9_000;
const HOST: &str = "one.example";

/// An Envoy that asks the VIP by QUIC and nothing else.
fn client(trusted: &str) -> String {
    let address = |address: &str, port: u16| json!({"socket_address": {"address": address, "port_value": port}});
    let typed = |name: &str, mut config: Value| {
        config["@type"] = json!(format!("type.googleapis.com/{name}"));
        config
    };
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    let manager = json!({
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "quic"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    });
    let name = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": typed(name, manager)});
    let tls =
        json!({"sni": HOST, "common_tls_context": {"validation_context": {"trusted_ca": {"inline_string": trusted}}}});
    let socket = typed(
        "envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport",
        json!({"upstream_tls_context": tls}),
    );
    let options = typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        json!({"explicit_http_config": {"http3_protocol_options": {}}}),
    );
    let endpoint = json!({"endpoint": {"address": address(VIP, 443)}});
    let cluster = json!({
        "name": "quic", "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "quic", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "transport_socket": {"name": "envoy.transport_sockets.quic", "typed_config": socket},
    });
    let listener =
        json!({"name": "in", "address": address("127.0.0.1", CLIENT), "filter_chains": [{"filters": [filter]}]});
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}}).to_string()
}

fn site(world: &World, proxy: Value) -> Site {
    let listeners = json!([https("one", HOST, "cert"), {"name": "http", "port": 80, "protocol": "HTTP"}]);
    let mut site = Site::with(world, &listeners, proxy);
    let spec = json!({"parentRefs": [{"name": "my-gateway"}], "rules": [{"backendRefs": to("web")}]});
    site.apply(of_a("HTTPRoute", "default", "web").route(spec, &[("web", 30_001)]));
    site
}

#[test]
fn https_is_to_be_had_by_http3_and_says_so() {
    let world = World::new("l7-quic");
    let mut site = site(&world, Value::Null);
    backend::http1(&world.namespace, "web", 30_001);
    let made = certificate(HOST);
    site.apply(secret("a", "cert", &made));
    let hub = Hub::start(&world.namespace, world.state(), site.resources());
    let envoy = world.envoy(&hub, "a");
    let client = Envoy::start(&world.namespace, Setup::default(), &client(&made.cert.pem())).unwrap();
    client.until_serving(SOON).unwrap();
    let request = format!("GET {HOST}/over-quic");
    let ask = || ask(&world.namespace, port(CLIENT), &request, &[]);
    let (answer, _) = wait::until(SOON, || {
        let answer = ask()?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(answer)
    })
    .unwrap();
    assert_eq!(answer.text("backend"), "web");
    assert_eq!(answer.headers["alt-svc"], "h3=\":443\"; ma=86400");
    assert_eq!(answer.seen("x-forwarded-proto"), "https");
    let logged = logged(&envoy, "over-quic");
    let logged: Value = serde_json::from_str(&logged).unwrap();
    assert_eq!(logged["protocol"], "HTTP/3", "{logged}");
    assert_eq!(logged["serverName"], HOST, "{logged}");
    // Without TLS there is none, and nobody is told so.
    let plain = Client(&world).ask(&format!("GET {HOST}/"), &[]);
    assert!(!plain.headers.contains_key("alt-svc"), "{plain:?}");
    assert_nothing_refused(&hub);

    // It can be switched off, and then is nowhere.
    for object in base(&["a"], json!({"http3": false})) {
        site.apply(object);
    }
    hub.push(site.resources());
    wait::until(SOON, || {
        let names: Vec<String> = envoy.listeners()?.into_iter().map(|listener| listener.name).collect();
        anyhow::ensure!(names.len() == 2 && !names.concat().contains("quic"), "{names:?}");
        Ok(())
    })
    .unwrap();
    assert_nothing_refused(&hub);
}

/// The line with this text.
fn logged(envoy: &Envoy<'_>, text: &str) -> String {
    let found = wait::until(SOON, || {
        let printed = envoy.printed();
        let found = printed.lines().find(|line| line.contains(text));
        found.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("{printed}"))
    });
    found.unwrap().0
}

#[test]
fn requests_are_logged_as_the_config_says() {
    let world = World::new("l7-log");
    let mut site = site(&world, Value::Null);
    backend::http1(&world.namespace, "web", 30_001);
    let hub = Hub::start(&world.namespace, world.state(), site.resources());
    let envoy = world.envoy(&hub, "a");
    let client = Client(&world);
    assert_eq!(
        client.ask("GET a.example/json?q=%22", &[("user-agent", "a\"b")]).status,
        200
    );
    let line: Value = serde_json::from_str(&logged(&envoy, "/json")).unwrap();
    for (field, wanted) in [
        ("listener", json!(format!("http/a/{VIP}/80"))),
        ("host", json!("a.example")),
        ("path", json!("/json?q=%22")),
        ("method", json!("GET")),
        ("status", json!(200)),
        ("userAgent", json!("a\"b")),
        ("route", json!("default/web/0")),
        ("cluster", json!("http/a/default/web/8080-http1")),
    ] {
        assert_eq!(line[field], wanted, "{line:#}");
    }
    let mut change = |proxy: Value| {
        for object in base(&["a"], proxy) {
            site.apply(object);
        }
        hub.push(site.resources());
    };
    change(json!({"accessLog": {"disabled": true}, "headerLimits": {"maxRequestHeadersCount": 10}}));
    // The change of a listener is for connections that come after it, which another of its settings shows.
    let many: Vec<(&str, &str)> = std::iter::repeat_n(("x-many", "1"), 20).collect();
    wait::until(SOON, || {
        let answer = client.ask("GET a.example/", &many);
        anyhow::ensure!(answer.status == 431, "{answer:?}");
        Ok(())
    })
    .unwrap();
    let until = |path: &str| {
        let request = format!("GET a.example/{path}");
        wait::until(SOON, || {
            client.ask(&request, &[]);
            let printed = envoy.printed();
            let is_there = printed.lines().any(|line| line.contains(path) && line.starts_with('['));
            anyhow::ensure!(is_there, "{printed}");
            Ok(())
        })
        .unwrap();
    };
    client.ask("GET a.example/silent", &[]);
    change(json!({"accessLog": {"format": "Text"}}));
    until("loud");
    assert!(!envoy.printed().contains("silent"), "{}", envoy.printed());
    assert_eq!(
        ask(&world.namespace, vip(80), "GET a.example/", &[]).unwrap().status,
        200
    );
    assert_nothing_refused(&hub);
}
