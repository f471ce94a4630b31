//! One change among many resources of one sort, with the real Envoy: nothing that it takes may take a second. (`cargo xtask bench-xds --parts scale` has
//! the same with thousands of them.)

use std::time::Duration;

use kubelb_tests::envoy::Envoy;
use kubelb_tests::traffic::{HttpLoad, Trust, http_get, https_get};
use kubelb_tests::wait;
use kubelb_tests::xds::rows::{Door, Row, Site};

use crate::hub::Hub;
use crate::world::{SOON, World};

const MUST: Duration = Duration::from_secs(1);
/// For all of them at once, on a machine that does something else.
const LOADED: Duration = Duration::from_secs(60);

fn allocated(envoy: &Envoy<'_>) -> u64 {
    let memory: serde_json::Value = serde_json::from_str(&envoy.get("/memory").unwrap()).unwrap();
    memory["allocated"].as_str().unwrap().parse().unwrap()
}

fn ask(world: &World, door: &Door, trust: &Trust) -> anyhow::Result<()> {
    let status = match door {
        Door::Http(to) => http_get(&world.namespace, *to, "/")?.0,
        Door::Https(to, host) => https_get(&world.namespace, *to, host, trust)?,
    };
    anyhow::ensure!(status == 200, "{door:?} says {status}");
    Ok(())
}

/// Lets Envoy have `many` of a row, and then a few more, one by one, under traffic. Bytes of its memory for each.
fn one_more(role: &str, row: Row, many: u16) -> u64 {
    let mut world = World::new(role);
    let site = Site::new(world.backend("one")).unwrap();
    let trust = Trust::only(site.certificate()).unwrap();
    let hub = Hub::start(&world.namespace, world.state(), site.resources(row, 0));
    let envoy = world.envoy(&hub, "a");
    let load = world.load();
    let before = allocated(&envoy);
    hub.publish(site.resources(row, many));
    hub.until_synced_within(LOADED);
    let each = (allocated(&envoy) - before) / u64::from(many);
    let change = |what: &str, many: u16, asked: Option<Door>| {
        let start = wait::now();
        hub.publish(site.resources(row, many));
        hub.until_synced();
        let acknowledged = start.elapsed();
        if let Some(door) = asked {
            wait::until(SOON, || ask(&world, &door, &trust)).unwrap();
        }
        let serves = start.elapsed();
        eprintln!("{row:?} {what}: acknowledged after {acknowledged:?}, serves after {serves:?}");
        assert!(serves < MUST, "{row:?} {what}: {acknowledged:?} {serves:?}");
    };
    // Also the first of them, all the time.
    let first = row.door(0).map(|door| match door {
        Door::Http(to) => HttpLoad::start(&world.namespace, to, "many", 1).unwrap(),
        Door::Https(to, host) => HttpLoad::start_tls(&world.namespace, to, &host, &trust, 1).unwrap(),
    });
    for more in 0..3 {
        change("one more", many + more + 1, row.door(many + more));
    }
    change("three less", many, row.door(many - 1));
    for load in first.into_iter().chain([load]) {
        load.until_more(20).unwrap();
        load.finish().unwrap().all_good().unwrap();
    }
    each
}

#[test]
fn a_cluster_more() {
    let each = one_more("xds-many-cds", Row::Clusters, 500);
    assert!(each < 40 * 1024, "{each} bytes for each cluster");
}

#[test]
fn a_host_more_in_one_route_configuration() {
    one_more("xds-many-rds", Row::Hosts, 500);
}

#[test]
fn a_listener_more() {
    one_more("xds-many-lds", Row::Listeners, 100);
}

#[test]
fn a_host_more_among_those_with_certificates_of_their_own_and_among_those_that_share_one() {
    let chains = one_more("xds-many-chains", Row::Chains { each: 200 }, 200);
    let shared = one_more("xds-one-cert", Row::OneCertificate, 200);
    // A chain for each host costs several times as much.
    assert!(shared * 3 < chains, "{shared} and {chains} bytes for each host");
}
