use super::*;
use crate::contract::VirtualAddress;
use crate::pb::envoy::config::cluster::v3::Cluster;
use crate::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use crate::resource::{Audience, Owner, Reference};

fn cluster(name: &str, owner: Owner, audience: Audience) -> Resource {
    let message = Cluster {
        name: name.to_owned(),
        ..Cluster::default()
    };
    Resource::new(&message, owner, audience).needing([Reference {
        kind: ResourceType::Endpoints,
        name: name.into(),
    }])
}

fn endpoints(name: &str, owner: Owner, audience: Audience) -> Resource {
    let message = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        ..ClusterLoadAssignment::default()
    };
    Resource::new(&message, owner, audience)
}

fn address(address: &str, epoch: u64) -> Resource {
    let message = VirtualAddress {
        address: address.to_owned(),
        epoch,
        ..VirtualAddress::default()
    };
    Resource::new(&message, Owner::Shared, Audience::Agents)
}

fn names(diff: &Diff, kind: ResourceType) -> Vec<&str> {
    diff.names(kind).iter().map(AsRef::as_ref).collect()
}

#[test]
fn the_difference_names_what_was_added_changed_and_removed() {
    let kind = ResourceType::VirtualAddress;
    let old = Snapshot::build([address("a", 1), address("b", 1), address("d", 1)], None).unwrap();
    let new = Snapshot::build([address("a", 1), address("b", 2), address("c", 1)], Some(&old)).unwrap();
    assert_eq!(names(&new.diff_since(&old), kind), ["b", "c", "d"]);
    assert!(
        Arc::ptr_eq(old.get(kind, "a").unwrap(), new.get(kind, "a").unwrap()),
        "not taken over"
    );
    assert!(new.diff_since(&new).is_empty());

    let third = new.update(
        [address("a", 9), address("b", 2)],
        &[(kind, "d".into()), (kind, "c".into())],
    );
    assert_eq!(names(&third.diff_since(&new), kind), ["a", "c"]);
    assert_eq!(names(&third.diff_since(&old), kind), ["a", "b", "d"], "of two steps");
    assert!(third.get(kind, "c").is_none());
}

#[test]
fn a_name_comes_once_in_a_type() {
    let duplicate = Snapshot::build([address("a", 1), address("a", 2)], None).unwrap_err();
    assert_eq!(
        duplicate.to_string(),
        "two resources of type virtual-address are called \"a\""
    );
}

#[test]
fn what_is_referenced_must_exist_for_all_who_see_the_reference() {
    let (a, b) = (Owner::tenant("a"), Owner::tenant("b"));
    let fleets = Audience::Fleets;
    let check = |resources: Vec<Resource>| Snapshot::build(resources, None).unwrap().check_references();

    assert_eq!(
        check(vec![cluster("x", a.clone(), fleets), endpoints("x", a.clone(), fleets)]),
        Ok(())
    );
    assert_eq!(
        check(vec![
            cluster("x", a.clone(), fleets),
            endpoints("x", Owner::Shared, Audience::Everyone)
        ]),
        Ok(())
    );
    assert_eq!(
        check(vec![
            cluster("x", a.clone(), Audience::Agents),
            endpoints("x", b.clone(), Audience::Agents)
        ]),
        Ok(())
    );

    let missing = check(vec![cluster("x", a.clone(), fleets)]).unwrap_err();
    assert_eq!(
        missing[0].to_string(),
        "cds \"x\" needs eds \"x\", which does not exist"
    );
    let hidden = check(vec![cluster("x", a.clone(), fleets), endpoints("x", b, fleets)]).unwrap_err();
    assert_eq!(
        hidden[0].to_string(),
        "cds \"x\" needs eds \"x\", which is not for all who see it"
    );
    assert!(
        check(vec![
            cluster("x", Owner::Shared, fleets),
            endpoints("x", a.clone(), fleets)
        ])
        .is_err()
    );
    assert!(
        check(vec![
            cluster("x", a.clone(), Audience::Everyone),
            endpoints("x", a, fleets)
        ])
        .is_err()
    );
}

#[test]
fn a_peer_sees_its_scope_only() {
    let kind = ResourceType::Cluster;
    let snapshot = Snapshot::build(
        [
            cluster("agents", Owner::tenant("a"), Audience::Agents),
            cluster("both", Owner::tenant("a"), Audience::Everyone),
            cluster("shared", Owner::Shared, Audience::Fleets),
            cluster("of-a", Owner::tenant("a"), Audience::Fleets),
            cluster("of-b", Owner::tenant("b"), Audience::Fleets),
        ],
        None,
    )
    .unwrap();
    let seen = |scope: Scope| -> Vec<String> {
        snapshot
            .view(&scope, kind)
            .map(|resource| resource.name().to_string())
            .collect()
    };
    assert_eq!(seen(Scope::Agent), ["agents", "both"]);
    assert_eq!(seen(Scope::tenant("a")), ["both", "of-a", "shared"]);
    assert_eq!(seen(Scope::tenant("b")), ["of-b", "shared"]);
    assert_eq!(seen(Scope::Fleet(Tenants::Only([].into()))), ["shared"]);
    assert_eq!(seen(Scope::Fleet(Tenants::All)), ["both", "of-a", "of-b", "shared"]);
    assert!(snapshot.visible(&Scope::tenant("b"), kind, "of-a").is_none());
}

#[test]
fn a_cluster_comes_and_goes_with_the_secret_that_it_needs() {
    use crate::pb::envoy::extensions::transport_sockets::tls::v3::Secret;

    let scope = Scope::tenant("a");
    let secret = |owner: &str| {
        let message = Secret {
            name: "s".to_owned(),
            ..Secret::default()
        };
        Resource::new(&message, Owner::tenant(owner), Audience::Fleets)
    };
    let with_tls = || {
        cluster("tls", Owner::tenant("a"), Audience::Fleets).needing([Reference {
            kind: ResourceType::Secret,
            name: "s".into(),
        }])
    };
    let plain = || cluster("plain", Owner::tenant("a"), Audience::Fleets);
    let kind = ResourceType::Cluster;
    let seen = |snapshot: &Snapshot| -> Vec<String> {
        let names = snapshot.view(&scope, kind);
        names.map(|resource| resource.name().to_string()).collect()
    };

    let without = Snapshot::build([plain(), with_tls()], None).unwrap();
    assert_eq!(seen(&without), ["plain"]);
    assert!(without.visible(&scope, kind, "tls").is_none());
    let with = Snapshot::build([plain(), with_tls(), secret("a")], Some(&without)).unwrap();
    assert_eq!(seen(&with), ["plain", "tls"]);
    assert_eq!(names(&with.diff_since(&without), kind), ["tls"]);
    let of_another = with.update([secret("b")], &[]);
    assert_eq!(seen(&of_another), ["plain"], "a secret that it may not see");
    assert_eq!(names(&of_another.diff_since(&with), kind), ["tls"]);
    let gone = with.update([], &[(ResourceType::Secret, "s".into())]);
    assert_eq!(seen(&gone), ["plain"]);
    assert_eq!(names(&gone.diff_since(&with), kind), ["tls"]);
    let other = with.update([plain()], &[]);
    assert!(names(&other.diff_since(&with), kind).is_empty());
}
