//! What `kubelb-manager bootstrap` writes, with the real Envoy.

use std::path::Path;
use std::time::Duration;

use kubelb_manager::bootstrap::{self, BootstrapArgs, EnvoyPlaces, LimitFlags};
use kubelb_tests::scratch::Scratch;

use crate::hub::{Hub, now};
use crate::world::{SOON, World, port, web};

pub(crate) fn issue(hub: &Hub<'_>, state: &Path, output: &Path) -> String {
    issue_with(hub, state, output, None)
}

/// For a peer that shows the token in this file, if there is one.
pub(crate) fn issue_with(hub: &Hub<'_>, state: &Path, output: &Path, token_file: Option<&Path>) -> String {
    let args = BootstrapArgs {
        agent: None,
        fleet: Some("a".to_owned()),
        xds: vec![format!("https://{}", hub.address())],
        state_dir: Some(state.to_owned()),
        xds_ca: None,
        output: Some(output.to_owned()),
        token_file: token_file.map(Path::to_owned),
        places: EnvoyPlaces::default(),
        limits: LimitFlags {
            max_connections: Some(1_000),
            max_heap: Some(1_024),
        },
    };
    let mut printed = Vec::new();
    bootstrap::run(&args, now(), &mut printed).unwrap();
    let printed = String::from_utf8(printed).unwrap();
    let file = printed.trim().strip_prefix("envoy --config-path ").unwrap();
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn a_certificate_is_replaced_while_envoy_runs() {
    let world = World::new("xds-bootstrap");
    let mut hub = Hub::start(&world.namespace, world.state(), web("one", &[("one", port(9))]));
    let directory = Scratch::new().unwrap();
    let text = issue(&hub, world.state(), directory.path());
    let envoy = world.envoy_at(&text);
    hub.until_synced();
    envoy.until_listener(SOON, "web").unwrap();

    let updates = || envoy.stat("sds.kubelb-xds-client.update_success").unwrap();
    let before = updates();
    assert_eq!(
        issue(&hub, world.state(), directory.path()),
        text,
        "only the secrets change"
    );
    envoy
        .until(SOON, |_| {
            anyhow::ensure!(updates() > before, "the new certificate was not read");
            Ok(())
        })
        .unwrap();
    assert_eq!(envoy.stat("sds.kubelb-xds-client.update_rejected").unwrap(), 0);
    hub.kill();
    hub.restart();
    hub.until_synced_within(Duration::from_secs(30));
}
