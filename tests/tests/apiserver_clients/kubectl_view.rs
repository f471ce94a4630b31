//! kubectl shows objects: every form of get, describe, watch, explain, and what kinds there are.

use std::io::{BufRead as _, BufReader};

use super::kubectl_apply::{SERVICE, config_map};
use super::running::{Running, start};

const APPLY: &str = "apply -f -";

#[test]
fn get_in_every_form() {
    let running = Running::start();
    running.says_of(APPLY, SERVICE);
    let wide = running.says("get svc -o wide");
    for part in ["EXTERNAL-IP", "<pending>", "app=x", "80:"] {
        assert!(wide.contains(part), "{part}: {wide}");
    }
    assert!(running.says("get svc ap -o yaml").contains("loadBalancer: {}"));
    assert!(running.says("get svc ap -o json").contains("\"targetPort\": 8080"));
    assert_eq!(running.says("get svc ap -o name"), "service/ap\n");
    assert_eq!(running.says("get svc ap -o jsonpath={.spec.ports[0].name}"), "http");
    let columns = "get svc ap --no-headers -o custom-columns=N:.metadata.name,P:.spec.ports[*].port";
    assert_eq!(
        running.says(columns).split_whitespace().collect::<Vec<_>>(),
        ["ap", "80"]
    );
    let template = "get svc ap -o go-template={{.spec.type}}";
    assert_eq!(running.says(template), "LoadBalancer");
    let labels = running.says("get svc --show-labels -l component=apiserver -L provider");
    assert!(
        labels.contains("PROVIDER") && labels.contains("component=apiserver"),
        "{labels}"
    );
    let chosen = running.says("get svc --field-selector metadata.name=ap -o name");
    assert_eq!(chosen, "service/ap\n");
    let both = running.says("get svc,ns -A --sort-by=.metadata.name -o name");
    assert!(
        both.contains("service/kubernetes") && both.contains("namespace/kube-system"),
        "{both}"
    );
    assert!(running.says("get all").contains("service/ap"));
    assert!(running.says("get --raw /readyz").contains("ok"));
    assert!(
        running
            .says("get svc/ap svc/kubernetes --ignore-not-found")
            .lines()
            .count()
            == 3
    );
    assert_eq!(running.says("get svc nothing --ignore-not-found"), "");
    assert!(
        running
            .refuses("get nothings", "")
            .contains("the server doesn't have a resource type \"nothings\"")
    );
}

#[test]
fn long_lists_come_in_pages() {
    let running = Running::start();
    let maps: String = (0..25)
        .map(|number| config_map(&format!("c{number:02}"), "x", "v"))
        .collect();
    running.says_of(APPLY, &maps);
    let names = running.says("get cm -l app=x --chunk-size=10 -o name");
    assert_eq!(names.lines().count(), 25);
    assert_eq!(
        running
            .says("get cm -l app=x --chunk-size=10 --no-headers")
            .lines()
            .count(),
        25
    );
}

#[test]
fn describe_tells_the_story() {
    let running = Running::start();
    running.says_of(APPLY, SERVICE);
    let event = r#"---
{apiVersion: v1, kind: Event, metadata: {name: e}, involvedObject: {apiVersion: v1, kind: Service, name: ap,
        namespace: default}, reason: Chosen, message: it was chosen, type: Normal, source: {component: test}, count: 1,
        firstTimestamp: "2026-01-01T00:00:00Z", lastTimestamp: "2026-01-01T00:00:00Z"}"#;
    let uid = running.field("svc/ap", ".metadata.uid");
    running.says_of(
        "create -f -",
        &event.replace("name: ap,", &format!("name: ap, uid: {uid},")),
    );
    let described = running.says("describe svc ap");
    for part in ["TargetPort:               8080/TCP", "Chosen", "it was chosen"] {
        assert!(described.contains(part), "{part}: {described}");
    }
    assert!(running.says("get events").contains("it was chosen"));
    assert!(running.says("events --for svc/ap").contains("it was chosen"));
    assert!(running.says("describe ns default").contains("Status:       Active"));
    running.says_of(APPLY, &config_map("c", "x", "v"));
    assert!(running.says("describe cm c").contains("k:\n----\nv"));
}

#[test]
fn a_watch_prints_changes_as_they_come() {
    let running = Running::start();
    running.says_of(APPLY, &config_map("c0", "x", "v"));
    let mut command = running.kubectl("get cm -l app=x -w --output-watch-events --no-headers");
    let mut child = start(&mut command, "");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap())
    };
    let event = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    assert_eq!(next(), event("ADDED", "c0"));
    running.says_of(APPLY, &config_map("c1", "x", "v"));
    assert_eq!(next(), event("ADDED", "c1"));
    running.says("label cm c1 more=labels");
    assert_eq!(next(), event("MODIFIED", "c1"));
    running.says("label cm c1 app-");
    assert_eq!(next(), event("DELETED", "c1"));
    running.says("delete cm c0");
    assert_eq!(next(), event("DELETED", "c0"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn explain_knows_every_field() {
    let running = Running::start();
    let explained = running.says("explain service.spec.type");
    assert!(explained.contains("FIELD: type <string>"), "{explained}");
    let explained = running.says("explain deployment.spec.template.spec.containers");
    assert!(explained.contains("<[]Container>"), "{explained}");
    assert!(running.says("explain ingress --recursive").contains("rules"));
    assert!(
        running
            .refuses("explain service.spec.nothing", "")
            .contains("does not exist")
    );
}

#[test]
fn the_server_tells_what_it_has() {
    let running = Running::start();
    let resources = running.says("api-resources");
    assert!(
        resources.contains("endpointslices") && resources.contains("deploy "),
        "{resources}"
    );
    let names = running.says("api-resources --api-group=networking.k8s.io --namespaced -o name");
    assert!(names.contains("ingresses.networking.k8s.io"), "{names}");
    let versions = running.says("api-versions");
    assert!(versions.lines().any(|line| line == "discovery.k8s.io/v1"), "{versions}");
    assert!(running.says("version").contains("Server Version: v1.36"));
    assert!(running.says("cluster-info").contains("is running at"));
}
