//! kubectl deletes objects: waiting or not, with what they own or without.

use super::kubectl_apply::{SERVICE, config_map};
use super::running::{Running, says};

#[test]
fn delete_by_name_by_label_and_by_file() {
    let running = Running::start();
    running.says_of("apply -f -", SERVICE);
    // Later versions say of which namespace.
    assert!(running.says("delete svc ap").starts_with("service \"ap\" deleted"));
    assert!(running.refuses("delete svc ap", "").contains("NotFound"));
    assert_eq!(running.says("delete svc ap --ignore-not-found"), "");
    let maps: String = ["a", "b", "c"].map(|name| config_map(name, name, "v")).concat();
    running.says_of("apply -f -", &maps);
    assert_eq!(running.says("delete cm -l app=a -o name"), "configmap/a\n");
    assert_eq!(
        running.says_of("delete -o name -f -", &config_map("b", "b", "v")),
        "configmap/b\n"
    );
    assert_eq!(running.says("get cm -l app -o name"), "configmap/c\n");
    running.says("delete cm --all");
    assert_eq!(running.says("get cm -l app -o name"), "");
}

#[test]
fn delete_waits_for_finalizers() {
    let running = Running::start();
    running.says_of("apply -f -", &config_map("c", "x", "v"));
    let mut finalizer = running.kubectl("patch cm c --type=merge -p");
    says(finalizer.arg(r#"{"metadata":{"finalizers":["example.com/f"]}}"#), "");
    let late = running.refuses("delete cm c --timeout=1s", "");
    assert!(late.contains("timed out"), "{late}");
    assert_ne!(running.field("cm/c", ".metadata.deletionTimestamp"), "");
    let mut gone = running.kubectl("patch cm c --type=merge -p");
    says(gone.arg(r#"{"metadata":{"finalizers":null}}"#), "");
    assert_eq!(running.says("get cm c --ignore-not-found"), "");
}

#[test]
fn what_is_owned_goes_or_stays_as_cascade_says() {
    let running = Running::start();
    for (name, cascade, finalizer) in [
        ("f", "foreground", r#"["foregroundDeletion"]"#),
        ("o", "orphan", r#"["orphan"]"#),
    ] {
        running.says(&format!("create deployment {name} --image=i"));
        running.says(&format!("delete deploy {name} --cascade={cascade} --wait=false"));
        // Who takes the finalizer away is the garbage collector, and none runs here.
        assert_eq!(
            running.field(&format!("deploy/{name}"), ".metadata.finalizers"),
            finalizer
        );
    }
    running.says("create deployment b --image=i");
    running.says("delete deploy b --cascade=background");
    assert_eq!(running.says("get deploy b --ignore-not-found"), "");
}

#[test]
fn a_namespace_ends_in_two_steps() {
    let running = Running::start();
    assert_eq!(running.says("create ns kx"), "namespace/kx created\n");
    running.says("delete ns kx --wait=false");
    assert!(running.says("get ns kx").contains("Terminating"));
    let refused = running.refuses("create cm c -n kx", "");
    assert!(refused.contains("because it is being terminated"), "{refused}");
}
