//! Pods: the defaults that controllers and kubelets rely on, their class of service, and what may change.

pub(crate) mod admission;

use serde_json::{Map, Value, json};

use super::super::object::{as_map, default_to, items, text};
use super::super::status::Cause;

/// Both lists of containers that have the same defaults.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of a Pod alone, which a template does not have.
pub(super) fn default(spec: &mut Map<String, Value>) {
    default_to(spec, "enableServiceLinks", true);
    for key in ["initContainers", "containers"] {
        let Some(Value::Array(containers)) = spec.get_mut(key) else {
            continue;
        };
        for container in containers {
            let limits = container
                .pointer("/resources/limits")
                .and_then(Value::as_object)
                .cloned();
            if let (Some(limits), Some(resources)) = (limits, as_map(container).get_mut("resources")) {
                let requests = as_map(as_map(resources).entry("requests").or_insert(Value::Null));
                for (resource, amount) in limits {
                    requests.entry(resource).or_insert(amount);
                }
            }
        }
    }
    default_template(spec);
}

/// Defaults of a Pod's specification, in a Pod or in a template.
pub(super) fn default_template(spec: &mut Map<String, Value>) {
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "securityContext", json!({}));
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for key in CONTAINERS {
        if let Some(Value::Array(containers)) = spec.get_mut(key) {
            for container in containers {
                default_container(as_map(container), host_network);
            }
        }
    }
    if let Some(Value::Array(volumes)) = spec.get_mut("volumes") {
        for volume in volumes {
            default_volume(as_map(volume));
        }
    }
    if let Some(Value::Array(constraints)) = spec.get_mut("topologySpreadConstraints") {
        for constraint in constraints {
            default_to(as_map(constraint), "nodeAffinityPolicy", "Honor");
            default_to(as_map(constraint), "nodeTaintsPolicy", "Ignore");
        }
    }
    // The old name of the field is kept equal.
    for (from, to) in [
        ("serviceAccount", "serviceAccountName"),
        ("serviceAccountName", "serviceAccount"),
    ] {
        if let Some(account) = spec.get(from).cloned() {
            default_to(spec, to, account);
        }
    }
}

fn default_container(container: &mut Map<String, Value>, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or(image);
    let latest = !image.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
    let pull = if latest { "Always" } else { "IfNotPresent" };
    default_to(container, "imagePullPolicy", pull);
    default_to(container, "terminationMessagePath", "/dev/termination-log");
    default_to(container, "terminationMessagePolicy", "File");
    default_to(container, "resources", json!({}));
    if let Some(Value::Array(ports)) = container.get_mut("ports") {
        for port in ports {
            let port = as_map(port);
            default_to(port, "protocol", "TCP");
            if host_network && let Some(number) = port.get("containerPort").cloned() {
                default_to(port, "hostPort", number);
            }
        }
    }
    if let Some(Value::Array(variables)) = container.get_mut("env") {
        for variable in variables {
            default_field(variable.pointer_mut("/valueFrom/fieldRef"));
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(key) {
            default_probe(as_map(probe));
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle") {
        for key in ["postStart", "preStop"] {
            default_http(lifecycle.pointer_mut(&format!("/{key}/httpGet")));
        }
    }
}

fn default_probe(probe: &mut Map<String, Value>) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        default_to(probe, field, value);
    }
    default_http(probe.get_mut("httpGet"));
    if let Some(grpc) = probe.get_mut("grpc") {
        default_to(as_map(grpc), "service", "");
    }
}

fn default_http(action: Option<&mut Value>) {
    if let Some(http) = action {
        default_to(as_map(http), "scheme", "HTTP");
        default_to(as_map(http), "path", "/");
    }
}

fn default_field(reference: Option<&mut Value>) {
    if let Some(reference) = reference {
        default_to(as_map(reference), "apiVersion", "v1");
    }
}

fn default_volume(volume: &mut Map<String, Value>) {
    // A volume that says nothing but its name is an empty directory.
    if volume.len() == 1 && volume.contains_key("name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for key in ["secret", "configMap", "projected", "downwardAPI"] {
        if let Some(source) = volume.get_mut(key) {
            default_to(as_map(source), "defaultMode", 420);
        }
    }
    if let Some(host) = volume.get_mut("hostPath") {
        default_to(as_map(host), "type", "");
    }
    let fields = |source: Option<&mut Value>| {
        if let Some(Value::Array(files)) = source {
            for file in files {
                default_field(file.get_mut("fieldRef"));
            }
        }
    };
    if let Some(source) = volume.get_mut("downwardAPI") {
        fields(source.get_mut("items"));
    }
    if let Some(Value::Array(sources)) = volume.get_mut("projected").and_then(|source| source.get_mut("sources")) {
        for source in sources {
            fields(source.pointer_mut("/downwardAPI/items"));
            if let Some(token) = source.get_mut("serviceAccountToken") {
                default_to(as_map(token), "expirationSeconds", 3600);
            }
        }
    }
}

