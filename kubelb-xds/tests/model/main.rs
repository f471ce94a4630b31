//! Sessions against models of peers: whatever happens, in whatever order, in the end a peer has what it asked for and may see, and on the way
//! nothing was sent that would cost traffic.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

mod peer;
mod run;
mod world;

use kubelb_xds::ResourceType;
use kubelb_xds::server::Variant;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use crate::peer::Manner;
use crate::run::{Op, Run};
use crate::world::World;

fn kinds() -> impl Strategy<Value = ResourceType> {
    prop::sample::select(ResourceType::ALL.to_vec())
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Deliver),
        4 => World::strategy().prop_map(Op::Snapshot),
        2 => kinds().prop_map(Op::Wildcard),
        1 => kinds().prop_map(Op::NoWildcard),
        3 => (kinds(), 0_u8..8).prop_map(|(kind, name)| Op::Subscribe(kind, name)),
        3 => (kinds(), 0_u8..8).prop_map(|(kind, name)| Op::Unsubscribe(kind, name)),
        1 => kinds().prop_map(Op::StaleNonce),
        1 => Just(Op::Reconnect),
        1 => (0_u8..4).prop_map(Op::Scope),
        1 => (0_u16..7_000).prop_map(Op::Wait),
        2 => (kinds(), 0_u8..8, 1_u8..4).prop_map(|(kind, name, number)| Op::Hate(kind, name, number)),
    ]
}

fn run(variant: Variant, manner: Manner, legacy: bool, ops: Vec<Op>) {
    let mut run = Run::new(variant, manner);
    if legacy {
        run.open_as_envoy_does();
    }
    for op in ops {
        run.apply(op);
    }
    run.settle();
    run.check();
}

// `PROPTEST_CASES` says how many histories. What fails is kept in the file and tried first from then on, until what makes histories changes;
// a test by name, further down, lasts longer.
proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/model/regressions.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_delta_peer_ends_with_what_it_may_see(
        manner in prop::sample::select(Manner::ALL.to_vec()),
        legacy in any::<bool>(),
        ops in prop::collection::vec(ops(), 1..60),
    ) {
        run(Variant::Delta, manner, legacy, ops);
    }

    #[test]
    fn a_state_of_the_world_peer_ends_with_what_it_may_see(
        legacy in any::<bool>(),
        ops in prop::collection::vec(ops(), 1..60),
    ) {
        run(Variant::StateOfTheWorld, Manner::WholeResponse, legacy, ops);
    }
}

#[test]
fn nothing_is_led_to_a_cluster_that_was_asked_for_again_and_then_rejected() {
    use ResourceType::{Cluster, Listener};
    let world = |cluster| World::default().cluster(7, cluster);
    let history = [
        Op::Hate(Cluster, 7, 2),
        Op::Wildcard(Cluster),
        Op::Snapshot(world(1)),
        Op::Wildcard(Listener),
        Op::Deliver,
        Op::Snapshot(world(2)),
        Op::Deliver,
        Op::Deliver,
        Op::Reconnect,
        Op::Snapshot(world(2).listener(4, 1, 8)),
        Op::StaleNonce(Cluster),
    ];
    for manner in Manner::ALL {
        run(Variant::Delta, manner, false, history.to_vec());
    }
}

#[test]
fn what_was_removed_in_a_rejected_response_is_sent_when_it_comes_back() {
    use ResourceType::Listener;
    let first = || World::default().cluster(2, 1).listener(3, 3, 4);
    let history = [
        Op::Wildcard(Listener),
        Op::Snapshot(first()),
        Op::Deliver,
        Op::Hate(Listener, 0, 3),
        Op::Snapshot(World::default().listener(0, 3, 0).listener(7, 1, 0)),
        Op::Deliver,
        Op::Snapshot(first()),
    ];
    for manner in Manner::ALL {
        run(Variant::Delta, manner, false, history.to_vec());
    }
}
