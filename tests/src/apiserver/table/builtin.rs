//! What the columns of the built-in kinds show of an object.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::object::{items, meta, name};
use super::super::resource::Resource;
use super::{age, cell, columns, joined, object_age, or_none};

pub(super) fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let cell = |column: &str| match column {
        "Name" => json!(name(object)),
        "Age" => json!(object_age(object, now)),
        "Created At" => json!(meta(object, "creationTimestamp")),
        column => value(resource, object, column, now),
    };
    columns::names(resource).map(cell).collect()
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
        "namespaces" => json!(cell(object, "/status/phase")),
        "endpoints" => json!(addresses(object)),
        "ingressclasses" if column == "Controller" => json!(cell(object, "/spec/controller")),
        "ingressclasses" => json!(or_none(cell(object, "/spec/parameters/name"))),
        "leases" => json!(cell(object, "/spec/holderIdentity")),
        "jobs" => job(object, column, now),
        "clusterrolebindings" | "rolebindings" => binding(object, column),
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
        "Nominated Node" => or_none(cell(object, "/status/nominatedNodeName")),
        "Readiness Gates" => gates(object),
        _ => or_none(cell(object, "/spec/nodeName")),
    })
}

/// Conditions that a Pod waits for beyond its containers: how many hold.
fn gates(object: &Value) -> String {
    let gates = items(object, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let holds = |gate: &&Value| {
        items(object, "/status/conditions").iter().any(|condition| {
            cell(condition, "/type") == cell(gate, "/conditionType") && cell(condition, "/status") == "True"
        })
    };
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}

fn node(object: &Value, column: &str) -> Value {
    let info = |key: &str| match cell(object, &format!("/status/nodeInfo/{key}")) {
        "" => "<unknown>".to_owned(),
        text => text.to_owned(),
    };
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
        "External-IP" => address("ExternalIP"),
        "OS-Image" => info("osImage"),
        "Kernel-Version" => info("kernelVersion"),
        _ => info("containerRuntimeVersion"),
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
        "First Seen" => {
            let times = ["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"];
            age(&first(&times), now)
        }
        "Subobject" => first(&["/involvedObject/fieldPath", "/regarding/fieldPath"]),
        "Source" => {
            let component = first(&[
                "/source/component",
                "/deprecatedSource/component",
                "/reportingComponent",
            ]);
            match first(&["/source/host", "/deprecatedSource/host"]).as_str() {
                "" => component,
                host => format!("{component}, {host}"),
            }
        }
        "Count" => {
            let counts = ["/series/count", "/count", "/deprecatedCount"];
            let count = counts.iter().map(|at| number(object, at)).find(|count| *count > 0);
            count.unwrap_or(1).to_string()
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

fn job(object: &Value, column: &str, now: Timestamp) -> Value {
    let containers = items(object, "/spec/template/spec/containers");
    let done = number(object, "/status/succeeded");
    match column {
        "Completions" => json!(format!("{done}/{}", number(object, "/spec/completions"))),
        "Duration" => match (
            cell(object, "/status/startTime"),
            cell(object, "/status/completionTime"),
        ) {
            ("", _) => json!(""),
            (start, "") => json!(age(start, now)),
            (start, end) => json!(age(start, end.parse().unwrap_or(now))),
        },
        "Containers" => json!(joined(containers.iter().map(|container| cell(container, "/name")))),
        "Images" => json!(joined(containers.iter().map(|container| cell(container, "/image")))),
        "Selector" => json!(labels(object, "/spec/selector/matchLabels")),
        _ if done >= number(object, "/spec/completions") => json!("Complete"),
        _ => json!("Running"),
    }
}

fn binding(object: &Value, column: &str) -> Value {
    let subjects = |kind: &str| {
        let subjects = items(object, "/subjects").iter();
        let shown: Vec<String> = subjects
            .filter(|subject| cell(subject, "/kind") == kind)
            .map(|subject| match cell(subject, "/namespace") {
                "" => cell(subject, "/name").to_owned(),
                namespace => format!("{namespace}/{}", cell(subject, "/name")),
            })
            .collect();
        shown.join(", ")
    };
    json!(match column {
        "Users" => subjects("User"),
        "Groups" => subjects("Group"),
        "ServiceAccounts" => subjects("ServiceAccount"),
        _ => format!("{}/{}", cell(object, "/roleRef/kind"), cell(object, "/roleRef/name")),
    })
}
