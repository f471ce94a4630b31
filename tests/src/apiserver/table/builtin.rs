//! Columns of the built-in kinds.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::object::{items, meta, name};
use super::super::resource::Resource;
use super::{age, cell, column, joined, object_age, or_none};

/// (name, type, priority) of the columns between Name and Age; Age is last unless it is among them.
type Columns = &'static [(&'static str, &'static str, i64)];

#[rustfmt::skip]
const COLUMNS: &[(&str, &str, Columns)] = &[
    ("", "configmaps", &[("Data", "string", 0)]),
    ("", "secrets", &[("Type", "string", 0), ("Data", "string", 0)]),
    ("", "serviceaccounts", &[("Secrets", "string", 0)]),
    ("", "services", &[("Type", "string", 0), ("Cluster-IP", "string", 0), ("External-IP", "string", 0),
        ("Port(s)", "string", 0), ("Age", "string", 0), ("Selector", "string", 1)]),
    ("", "endpoints", &[("Endpoints", "string", 0)]),
    ("", "namespaces", &[("Status", "string", 0)]),
    ("", "nodes", &[("Status", "string", 0), ("Roles", "string", 0), ("Age", "string", 0), ("Version", "string", 0),
        ("Internal-IP", "string", 1), ("External-IP", "string", 1)]),
    ("", "pods", &[("Ready", "string", 0), ("Status", "string", 0), ("Restarts", "string", 0), ("Age", "string", 0),
        ("IP", "string", 1), ("Node", "string", 1)]),
    ("", "events", &[("Last Seen", "string", 0), ("Type", "string", 0), ("Reason", "string", 0),
        ("Object", "string", 0), ("Message", "string", 0)]),
    ("events.k8s.io", "events", &[("Last Seen", "string", 0), ("Type", "string", 0), ("Reason", "string", 0),
        ("Object", "string", 0), ("Message", "string", 0)]),
    ("apps", "deployments", &[("Ready", "string", 0), ("Up-to-date", "integer", 0), ("Available", "integer", 0),
        ("Age", "string", 0), ("Containers", "string", 1), ("Images", "string", 1), ("Selector", "string", 1)]),
    ("apps", "replicasets", &[("Desired", "integer", 0), ("Current", "integer", 0), ("Ready", "integer", 0),
        ("Age", "string", 0), ("Containers", "string", 1), ("Images", "string", 1), ("Selector", "string", 1)]),
    ("apps", "statefulsets", &[("Ready", "string", 0), ("Age", "string", 0), ("Containers", "string", 1),
        ("Images", "string", 1)]),
    ("apps", "daemonsets", &[("Desired", "integer", 0), ("Current", "integer", 0), ("Ready", "integer", 0),
        ("Up-to-date", "integer", 0), ("Available", "integer", 0), ("Node Selector", "string", 0),
        ("Age", "string", 0), ("Containers", "string", 1), ("Images", "string", 1), ("Selector", "string", 1)]),
    ("networking.k8s.io", "ingresses", &[("Class", "string", 0), ("Hosts", "string", 0), ("Address", "string", 0),
        ("Ports", "string", 0)]),
    ("networking.k8s.io", "ingressclasses", &[("Controller", "string", 0), ("Parameters", "string", 0)]),
    ("discovery.k8s.io", "endpointslices", &[("AddressType", "string", 0), ("Ports", "string", 0),
        ("Endpoints", "string", 0)]),
    ("coordination.k8s.io", "leases", &[("Holder", "string", 0)]),
    ("batch", "jobs", &[("Status", "string", 0), ("Completions", "string", 0)]),
    ("apiextensions.k8s.io", "customresourcedefinitions", &[("Created At", "date", 0)]),
    ("rbac.authorization.k8s.io", "clusterroles", &[("Created At", "date", 0)]),
    ("rbac.authorization.k8s.io", "roles", &[("Created At", "date", 0)]),
    ("rbac.authorization.k8s.io", "clusterrolebindings", &[("Role", "string", 0), ("Age", "string", 0)]),
    ("rbac.authorization.k8s.io", "rolebindings", &[("Role", "string", 0), ("Age", "string", 0)]),
];

fn of(resource: &Resource) -> Columns {
    COLUMNS
        .iter()
        .find(|(group, plural, _)| resource.is(group, plural))
        .map_or(&[][..], |(_, _, columns)| columns)
}

/// `Age` comes last where the kind does not place it or has another time.
fn age_is_last(columns: Columns) -> bool {
    !columns
        .iter()
        .any(|(name, ..)| matches!(*name, "Age" | "Created At" | "Last Seen"))
}

/// Kinds whose tables do not begin with the name.
fn has_name(resource: &Resource) -> bool {
    resource.plural != "events"
}

pub(super) fn columns(resource: &Resource) -> Vec<Value> {
    let columns = of(resource);
    let mut all = Vec::new();
    if has_name(resource) {
        all.push(column(
            "Name",
            "string",
            "Name of the object, unique within its namespace",
            0,
        ));
    }
    all.extend(
        columns
            .iter()
            .map(|(name, kind, priority)| column(name, kind, "", *priority)),
    );
    if age_is_last(columns) {
        all.push(column("Age", "string", "Time since the object was created", 0));
    }
    all
}

