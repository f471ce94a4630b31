//! Certificates and authorities that are replaced while an Envoy is served.

use std::time::Duration;

use kubelb_manager::identity::SpiffeId;
use kubelb_manager::identity::authority::rotation::{self, Step};
use kubelb_manager::xds::server::{Count, Options};
use kubelb_tests::envoy::Envoy;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::wait;

use crate::bootstrap::issue;
use crate::hub::{Hub, Setup, now};
use crate::peer::{Credential, DeltaPeer};
use crate::world::{SOON, World, web};

/// Connections that are replaced all the time, so that each change is soon put to use.
fn restless() -> Options {
    Options {
        max_connection_age: Duration::from_millis(300),
        authority_check: Duration::from_millis(50),
        ..Options::default()
    }
}

/// Waits for so many connections more, none of which was refused.
fn until_more(hub: &Hub<'_>, connections: u64) {
    let wanted = hub.total(Count::Connections) + connections;
    wait::until(SOON * 2, || {
        let now = hub.total(Count::Connections);
        anyhow::ensure!(now >= wanted, "{now} of {wanted} connections");
        Ok(())
    })
    .unwrap();
    assert_eq!(
        hub.total(Count::HandshakesFailed),
        0,
        "{}",
        hub.server().render_metrics()
    );
    assert_eq!(hub.total(Count::Refused), 0, "{}", hub.server().render_metrics());
}

/// That Envoy has not failed to connect.
fn connects(envoy: &Envoy<'_>) {
    for failure in [
        "ssl.connection_error",
        "ssl.fail_verify_error",
        "ssl.fail_verify_san",
        "upstream_cx_connect_fail",
    ] {
        let count = envoy.stat(&format!("cluster.kubelb-xds.{failure}")).unwrap();
        assert_eq!(count, 0, "{failure}");
    }
}

#[test]
fn the_servers_certificate_is_renewed_while_envoys_come_and_go() {
    let mut world = World::new("xds-renewal");
    let one = world.backend("one");
    let setup = Setup {
        options: restless(),
        lifetime: Duration::from_secs(3),
        ..Setup::default()
    };
    let hub = Hub::with(&world.namespace, world.state(), web("one", &[("one", one)]), setup);
    let envoy = world.envoy(&hub, "a");
    let load = world.load();
    // Longer than any one of its certificates is valid.
    let start = wait::now();
    while start.elapsed() < Duration::from_secs(5) {
        until_more(&hub, 3);
    }
    connects(&envoy);
    load.finish().unwrap().all_good().unwrap();
}

#[test]
fn the_authority_is_replaced_step_by_step_while_an_envoy_comes_and_goes() {
    let mut world = World::new("xds-authority");
    let one = world.backend("one");
    let setup = Setup {
        options: restless(),
        ..Setup::default()
    };
    let hub = Hub::with(&world.namespace, world.state(), web("one", &[("one", one)]), setup);
    let directory = Scratch::new().unwrap();
    let envoy = world.envoy_at(&issue(&hub, world.state(), directory.path()));
    hub.until_synced();
    envoy.until_serving(SOON).unwrap();
    let load = world.load();
    let sent = hub.total(Count::Resources);
    let old = hub.issue(&SpiffeId::fleet("a").unwrap(), Duration::from_secs(600));
    let updates = || {
        let client = envoy.stat("sds.kubelb-xds-client.update_success").unwrap();
        (client, envoy.stat("sds.kubelb-xds-trust.update_success").unwrap())
    };
    for step in [Step::Announced, Step::Switched, Step::Finished] {
        assert_eq!(rotation::step(world.state(), now()).unwrap(), step);
        until_more(&hub, 3);
        let before = updates();
        issue(&hub, world.state(), directory.path());
        envoy
            .until(SOON, |_| {
                let now = updates();
                anyhow::ensure!(now.0 > before.0 && now.1 > before.1, "not read yet");
                Ok(())
            })
            .unwrap();
        until_more(&hub, 3);
    }
    connects(&envoy);
    hub.until_synced();
    assert_eq!(hub.total(Count::Resources), sent, "nothing is sent again");
    load.finish().unwrap().all_good().unwrap();

    // What the old authority has issued opens nothing any more.
    let credential = Credential {
        certificate: Some(&old),
        token: None,
    };
    let refused = match DeltaPeer::open(&hub, &credential) {
        Ok(mut peer) => peer.next().err(),
        Err(status) => Some(status),
    };
    assert!(refused.is_some());
    hub.assert_logged("certificate_unknown_issuer");
}
