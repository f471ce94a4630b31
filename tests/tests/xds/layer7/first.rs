//! The first request to a new route, and everything that Envoys acknowledge on the way there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kubelb_tests::traffic::exchange::{ask, ask_here};
use kubelb_tests::wait;
use serde_json::json;

use super::backend;
use super::site::{Site, http, to, vip};
use crate::hub::Hub;
use crate::world::{SOON, World};

/// Routes that come while somebody asks for them.
const ROUTES: u16 = 20;

#[test]
fn the_first_request_to_a_new_route_is_never_answered_with_a_failure() {
    let world = World::new("l7-first");
    let mut site = Site::new(&world, http());
    backend::http1(&world.namespace, "web", 30_001);
    let hub = Hub::start(&world.namespace, world.state(), site.resources());
    let _envoy = world.envoy(&hub, "a");
    for number in 0..ROUTES {
        let host = format!("new-{number}.example");
        // Of a Service of its own, so that its cluster is new as well.
        let service = format!("service-{number}");
        let spec = json!({"parentRefs": [{"name": "my-gateway"}], "hostnames": [host], "rules": [{"backendRefs": to(&service)}]});
        let stop = Arc::new(AtomicBool::new(false));
        let asking = {
            let (stop, request) = (Arc::clone(&stop), format!("GET {host}/"));
            world.namespace.spawn(move || {
                let mut statuses = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let status = ask_here(vip(80), &request, &[]).unwrap().status;
                    statuses.push(status);
                }
                statuses
            })
        };
        site.route(
            "HTTPRoute",
            "default",
            &format!("new-{number}"),
            spec,
            &[(&service, 30_001)],
        );
        hub.push(site.resources());
        wait::until(SOON, || {
            let answer = ask(&world.namespace, vip(80), &format!("GET {host}/"), &[])?;
            anyhow::ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        })
        .unwrap();
        stop.store(true, Ordering::Relaxed);
        let statuses = asking.unwrap().join().unwrap().unwrap();
        let first = statuses
            .iter()
            .position(|status| *status != 404)
            .unwrap_or(statuses.len());
        assert!(statuses[first..].iter().all(|status| *status == 200), "{statuses:?}");
    }
    super::assert_nothing_refused(&hub);
}