pub(super) fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let columns = of(resource);
    let mut cells = Vec::new();
    if has_name(resource) {
        cells.push(json!(name(object)));
    }
    for (column, ..) in columns {
        cells.push(match *column {
            "Age" => json!(object_age(object, now)),
            "Created At" => json!(meta(object, "creationTimestamp")),
            column => value(resource, object, column, now),
        });
    }
    if age_is_last(columns) {
        cells.push(json!(object_age(object, now)));
    }
    cells
}

fn value(resource: &Resource, object: &Value, column: &str, now: Timestamp) -> Value {
    match resource.plural.as_str() {
        "services" => service(object, column),
        "pods" => pod(object, column),
        "nodes" => node(object, column),
        "events" => event(object, column, now),
        "deployments" | "replicasets" | "statefulsets" | "daemonsets" => workload(object, column),
        "ingresses" => ingress(object, column),
        "endpointslices" => endpoint_slice(object, column),
        "configmaps" => json!(length(object, "/data").saturating_add(length(object, "/binaryData"))),
        "secrets" if column == "Type" => json!(cell(object, "/type")),
        "secrets" => json!(length(object, "/data")),
        "serviceaccounts" => json!(items(object, "/secrets").len()),
        "namespaces" => json!(cell(object, "/status/phase")),
        "endpoints" => json!(addresses(object)),
        "ingressclasses" if column == "Controller" => json!(cell(object, "/spec/controller")),
        "ingressclasses" => json!(or_none(cell(object, "/spec/parameters/name"))),
        "leases" => json!(cell(object, "/spec/holderIdentity")),
        "jobs" => job(object, column),
        "clusterrolebindings" | "rolebindings" => {
            json!(format!(
                "{}/{}",
                cell(object, "/roleRef/kind"),
                cell(object, "/roleRef/name")
            ))
        }
        _ => Value::Null,
    }
}

fn length(object: &Value, pointer: &str) -> usize {
    object
        .pointer(pointer)
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len)
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn labels(object: &Value, pointer: &str) -> String {
    let labels = object.pointer(pointer).and_then(Value::as_object);
    let parts: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(&parts.join(","))
}

fn service(object: &Value, column: &str) -> Value {
    json!(match column {
        "Type" => cell(object, "/spec/type").to_owned(),
        "Cluster-IP" => or_none(cell(object, "/spec/clusterIP")),
        "External-IP" => external(object),
        "Port(s)" => {
            let ports: Vec<String> = items(object, "/spec/ports").iter().map(port).collect();
            or_none(&ports.join(","))
        }
        _ => labels(object, "/spec/selector"),
    })
}

fn port(port: &Value) -> String {
    let protocol = cell(port, "/protocol");
    match (number(port, "/port"), number(port, "/nodePort")) {
        (port, 0) => format!("{port}/{protocol}"),
        (port, node) => format!("{port}:{node}/{protocol}"),
    }
}

fn external(object: &Value) -> String {
    let mut shown: Vec<&str> = items(object, "/status/loadBalancer/ingress")
        .iter()
        .map(|entry| match cell(entry, "/ip") {
            "" => cell(entry, "/hostname"),
            address => address,
        })
        .collect();
    shown.extend(items(object, "/spec/externalIPs").iter().filter_map(Value::as_str));
    match cell(object, "/spec/type") {
        "ExternalName" => cell(object, "/spec/externalName").to_owned(),
        "LoadBalancer" if shown.is_empty() => "<pending>".to_owned(),
        _ => joined(shown.into_iter()),
    }
}

fn pod(object: &Value, column: &str) -> Value {
    let statuses = items(object, "/status/containerStatuses");
    let ready = statuses
        .iter()
        .filter(|status| status.get("ready") == Some(&Value::Bool(true)));
    json!(match column {
        "Ready" => format!("{}/{}", ready.count(), items(object, "/spec/containers").len()),
        "Status" => {
            let waiting = statuses
                .iter()
                .find_map(|status| {
                    let reasons = ["/state/waiting/reason", "/state/terminated/reason"];
                    reasons
                        .into_iter()
                        .map(|at| cell(status, at))
                        .find(|reason| !reason.is_empty())
                })
                .unwrap_or_else(|| cell(object, "/status/phase"));
            if meta(object, "deletionTimestamp").is_empty() {
                waiting.to_owned()
            } else {
                "Terminating".to_owned()
            }
        }
        "Restarts" => {
            let restarts: i64 = statuses.iter().map(|status| number(status, "/restartCount")).sum();
            restarts.to_string()
        }
        "IP" => or_none(cell(object, "/status/podIP")),
        _ => or_none(cell(object, "/spec/nodeName")),
    })
}

