//! What an Envoy takes as a whole: as the Config says when it starts.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Duration;

use kubelb_manager::identity::{Authority, SpiffeId};
use kubelb_manager::xds::limits_client::{self, Proof};
use kubelb_tests::envoy::{Envoy, Setup};
use kubelb_tests::traffic::http_get;
use kubelb_tests::{manager, wait};
use serde_json::{Value, json};

use super::backend;
use super::live::{Live, MANAGERS};
use super::site::{base, gateway, http, of_a, to, vip};
use crate::hub::now;
use crate::world::SOON;

const CONNECTIONS: u64 = 3;
const HEAP: u64 = 1_000_000_007;
/// For so long a connection that is not closed is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Connections and bytes of a bootstrap, or of what Envoy shows of its own.
fn limits(bootstrap: &Value) -> [Value; 2] {
    let monitors = &bootstrap["overload_manager"]["resource_monitors"];
    [(1, "max_active_downstream_connections"), (0, "max_heap_size_bytes")]
        .map(|(place, field)| monitors[place]["typed_config"][field].clone())
}

#[test]
fn an_envoy_has_the_limits_of_the_config_from_its_start_on() {
    let manager_of_overload =
        json!({"enabled": true, "maxActiveDownstreamConnections": CONNECTIONS, "maxHeapSizeBytes": HEAP});
    let mut objects = base(&["a"], json!({"overloadManager": manager_of_overload}));
    objects.push(gateway("a", &http()));
    let spec = json!({"parentRefs": [{"name": "my-gateway"}], "rules": [{"backendRefs": to("web")}]});
    objects.push(of_a("HTTPRoute", "default", "web").route(spec, &[("web", 30_001)]));
    let live = Live::new("l7-limits", &objects);
    backend::http1(&live.namespace, "web", 30_001);
    let started = live.manager(0);
    let address = MANAGERS[0][0];
    let bootstrap =
        |peer: &[&str]| manager::bootstrap_as_told(&live.namespace, peer, [address], &live.state(0)).unwrap();
    let (text, warnings) = bootstrap(&["--fleet", "a"]);
    assert_eq!(warnings, "");
    let envoy = Envoy::start(&live.namespace, Setup::default(), &text).unwrap();
    envoy.until_serving(SOON).unwrap();
    let dump = envoy.config_dump().unwrap();
    let configs = dump["configs"].as_array().unwrap();
    let own = configs.iter().find_map(|config| config.get("bootstrap")).unwrap();
    assert_eq!(limits(own), [json!(CONNECTIONS.to_string()), json!(HEAP.to_string())]);
    let served = || {
        let answer = http_get(&live.namespace, vip(80), "/")?;
        anyhow::ensure!(answer.0 == 200, "{answer:?}");
        Ok(())
    };
    wait::until(SOON, served).unwrap();
    let connect = || live.namespace.run(|| TcpStream::connect(vip(80))).unwrap().unwrap();
    let held: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect()).collect();
    wait::until(SOON, || {
        let mut surplus = connect();
        surplus.set_read_timeout(Some(LOOK))?;
        match surplus.read(&mut [0]) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            // One that is accepted waits for its request.
            other => anyhow::bail!("it is accepted: {other:?}"),
        }
    })
    .unwrap();
    drop(held);
    wait::until(SOON, served).unwrap();

    // It is for Envoys only.
    let authority = Authority::open(&live.state(0), now()).unwrap();
    let agent = authority
        .issue_peer(&SpiffeId::agent("node-1").unwrap(), SOON * 60, now())
        .unwrap();
    let refused = live.namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asked = limits_client::ask(address, authority.pem(), Proof::Certificate(&agent));
        runtime.unwrap().block_on(asked)
    });
    let refused = refused.unwrap().unwrap_err();
    assert!(refused.contains("only Envoys"), "{refused}");

    // Nobody to ask: as ever.
    drop(started);
    let (text, warnings) = bootstrap(&["--fleet", "a"]);
    assert!(
        warnings.contains("no manager says") && warnings.contains(address),
        "{warnings}"
    );
    let value: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(limits(&value), [json!("50000"), json!((2_u64 << 30).to_string())]);
    let (_, warnings) = bootstrap(&["--agent", "node-1"]);
    assert_eq!(warnings, "", "an agent has no such limits");
}
