//! Edits of everything under load, with managers killed and Envoy moved between them: no request fails.

use std::time::Duration;

use kubelb_tests::traffic::exchange::ask;
use kubelb_tests::traffic::{HttpLoad, Kind, Server, Trust, https_get};
use kubelb_tests::wait;
use serde_json::{Value, json};

use super::live::{Live, MANAGERS};
use super::site::{base, certificate, gateway, of_a, path, secret, vip};

const EDITS: u32 = 200;
/// How many instead.
const EDITS_VARIABLE: &str = "KUBELB_EDITS";
/// Every so many edits, a manager is killed and comes back later.
const KILL_EVERY: u32 = 10;
const HOST: &str = "one.example";
const TAKEN_WITHIN: Duration = Duration::from_secs(20);

/// What is edited.
struct Edited {
    number: u32,
    weights: [u32; 2],
    has_filter: bool,
    has_listener: bool,
    is_renewed: bool,
}

impl Edited {
    fn listeners(&self) -> Value {
        let https = |name: &str, hostname: &str| json!({"name": name, "port": 443, "protocol": "HTTPS", "hostname": hostname, "tls": {"certificateRefs": [{"name": "cert"}]}});
        let mut all = vec![
            json!({"name": "http", "port": 80, "protocol": "HTTP"}),
            https("https", HOST),
        ];
        if self.has_listener {
            all.push(https("more", "more.example"));
            all.push(json!({"name": "other", "port": 8081, "protocol": "HTTP"}));
            all.push(json!({"name": "narrow", "port": 80, "protocol": "HTTP", "hostname": "narrow.example"}));
        }
        all.into()
    }

    fn route(&self) -> Value {
        let weight = |name: &str, weight: u32| json!({"name": name, "port": 8080, "weight": weight});
        let filter = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-filter", "value": "1"}]}});
        let marker = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-edit", "value": self.number.to_string()}]}});
        // One or both, so that backends come and go as well.
        let backends: Vec<Value> = [("one", self.weights[0]), ("two", self.weights[1])]
            .into_iter()
            .filter(|(_, share)| *share > 0)
            .map(|(name, share)| weight(name, share))
            .collect();
        let filters = if self.has_filter { vec![filter] } else { Vec::new() };
        let rules = json!([
            {"backendRefs": backends, "filters": filters},
            {"matches": [path("Exact", "/edit")], "backendRefs": [weight("one", 1)], "filters": [marker]},
        ]);
        let spec = json!({"parentRefs": [{"name": "my-gateway"}], "rules": rules});
        of_a("HTTPRoute", "default", "web").route(spec, &[("one", 30_001), ("two", 30_002)])
    }
}

#[test]
fn no_request_fails_while_everything_is_edited_and_managers_are_killed() {
    let edits = std::env::var(EDITS_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(EDITS);
    let made = [certificate(HOST), certificate(HOST)];
    let mut edited = Edited {
        number: 0,
        weights: [1, 0],
        has_filter: false,
        has_listener: false,
        is_renewed: false,
    };
    let mut objects = base(&["a"], Value::Null);
    objects.extend([
        gateway("a", &edited.listeners()),
        secret("a", "cert", &made[0]),
        edited.route(),
    ]);
    let live = Live::new("l7-soak", &objects);
    let _servers: Vec<Server> = [("one", 30_001), ("two", 30_002)]
        .map(|(name, port)| Server::start(&live.namespace, Kind::Http, name, port).unwrap())
        .into();
    let first = live.manager(0);
    // Managers over the same manifests with one authority serve the same.
    std::fs::create_dir(live.state(1)).unwrap();
    std::fs::copy(live.state(0).join("xds-ca.pem"), live.state(1).join("xds-ca.pem")).unwrap();
    let mut managers = [Some(first), Some(live.manager(1))];
    let addresses = MANAGERS.map(|[listen, _]| listen);
    let envoy = live.envoy("a", &addresses);
    let until_edited = |number: u32| {
        wait::until(TAKEN_WITHIN, || {
            let answer = ask(&live.namespace, vip(80), &format!("GET {HOST}/edit"), &[])?;
            let edit = answer.headers.get("x-edit").cloned().unwrap_or_default();
            anyhow::ensure!(
                edit == number.to_string(),
                "edit {number}: {answer:?}\n{}",
                envoy.logged()
            );
            Ok(())
        })
        .unwrap();
    };
    until_edited(0);
    let trusts = made.each_ref().map(|made| Trust::only(made.cert.der()).unwrap());
    // A new connection for each request, also over TLS: a listener that is replaced is one that new connections meet.
    let load = HttpLoad::start(&live.namespace, vip(80), HOST, 2).unwrap();
    let tls = HttpLoad::start_tls(&live.namespace, vip(443), HOST, &trusts[0], 1).unwrap();
    load.until_more(100).unwrap();
    let mut requests = 0;
    for number in 1..=edits {
        edited.number = number;
        match number % 5 {
            0 => edited.weights = [1, 0],
            1 => edited.weights = [0, 1],
            2 => edited.weights = [number % 7 + 1, number % 3 + 1],
            3 => edited.has_filter = !edited.has_filter,
            _ => {
                edited.has_listener = !edited.has_listener;
                live.put(&gateway("a", &edited.listeners()));
                if !edited.has_listener {
                    edited.is_renewed = !edited.is_renewed;
                    live.put(&secret("a", "cert", &made[usize::from(edited.is_renewed)]));
                }
            }
        }
        live.put(&edited.route());
        let turn = number % (2 * KILL_EVERY);
        let which = usize::from(turn >= KILL_EVERY);
        match turn % KILL_EVERY {
            1 => managers[which].take().unwrap().kill(),
            5 => managers[which] = Some(live.manager(which)),
            _ => {}
        }
        until_edited(number);
        let trust = &trusts[usize::from(edited.is_renewed)];
        wait::until(TAKEN_WITHIN, || {
            let status = https_get(&live.namespace, vip(443), HOST, trust)?;
            anyhow::ensure!(status == 200, "{status}");
            Ok(())
        })
        .unwrap();
        requests += 1;
    }
    let tallies = [load, tls].map(|load| load.finish().unwrap());
    for tally in &tallies {
        tally.all_good().unwrap();
        requests += tally.total();
    }
    eprintln!("{edits} edits, {requests} requests, none failed");
}
