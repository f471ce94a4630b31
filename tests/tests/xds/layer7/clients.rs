//! Clients that have to show who they are, at the real Envoy.

use std::net::SocketAddr;

use kubelb_tests::traffic::exchange::{Answer, ask, ask_over_tls};
use kubelb_tests::traffic::{ClientAuthority, Trust};
use kubelb_tests::wait;
use rcgen::{CertifiedKey, KeyPair};
use serde_json::{Value, json};

use super::site::{Site, certificate, config_map, gateway_with, https, of_a, secret, to, vip};
use super::{assert_nothing_refused, backend};
use crate::hub::Hub;
use crate::world::{SOON, World};

const HOST: &str = "one.example";
const SPOOFED: (&str, &str) = ("x-forwarded-client-cert", "Subject=\"CN=root\"");

/// What is asked of clients at port 443, else, and at port 8443.
fn gateway(default: Value, of_8443: Value) -> Value {
    let mut other = https("other", HOST, "cert");
    other["port"] = json!(8443);
    let listeners = json!([https("one", HOST, "cert"), other, {"name": "http", "port": 80, "protocol": "HTTP"}]);
    let per_port = json!([{"port": 8443, "tls": of_8443}]);
    let tls = json!({"frontend": {"default": default, "perPort": per_port}});
    gateway_with(
        "a",
        json!({"gatewayClassName": "kubelb", "listeners": listeners, "tls": tls}),
    )
}

fn validation(name: &str, mode: &str) -> Value {
    json!({"validation": {"mode": mode, "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": name}]}})
}

struct Clients<'a> {
    world: &'a World,
    server: CertifiedKey<KeyPair>,
}

impl Clients<'_> {
    fn ask(&self, to: SocketAddr, of: Option<&ClientAuthority>) -> anyhow::Result<Answer> {
        let server = self.server.cert.der();
        let trust = match of {
            None => Trust::only(server)?,
            Some(authority) => Trust::of_client(server, authority)?,
        };
        let answer = ask_over_tls(&self.world.namespace, to, &format!("GET {HOST}/"), &[SPOOFED], &trust)?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(answer)
    }

    /// Waits until a client gets in; what the backend is told of it.
    fn until_in(&self, port: u16, of: Option<&ClientAuthority>) -> String {
        let (answer, _) = wait::until(SOON, || self.ask(vip(port), of)).unwrap();
        answer.seen("x-forwarded-client-cert")
    }

    /// Waits until a client does not get in.
    fn until_out(&self, port: u16, of: Option<&ClientAuthority>) {
        let ((), _) = wait::until(SOON, || match self.ask(vip(port), of) {
            Ok(answer) => anyhow::bail!("it gets in: {answer:?}"),
            Err(_) => Ok(()),
        })
        .unwrap();
    }
}

#[test]
fn who_shows_a_certificate_of_the_authority_gets_in_and_nobody_else() {
    let world = World::new("l7-clients");
    let authority = |name: &str| ClientAuthority::new(name).unwrap();
    let (first, second) = (authority("first.example"), authority("second.example"));
    let clients = Clients {
        world: &world,
        server: certificate(HOST),
    };
    let valid = |name: &str| validation(name, "AllowValidOnly");
    let mut site = Site::with(&world, &json!([]), Value::Null);
    site.apply(gateway(valid("first"), valid("second")));
    let spec = json!({"parentRefs": [{"name": "my-gateway"}], "rules": [{"backendRefs": to("web")}]});
    site.apply(of_a("HTTPRoute", "default", "web").route(spec, &[("web", 30_001)]));
    site.apply(secret("a", "cert", &clients.server));
    site.apply(config_map("a", "first", &first.pem));
    site.apply(config_map("a", "second", &second.pem));
    backend::http1(&world.namespace, "web", 30_001);
    let hub = Hub::start(&world.namespace, world.state(), site.resources());
    let envoy = world.envoy(&hub, "a");

    // The default, and that of a port. Backends are told who it was, not what it says that it is.
    let told = clients.until_in(443, Some(&first));
    let wanted = "Subject=\"CN=client of first.example\";URI=spiffe://first.example/client";
    assert!(told.starts_with("Hash=") && told.ends_with(wanted), "{told}");
    clients.until_in(8443, Some(&second));
    for (port, stranger) in [(443, Some(&second)), (443, None), (8443, Some(&first)), (8443, None)] {
        clients.until_out(port, stranger);
    }
    // Over QUIC nobody could be asked, so there is none.
    let names: Vec<String> = envoy.listeners().unwrap().into_iter().map(|one| one.name).collect();
    assert!(names.len() == 3 && !names.concat().contains("quic"), "{names:?}");
    let plain = || ask(&world.namespace, vip(80), &format!("GET {HOST}/"), &[SPOOFED]).unwrap();
    assert_eq!((plain().status, plain().seen(SPOOFED.0)), (200, String::new()));

    // Another authority in the same ConfigMap, and then only that.
    site.apply(config_map("a", "first", &format!("{}{}", first.pem, second.pem)));
    hub.push(site.resources());
    clients.until_in(443, Some(&second));
    clients.until_in(443, Some(&first));
    site.apply(config_map("a", "first", &second.pem));
    hub.push(site.resources());
    clients.until_out(443, Some(&first));
    clients.until_in(443, Some(&second));

    // Everybody is let in, and of nobody it is said who it is.
    site.apply(gateway(validation("first", "AllowInsecureFallback"), json!({})));
    hub.push(site.resources());
    for client in [Some(&first), None, Some(&second)] {
        assert_eq!(clients.until_in(443, client), "");
    }
    // A port that asks for nothing is not under the default.
    assert_eq!(clients.until_in(8443, None), "");

    // Nothing to hold clients against: nobody gets in where they would be asked, all else is as it was.
    site.apply(gateway(valid("absent"), valid("second")));
    hub.push(site.resources());
    for client in [Some(&first), Some(&second), None] {
        clients.until_out(443, client);
    }
    clients.until_in(8443, Some(&second));
    clients.until_out(8443, None);
    assert_eq!(plain().status, 200);
    assert_nothing_refused(&hub);
}
