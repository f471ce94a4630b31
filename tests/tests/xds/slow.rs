//! Peers that do not read, and very many of them: what they cost the server and the others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kubelb_manager::identity::SpiffeId;
use kubelb_manager::identity::authority::Issued;
use kubelb_manager::xds::server::{Count, Options};
use kubelb_tests::wait;
use kubelb_tests::xds::{self, Tenant};
use kubelb_xds::{Resource, ResourceType};

use crate::hub::{Hub, Setup};
use crate::peer::{Credential, DeltaPeer};
use crate::world::{SOON, World};

const MIB: usize = 1 << 20;
const CLUSTERS: &str = "cds";

/// One cluster of about `bytes`, which `round` makes another one each time.
fn large(round: usize, bytes: usize) -> Vec<Resource> {
    let mut cluster = xds::static_cluster("large", &[]);
    cluster.alt_stat_name = format!("{round:08}").repeat(bytes / 8);
    Tenant::new("a").with(&cluster, &[]).resources()
}

fn issue(hub: &Hub<'_>) -> Issued {
    hub.issue(&SpiffeId::fleet("a").unwrap(), Duration::from_secs(3600))
}

fn shown(issued: &Issued) -> Credential<'_> {
    Credential {
        certificate: Some(issued),
        token: None,
    }
}

/// A peer that has taken the first cluster.
fn peer(hub: &Hub<'_>, issued: &Issued) -> DeltaPeer {
    first_taken(DeltaPeer::open(hub, &shown(issued)).unwrap())
}

fn first_taken(mut peer: DeltaPeer) -> DeltaPeer {
    peer.ask(ResourceType::Cluster, &[]);
    let first = peer.next().unwrap();
    peer.ack(&first);
    peer
}

/// Memory is the whole process's: these tests are not to be measured with each other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory of this process that is in RAM, in bytes.
fn resident() -> usize {
    // SAFETY: it takes no pointer, and may be called at any time.
    unsafe { libc::malloc_trim(0) };
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn a_peer_that_does_not_read_costs_bounded_memory_delays_nobody_and_then_gets_the_newest_state() {
    const ROUNDS: usize = 100;
    let _alone = alone();
    let world = World::new("xds-window");
    let hub = Hub::start(&world.namespace, world.state(), large(0, 16));
    let issued = issue(&hub);
    let mut deaf = peer(&hub, &issued);
    let mut other = peer(&hub, &issued);
    deaf.stop_reading();

    let mut slowest = Duration::ZERO;
    let mut before = 0;
    for round in 1..=ROUNDS {
        let resources = large(round, MIB);
        let start = wait::now();
        hub.publish(resources);
        let response = other.next().unwrap();
        slowest = slowest.max(start.elapsed());
        assert_eq!(response.resources.len(), 1);
        other.ack(&response);
        if round == 10 {
            before = resident();
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 40 * MIB, "{} MiB more", grown / MIB);
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // Of all that, the one that does not read was sent one response more than the first.
    let sent = hub.count(Count::Responses, CLUSTERS);
    assert_eq!(sent, 2 + u64::try_from(ROUNDS).unwrap() + 1);

    deaf.read_on();
    let old = deaf.next().unwrap();
    assert_ne!(newest(&old.resources), ROUNDS);
    deaf.ack(&old);
    let new = deaf.next().unwrap();
    assert_eq!(newest(&new.resources), ROUNDS, "all that came between is left out");
    deaf.ack(&new);
    assert!(deaf.silence(Duration::from_millis(200)));
}

/// Of which round the one resource is.
fn newest(resources: &[kubelb_xds::pb::envoy::service::discovery::v3::Resource]) -> usize {
    use prost::Message as _;

    assert_eq!(resources.len(), 1);
    let any = resources[0].resource.as_ref().unwrap();
    let cluster = xds::Cluster::decode(any.value.as_slice()).unwrap();
    cluster.alt_stat_name[..8].parse().unwrap()
}

#[test]
fn a_peer_that_does_not_read_at_all_is_cut_off_after_a_while() {
    let _alone = alone();
    let world = World::new("xds-deaf");
    let options = Options {
        keepalive_interval: Duration::from_millis(500),
        keepalive_timeout: Duration::from_millis(500),
        ..Options::default()
    };
    let setup = Setup {
        options,
        ..Setup::default()
    };
    let hub = Hub::with(&world.namespace, world.state(), large(0, 16), setup);
    let issued = issue(&hub);
    let deaf = peer(&hub, &issued);
    let other = peer(&hub, &issued);
    deaf.stop_reading();
    // More than goes into the buffers of both sockets.
    hub.publish(large(1, 32 * MIB));
    wait::until(SOON, || {
        let peers = hub.server().registry().peers();
        anyhow::ensure!(peers.len() == 1, "{} peers", peers.len());
        Ok(())
    })
    .unwrap();
    drop((deaf, other));
}

#[test]
fn a_change_for_a_hundred_peers_is_in_memory_once() {
    const PEERS: usize = 100;
    let _alone = alone();
    let world = World::new("xds-hundred");
    let hub = Hub::start(&world.namespace, world.state(), large(0, 16));
    let issued = issue(&hub);
    let narrow = |_| first_taken(DeltaPeer::open_narrow(&hub, &shown(&issued)).unwrap());
    let mut peers: Vec<DeltaPeer> = (0..PEERS).map(narrow).collect();
    hub_has(&hub, Count::Acks, PEERS);
    peers.iter().for_each(DeltaPeer::stop_reading);

    let resources = large(1, MIB);
    let before = resident();
    hub.publish(resources);
    hub_has(&hub, Count::Responses, 2 * PEERS);
    // Each connection has a buffer of a few frames.
    let grown = resident().saturating_sub(before);
    assert!(grown < PEERS * MIB / 3, "{} MiB for {PEERS} peers", grown / MIB);
    for peer in &mut peers {
        peer.read_on();
        let response = peer.next().unwrap();
        assert_eq!(newest(&response.resources), 1);
        peer.ack(&response);
    }
    hub_has(&hub, Count::Acks, 2 * PEERS);
}

fn hub_has(hub: &Hub<'_>, count: Count, wanted: usize) {
    let wanted = u64::try_from(wanted).unwrap();
    wait::until(SOON, || {
        let now = hub.count(count, CLUSTERS);
        anyhow::ensure!(now == wanted, "{now} of {wanted}");
        Ok(())
    })
    .unwrap();
}