fn node(object: &Value, column: &str) -> Value {
    let address = |kind: &str| {
        let found = items(object, "/status/addresses")
            .iter()
            .find(|address| cell(address, "/type") == kind);
        or_none(found.map(|address| cell(address, "/address")).unwrap_or_default())
    };
    json!(match column {
        "Status" => {
            let ready = items(object, "/status/conditions")
                .iter()
                .any(|condition| cell(condition, "/type") == "Ready" && cell(condition, "/status") == "True");
            let mut status = if ready { "Ready" } else { "NotReady" }.to_owned();
            if object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
                status.push_str(",SchedulingDisabled");
            }
            status
        }
        "Roles" => {
            let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
            joined(
                labels
                    .into_iter()
                    .flatten()
                    .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")),
            )
        }
        "Version" => cell(object, "/status/nodeInfo/kubeletVersion").to_owned(),
        "Internal-IP" => address("InternalIP"),
        _ => address("ExternalIP"),
    })
}

fn event(object: &Value, column: &str, now: Timestamp) -> Value {
    let first = |pointers: &[&str]| {
        let found = pointers
            .iter()
            .map(|pointer| cell(object, pointer))
            .find(|text| !text.is_empty());
        found.unwrap_or_default().to_owned()
    };
    json!(match column {
        "Last Seen" => {
            let seen = first(&[
                "/series/lastObservedTime",
                "/lastTimestamp",
                "/deprecatedLastTimestamp",
                "/eventTime",
                "/metadata/creationTimestamp",
            ]);
            age(&seen, now)
        }
        "Type" => cell(object, "/type").to_owned(),
        "Reason" => cell(object, "/reason").to_owned(),
        "Object" => {
            let kind = first(&["/involvedObject/kind", "/regarding/kind"]).to_lowercase();
            format!("{kind}/{}", first(&["/involvedObject/name", "/regarding/name"]))
        }
        _ => first(&["/message", "/note"]),
    })
}

fn workload(object: &Value, column: &str) -> Value {
    let containers = items(object, "/spec/template/spec/containers");
    let status = |key: &str| json!(number(object, &format!("/status/{key}")));
    let is_daemon_set = object.pointer("/spec/updateStrategy").is_some() && object.pointer("/spec/replicas").is_none();
    match column {
        "Desired" if is_daemon_set => status("desiredNumberScheduled"),
        "Current" if is_daemon_set => status("currentNumberScheduled"),
        "Ready" if is_daemon_set => status("numberReady"),
        "Up-to-date" if is_daemon_set => status("updatedNumberScheduled"),
        "Available" if is_daemon_set => status("numberAvailable"),
        "Ready" if cell(object, "/kind") == "ReplicaSet" => status("readyReplicas"),
        "Ready" => {
            let wanted = number(object, "/spec/replicas");
            json!(format!("{}/{wanted}", number(object, "/status/readyReplicas")))
        }
        "Desired" => json!(number(object, "/spec/replicas")),
        "Current" => status("replicas"),
        "Up-to-date" => status("updatedReplicas"),
        "Available" => status("availableReplicas"),
        "Containers" => json!(joined(containers.iter().map(|container| cell(container, "/name")))),
        "Images" => json!(joined(containers.iter().map(|container| cell(container, "/image")))),
        "Node Selector" => json!(labels(object, "/spec/template/spec/nodeSelector")),
        _ => json!(labels(object, "/spec/selector/matchLabels")),
    }
}

fn ingress(object: &Value, column: &str) -> Value {
    json!(match column {
        "Class" => or_none(cell(object, "/spec/ingressClassName")),
        "Hosts" => {
            let hosts: Vec<&str> = items(object, "/spec/rules")
                .iter()
                .map(|rule| cell(rule, "/host"))
                .filter(|host| !host.is_empty())
                .collect();
            if hosts.is_empty() {
                "*".to_owned()
            } else {
                hosts.join(",")
            }
        }
        "Address" => external(object).replace("<none>", ""),
        _ if items(object, "/spec/tls").is_empty() => "80".to_owned(),
        _ => "80, 443".to_owned(),
    })
}

fn endpoint_slice(object: &Value, column: &str) -> Value {
    json!(match column {
        "AddressType" => cell(object, "/addressType").to_owned(),
        "Ports" => {
            let ports: Vec<String> = items(object, "/ports")
                .iter()
                .map(|port| number(port, "/port").to_string())
                .collect();
            if ports.is_empty() {
                "<unset>".to_owned()
            } else {
                ports.join(",")
            }
        }
        _ => {
            let addresses = items(object, "/endpoints")
                .iter()
                .flat_map(|endpoint| items(endpoint, "/addresses"));
            let shown = joined(addresses.filter_map(Value::as_str));
            if shown == "<none>" { "<unset>".to_owned() } else { shown }
        }
    })
}

fn addresses(object: &Value) -> String {
    let mut shown = Vec::new();
    for subset in items(object, "/subsets") {
        for address in items(subset, "/addresses") {
            for port in items(subset, "/ports") {
                shown.push(format!("{}:{}", cell(address, "/ip"), number(port, "/port")));
            }
        }
    }
    or_none(&shown.join(","))
}

fn job(object: &Value, column: &str) -> Value {
    let done = number(object, "/status/succeeded");
    match column {
        "Completions" => json!(format!("{done}/{}", number(object, "/spec/completions"))),
        _ if done >= number(object, "/spec/completions") => json!("Complete"),
        _ => json!("Running"),
    }
}
