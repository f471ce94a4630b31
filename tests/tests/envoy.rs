//! The testbed's Envoy: what tests rely on when they ask it.

use std::time::Duration;

use kubelb_tests::envoy::{Envoy, Setup};
use kubelb_tests::netns::Namespace;
use kubelb_tests::traffic::http_get;

const SOON: Duration = Duration::from_secs(10);

const BOOTSTRAP: &str = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 9901 } } }
static_resources:
  listeners:
  - name: hello
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hello
          http_filters:
          - name: router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{ match: { prefix: / }, direct_response: { status: 200, body: { inline_string: hello } } }]
  clusters:
  - name: nobody
    type: STATIC
    load_assignment:
      cluster_name: nobody
      endpoints:
      - lb_endpoints:
        - { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 9 } } }, load_balancing_weight: 3 }
"#;

#[test]
fn an_envoy_serves_and_tells_what_it_has_over_a_restart() {
    let namespace = Namespace::new("envoy").unwrap();
    let mut envoy = Envoy::start(&namespace, Setup::default(), BOOTSTRAP).unwrap();
    for round in 1..=2 {
        let listener = envoy.until_listener(SOON, "hello").unwrap();
        let (status, body) = http_get(&namespace, listener.address, "/").unwrap();
        assert_eq!((status, body.as_str()), (200, "hello"));

        let cluster = envoy.until_cluster(SOON, "nobody").unwrap();
        assert!(!cluster.dynamic);
        assert_eq!(cluster.endpoints.len(), 1);
        assert_eq!(cluster.endpoints[0].address, "127.0.0.1:9".parse().unwrap());
        assert_eq!(cluster.endpoints[0].weight, 3);
        assert!(cluster.endpoints[0].passes_checks);

        assert_eq!(envoy.stat("http.hello.downstream_rq_2xx").unwrap(), 1);
        assert_eq!(envoy.stat("no.such.thing").unwrap(), 0);
        if round == 1 {
            envoy.kill().unwrap();
            assert!(envoy.get("/ready").is_err());
            envoy.restart().unwrap();
        }
    }
}

#[test]
fn a_bootstrap_that_envoy_refuses_fails_with_what_it_says() {
    let namespace = Namespace::new("envoy").unwrap();
    let bad = BOOTSTRAP.replace("stat_prefix: hello", "stat_prefix: ''");
    let error = Envoy::start(&namespace, Setup::default(), &bad).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("StatPrefix"), "{text}");
}
