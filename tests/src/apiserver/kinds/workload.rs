//! Pods and what makes Pods: the defaults that controllers and the node's agent rely on, and a few checks.

use serde_json::{Map, Value, json};

use super::super::object::{as_map, default_to, field_mut, items, meta, text};
use super::super::resource::Resource;
use super::super::status::Cause;

/// Defaults of a Pod's specification.
pub(super) fn default_pod(spec: &mut Map<String, Value>) {
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "securityContext", json!({}));
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for key in ["initContainers", "containers"] {
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
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        default_to(spec, "serviceAccount", account);
    }
}

fn default_container(container: &mut Map<String, Value>, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or(image);
    let latest = !image.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
    default_to(
        container,
        "imagePullPolicy",
        if latest { "Always" } else { "IfNotPresent" },
    );
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
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(key) {
            let probe = as_map(probe);
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                default_to(probe, field, value);
            }
            if let Some(http) = probe.get_mut("httpGet") {
                default_to(as_map(http), "scheme", "HTTP");
                default_to(as_map(http), "path", "/");
            }
        }
    }
}

fn default_volume(volume: &mut Map<String, Value>) {
    for key in ["secret", "configMap", "projected", "downwardAPI"] {
        if let Some(source) = volume.get_mut(key) {
            default_to(as_map(source), "defaultMode", 420);
        }
    }
}

/// Defaults of what has a Pod template.
pub(super) fn default(resource: &Resource, object: &mut Value) {
    let kind = resource.kind.as_str();
    let template = match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            "/spec/template/spec"
        }
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        _ => return,
    };
    if let Some(Value::Object(pod)) = object.pointer_mut(template) {
        default_pod(pod);
    }
    let spec = field_mut(object, "spec");
    match kind {
        "Deployment" => {
            default_to(spec, "replicas", 1);
            default_to(spec, "revisionHistoryLimit", 10);
            default_to(spec, "progressDeadlineSeconds", 600);
            let strategy = as_map(spec.entry("strategy").or_insert(Value::Null));
            default_to(strategy, "type", "RollingUpdate");
            if strategy.get("type") == Some(&json!("RollingUpdate")) {
                let rolling = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
                default_to(rolling, "maxUnavailable", "25%");
                default_to(rolling, "maxSurge", "25%");
            }
        }
        "ReplicaSet" | "ReplicationController" => default_to(spec, "replicas", 1),
        "StatefulSet" => {
            default_to(spec, "replicas", 1);
            default_to(spec, "revisionHistoryLimit", 10);
            default_to(spec, "podManagementPolicy", "OrderedReady");
        }
        "DaemonSet" => {
            default_to(spec, "revisionHistoryLimit", 10);
            let strategy = as_map(spec.entry("updateStrategy").or_insert(Value::Null));
            default_to(strategy, "type", "RollingUpdate");
            if strategy.get("type") == Some(&json!("RollingUpdate")) {
                let rolling = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
                default_to(rolling, "maxUnavailable", 1);
                default_to(rolling, "maxSurge", 0);
            }
        }
        "Job" => {
            default_to(spec, "parallelism", 1);
            default_to(spec, "completions", 1);
            default_to(spec, "backoffLimit", 6);
        }
        _ => {}
    }
}

/// A Pod that was just created waits for a node.
pub(super) fn new_pod(object: &mut Value) {
    let limited = items(object, "/spec/containers")
        .iter()
        .any(|container| container.pointer("/resources/requests").is_some());
    let class = if limited { "Burstable" } else { "BestEffort" };
    as_map(object).insert("status".to_owned(), json!({"phase": "Pending", "qosClass": class}));
}

pub(super) fn check_pod(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_template(object, "/spec", "spec", causes);
    let Some(old) = old else {
        return;
    };
    let node = |pod: &Value| text(pod, "/spec/nodeName").to_owned();
    let image_free = |pod: &Value| {
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
        ] {
            as_map(&mut pod).remove(key);
        }
        pod
    };
    let binds = node(old).is_empty() && !node(object).is_empty();
    if !binds && image_free(old) != image_free(object) {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` \
                   (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
                   (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", why));
    }
}

fn check_template(object: &Value, at: &str, path: &str, causes: &mut Vec<Cause>) {
    let containers = items(object, &format!("{at}/containers"));
    if containers.is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    for (index, container) in containers.iter().enumerate() {
        let field = |key: &str| format!("{path}.containers[{index}].{key}");
        if text(container, "/name").is_empty() {
            causes.push(Cause::required(field("name"), ""));
        }
        if text(container, "/image").is_empty() {
            causes.push(Cause::required(field("image"), ""));
        }
    }
}

pub(super) fn check(resource: &Resource, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if resource.kind == "ControllerRevision" {
        return;
    }
    check_template(object, "/spec/template/spec", "spec.template.spec", causes);
    let selector = object.pointer("/spec/selector").cloned().unwrap_or_default();
    let empty = selector.as_object().is_none_or(Map::is_empty);
    if empty {
        causes.push(Cause::required("spec.selector", ""));
    }
    let labels = object
        .pointer("/spec/template/metadata/labels")
        .cloned()
        .unwrap_or_default();
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    let unmatched = wanted
        .into_iter()
        .flatten()
        .any(|(key, value)| labels.get(key) != Some(value));
    if unmatched {
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", &labels, why));
    }
    if let Some(old) = old
        && old.pointer("/spec/selector") != object.pointer("/spec/selector")
        && !meta(old, "uid").is_empty()
    {
        causes.push(Cause::invalid("spec.selector", &selector, "field is immutable"));
    }
}
