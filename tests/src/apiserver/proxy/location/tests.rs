//! Paths and texts as a kubelet and a user meet them.

use serde_json::{Value, json};

use super::super::super::call::{Query, Request, Target};
use super::super::super::identity::User;
use super::super::super::resource::Registry;
use super::super::super::status::ApiError;
use super::super::super::store::Store;
use super::*;

fn store(containers: &[&str], node: &str) -> Store {
    let mut store = Store::new(0, 10);
    let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": node, "containers": containers, "initContainers": [{"name": "init"}],
    }});
    store.put("pods", "n", "p", pod);
    let node = json!({"metadata": {"name": "n1"}, "status": {
        "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "fd77::1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10_251}},
    }});
    store.put("nodes", "", "n1", node);
    store
}

fn asks(store: &Store, method: &str, path: &str, query: &str) -> Result<Option<Location>, ApiError> {
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: Query::parse(query),
        accept: String::new(),
        content_type: String::new(),
        user_agent: String::new(),
        if_none_match: String::new(),
        user: User::anonymous(),
        body: hyper::body::Bytes::new(),
    };
    let target = Target::of(
        &request,
        &Registry::builtin(std::sync::Arc::new(super::super::super::schema::Definitions::builtin())),
    )
    .unwrap();
    find(store, Way::of(&target).unwrap(), &target, &request)
}

const POD: &str = "/api/v1/namespaces/n/pods/p";

#[test]
fn a_kubelet_is_asked_in_its_own_words() {
    let store = store(&["c"], "n1");
    let url = |path: &str, query: &str| {
        let found = asks(&store, "GET", &format!("{POD}/{path}"), query);
        found.unwrap().unwrap().url()
    };
    let begin = "https://[fd77::1]:10251";
    assert_eq!(
        url("log", "follow=true&tailLines=3&timestamps=false"),
        format!("{begin}/containerLogs/n/p/c?follow=true&tailLines=3")
    );
    assert_eq!(
        url(
            "exec",
            "command=sh&command=-c&command=a+b%26&stdin=true&stdout=1&tty=true"
        ),
        format!("{begin}/exec/n/p/c?command=sh&command=-c&command=a%20b%26&input=1&output=1&tty=1")
    );
    assert_eq!(
        url("attach", "container=init&stderr=true"),
        format!("{begin}/attach/n/p/init?error=1")
    );
    assert_eq!(url("portforward", ""), format!("{begin}/portForward/n/p"));
    assert_eq!(
        asks(&store, "GET", "/api/v1/nodes/n1/proxy/healthz", "verbose")
            .unwrap()
            .unwrap()
            .url(),
        format!("{begin}/healthz?verbose=")
    );
}

#[test]
fn the_container_must_be_clear() {
    let two = store(&["a", "b"], "n1");
    let error = asks(&two, "GET", &format!("{POD}/log"), "").unwrap_err();
    let wanted = "a container name must be specified for pod p, choose one of: [init a b]";
    assert_eq!((error.code, error.message.as_str()), (400, wanted));
    let error = asks(&two, "GET", &format!("{POD}/log"), "container=z").unwrap_err();
    assert_eq!(error.message, "container z is not valid for pod p");
    assert!(asks(&two, "GET", &format!("{POD}/log"), "container=b").is_ok());
}

#[test]
fn a_pod_without_a_node_has_no_logs_and_nothing_to_talk_to() {
    let store = store(&["c"], "");
    assert_eq!(asks(&store, "GET", &format!("{POD}/log"), ""), Ok(None));
    let error = asks(&store, "POST", &format!("{POD}/exec"), "").unwrap_err();
    assert_eq!(error.message, "pod p does not have a host assigned");
    let elsewhere = self::store(&["c"], "gone");
    let error = asks(&elsewhere, "GET", &format!("{POD}/log"), "").unwrap_err();
    assert_eq!(error.message, "nodes \"gone\" not found");
}

#[test]
fn odd_log_options_are_refused() {
    let store = store(&["c"], "n1");
    let fails = |query: &str| asks(&store, "GET", &format!("{POD}/log"), query).unwrap_err();
    let error = fails("tailLines=-1");
    let wanted = "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0";
    assert_eq!((error.code, error.message.as_str()), (422, wanted));
    assert_eq!(fails("limitBytes=0").code, 422);
    assert_eq!(fails("sinceSeconds=x").code, 400);
}

#[test]
fn a_service_leads_to_an_endpoint_that_is_ready() {
    let mut store = store(&["c"], "n1");
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80}]}});
    store.put("services", "n", "s", service);
    let path = "/api/v1/namespaces/n/services/http:s:web/proxy/x/y";
    assert_eq!(asks(&store, "GET", path, "").unwrap_err().code, 503);
    let slice = json!({"metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
    "ports": [{"name": "web", "port": 8080}],
    "endpoints": [
        {"addresses": ["10.1.0.1"], "conditions": {"ready": false}},
        {"addresses": ["10.1.0.2"], "conditions": {"ready": true}},
    ]});
    store.put("endpointslices.discovery.k8s.io", "n", "s-1", slice);
    let found = asks(&store, "GET", path, "a=b").unwrap().unwrap();
    assert_eq!(found.url(), "http://10.1.0.2:8080/x/y?a=b");
    assert_eq!(found.prefix, "/api/v1/namespaces/n/services/http:s:web/proxy");
    let by_number = asks(&store, "POST", "/api/v1/namespaces/n/services/s:80/proxy/", "");
    assert_eq!(by_number.unwrap().unwrap().url(), "http://10.1.0.2:8080/");
}