/// A Pod that was just created waits for a node.
pub(super) fn new(object: &mut Value) {
    let mut status = json!({"phase": "Pending", "qosClass": quality(object)});
    if !items(object, "/spec/schedulingGates").is_empty() {
        let gated = json!({"type": "PodScheduled", "status": "False", "lastProbeTime": null, "lastTransitionTime": null,
            "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates"});
        as_map(&mut status).insert("conditions".to_owned(), json!([gated]));
    }
    as_map(object).insert("status".to_owned(), status);
}

/// The class of service that follows from requests and limits of processor and memory.
fn quality(pod: &Value) -> &'static str {
    let containers = || {
        items(pod, "/spec/initContainers")
            .iter()
            .chain(items(pod, "/spec/containers"))
    };
    let amount = |container: &Value, kind: &str, resource: &str| -> Option<Value> {
        let amount = container.pointer(&format!("/resources/{kind}/{resource}"))?.clone();
        (amount != "0" && amount != 0).then_some(amount)
    };
    let any = containers().any(|container| {
        ["cpu", "memory"].iter().any(|resource| {
            amount(container, "requests", resource).is_some() || amount(container, "limits", resource).is_some()
        })
    });
    let all = containers().all(|container| {
        ["cpu", "memory"].iter().all(|resource| {
            let limit = amount(container, "limits", resource);
            limit.is_some() && limit == amount(container, "requests", resource)
        })
    });
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What is wrong with a Pod.
pub(super) fn check(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_template(object, "/spec", "spec", causes);
    let Some(old) = old else {
        return;
    };
    let fixed = |pod: &Value| {
        let mut pod = pod.get("spec").cloned().unwrap_or_default();
        for key in ["containers", "initContainers"] {
            if let Some(Value::Array(containers)) = pod.get_mut(key) {
                for container in containers {
                    as_map(container).remove("image");
                }
            }
        }
        for key in [
            "activeDeadlineSeconds",
            "tolerations",
            "ephemeralContainers",
            "terminationGracePeriodSeconds",
            "schedulingGates",
        ] {
            as_map(&mut pod).remove(key);
        }
        pod
    };
    let gated = |pod: &Value| !items(pod, "/spec/schedulingGates").is_empty();
    if fixed(old) != fixed(object) || (!gated(old) && gated(object)) {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` \
                   (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
                   (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", why));
    }
}

/// What is wrong with a Pod's specification at a JSON pointer; `path` is how its fields are called.
pub(super) fn check_template(object: &Value, at: &str, path: &str, causes: &mut Vec<Cause>) {
    if items(object, &format!("{at}/containers")).is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let volumes = items(object, &format!("{at}/volumes"));
    let mut names: Vec<&str> = Vec::new();
    for list in CONTAINERS {
        for (index, container) in items(object, &format!("{at}/{list}")).iter().enumerate() {
            let field = |key: &str| format!("{path}.{list}[{index}].{key}");
            let name = text(container, "/name");
            if name.is_empty() {
                causes.push(Cause::required(field("name"), ""));
            } else if names.contains(&name) {
                causes.push(Cause::duplicate(field("name"), &json!(name)));
            }
            names.push(name);
            if text(container, "/image").is_empty() {
                causes.push(Cause::required(field("image"), ""));
            }
            for (number, mount) in items(container, "/volumeMounts").iter().enumerate() {
                let wanted = text(mount, "/name");
                if !volumes.iter().any(|volume| text(volume, "/name") == wanted) {
                    let field = field(&format!("volumeMounts[{number}].name"));
                    causes.push(Cause::not_found(field, &json!(wanted)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_service_follows_from_requests_and_limits() {
        let pod = |resources: Value| {
            let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}});
            default(as_map(pod.get_mut("spec").unwrap()));
            quality(&pod)
        };
        assert_eq!(pod(json!({})), "BestEffort");
        assert_eq!(pod(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(pod(json!({"limits": {"cpu": "1"}})), "Burstable");
        // What is limited is requested, too.
        assert_eq!(pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
    }

    #[test]
    fn volumes_and_mounts_belong_together() {
        let pod = json!({"spec": {
            "volumes": [{"name": "v"}],
            "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v"}, {"name": "w"}]},
                {"name": "c", "image": "i"}],
        }});
        let mut causes = Vec::new();
        check(&pod, None, &mut causes);
        let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(
            fields,
            ["spec.containers[0].volumeMounts[1].name", "spec.containers[1].name"]
        );
    }
}
