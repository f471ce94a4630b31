//! What single kinds need beyond their schema: defaults, allocated values, checks.
//!
//! Only what the product, its users' tools and the testbed rely on; everything else of a kind is data.

pub(crate) mod autoscaling;
pub(crate) mod crd;
mod pod;
mod service;
mod storage;
mod workload;

use serde_json::{Map, Value, json};

use super::object::{as_map, default_to, field_mut, items, meta, name, set_meta, text};
use super::resource::Resource;
use super::server::Txn;
use super::status::{ApiError, Cause};

/// Fills in what a real server fills in when it reads the object, before anyone owns a field.
pub(crate) fn default(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Service") => service::default(object),
        ("", "Namespace") => {
            let named = name(object).to_owned();
            let labels = as_map(field_mut(object, "metadata").entry("labels").or_insert(Value::Null));
            if !named.is_empty() {
                labels.insert("kubernetes.io/metadata.name".to_owned(), Value::from(named));
            }
        }
        ("", "Secret") => secret(object),
        ("", "Endpoints") => endpoints(object),
        ("", "Pod") => pod::default(field_mut(object, "spec")),
        ("", "PersistentVolume" | "PersistentVolumeClaim") | ("storage.k8s.io", _) => {
            storage::default(resource, object)
        }
        ("scheduling.k8s.io", "PriorityClass") => {
            default_to(as_map(object), "preemptionPolicy", "PreemptLowerPriority")
        }
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::default(object),
        ("apps" | "batch" | "", _) => workload::default(resource, object),
        ("apiextensions.k8s.io", _) => crd::default(object),
        ("networking.k8s.io", "NetworkPolicy") => {
            let spec = field_mut(object, "spec");
            if !spec.contains_key("policyTypes") {
                let mut types = vec!["Ingress"];
                if spec.contains_key("egress") {
                    types.push("Egress");
                }
                spec.insert("policyTypes".to_owned(), json!(types));
            }
        }
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(object),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => role_binding(object),
        _ => {}
    }
}

/// Secret data may come as text.
fn secret(object: &mut Value) {
    use base64::Engine as _;
    let map = as_map(object);
    default_to(map, "type", "Opaque");
    if let Some(Value::Object(plain)) = map.remove("stringData") {
        let data = as_map(map.entry("data").or_insert(Value::Null));
        for (key, value) in plain {
            let text = value.as_str().unwrap_or_default();
            let encoded = base64::engine::general_purpose::STANDARD.encode(text);
            data.insert(key, Value::from(encoded));
        }
    }
}

/// Ports of the old kind.
fn endpoints(object: &mut Value) {
    for subset in array_mut(object, "subsets") {
        for port in array_mut(subset, "ports") {
            default_to(as_map(port), "protocol", "TCP");
        }
    }
}

/// The items of a field; none when it has none.
fn array_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut [Value] {
    object
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .map(Vec::as_mut_slice)
        .unwrap_or_default()
}

/// A new Node takes no Pods until a controller has seen that it is ready, as the plugin TaintNodesByCondition has it.
fn taint(node: &mut Value) {
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    let is_tainted = |taint: &Value| text(taint, "/key") == NOT_READY && text(taint, "/effect") == "NoSchedule";
    if items(node, "/spec/taints").iter().any(is_tainted) {
        return;
    }
    let taints = field_mut(node, "spec").entry("taints").or_insert(json!([]));
    if let Some(taints) = taints.as_array_mut() {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

fn endpoint_slice(object: &mut Value) {
    for port in array_mut(object, "ports") {
        let port = as_map(port);
        default_to(port, "name", "");
        default_to(port, "protocol", "TCP");
    }
}

fn role_binding(object: &mut Value) {
    let map = as_map(object);
    if let Some(Value::Array(subjects)) = map.get_mut("subjects") {
        for subject in subjects {
            let group = match text(subject, "/kind") {
                "User" | "Group" => "rbac.authorization.k8s.io",
                _ => continue,
            };
            default_to(as_map(subject), "apiGroup", group);
        }
    }
    default_to(field_mut(object, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
}

/// What is decided when an object is created, after ownership was recorded.
///
/// # Errors
/// When admission refuses it.
pub(crate) fn prepare_create(resource: &Resource, object: &mut Value, txn: &Txn<'_>) -> Result<Vec<Cause>, ApiError> {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => {
            field_mut(object, "spec").insert("finalizers".to_owned(), json!(["kubernetes"]));
            as_map(object).insert("status".to_owned(), json!({"phase": "Active"}));
        }
        ("", "Service") => {
            as_map(object).insert("status".to_owned(), json!({"loadBalancer": {}}));
            return Ok(service::allocate(object, None, txn));
        }
        ("", "Pod") => {
            pod::admission::admit(resource, object, txn)?;
            pod::new(object);
        }
        ("", "Node") => taint(object),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => {
            as_map(object).insert("status".to_owned(), json!({"phase": "Pending"}));
        }
        ("batch", "Job") => workload::new_job(object),
        ("apiextensions.k8s.io", _) => crd::new(object),
        _ => {}
    }
    Ok(Vec::new())
}

/// What an update keeps of `old` or gives back.
pub(crate) fn prepare_update(resource: &Resource, old: &Value, object: &mut Value, txn: &Txn<'_>) -> Vec<Cause> {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Service") => service::allocate(object, Some(old), txn),
        ("", "Namespace") => {
            // Only the path `finalize` changes them.
            let finalizers = old.pointer("/spec/finalizers").cloned();
            let spec = field_mut(object, "spec");
            match finalizers {
                Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers),
                None => spec.remove("finalizers"),
            };
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// Fills in a status that was written.
pub(crate) fn default_status(resource: &Resource, object: &mut Value) {
    if resource.is("", "services")
        && let Some(Value::Array(ingress)) = object.pointer_mut("/status/loadBalancer/ingress")
    {
        for entry in ingress {
            if entry.get("ip").is_some() {
                default_to(as_map(entry), "ipMode", "VIP");
            }
        }
    }
}

/// What is wrong with an object of a built-in kind, beyond its schema.
pub(crate) fn check(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Service") => service::check(object, old, &mut causes),
        ("", "ConfigMap" | "Secret") => immutable(object, old, &mut causes),
        ("", "Pod") => pod::check(object, old, &mut causes),
        ("batch", "Job") => workload::check_job(object, &mut causes),
        ("apps", _) => workload::check(resource, object, old, &mut causes),
        ("apiextensions.k8s.io", _) => crd::check(object, old, &mut causes),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            if text(object, "/roleRef/name").is_empty() {
                causes.push(Cause::required("roleRef.name", ""));
            }
            if let Some(old) = old
                && old.get("roleRef") != object.get("roleRef")
            {
                let shown = object.get("roleRef").cloned().unwrap_or_default();
                causes.push(Cause::invalid("roleRef", &shown, "cannot change roleRef"));
            }
        }
        ("networking.k8s.io", "Ingress") => {
            let no_rules = items(object, "/spec/rules").is_empty();
            if no_rules && object.pointer("/spec/defaultBackend").is_none() {
                let why = "either `defaultBackend` or `rules` must be specified";
                causes.push(Cause::invalid("spec", &json!({}), why));
            }
        }
        _ => {}
    }
    causes
}

fn immutable(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&Value::Bool(true))) else {
        return;
    };
    if object.get("immutable") != Some(&Value::Bool(true)) {
        causes.push(Cause::forbidden(
            "immutable",
            "field is immutable when `immutable` is set",
        ));
    }
    for key in ["data", "binaryData"] {
        if old.get(key) != object.get(key) {
            causes.push(Cause::forbidden(key, "field is immutable when `immutable` is set"));
        }
    }
}

/// What follows a write in the same breath; the object is answered as it was before.
pub(crate) fn written(resource: &Resource, object: &Value, txn: &mut Txn<'_>) {
    if resource.group == "apiextensions.k8s.io" {
        crd::establish(resource, object, txn);
    }
}

/// Whether the object is kept after its deletion was asked for, beside its finalizers.
pub(crate) fn holds_on(resource: &Resource, object: &Value) -> bool {
    resource.is("", "namespaces") && !items(object, "/spec/finalizers").is_empty()
}

/// Marks a kind's own status when deletion begins.
pub(crate) fn deletion_begins(resource: &Resource, object: &mut Value) {
    if resource.is("", "namespaces") {
        field_mut(object, "status").insert("phase".to_owned(), Value::from("Terminating"));
    }
}

/// Seconds that an object lives on after its deletion was asked for.
pub(crate) fn grace_period(resource: &Resource, object: &Value, asked: Option<i64>) -> i64 {
    if !resource.is("", "pods") || text(object, "/spec/nodeName").is_empty() {
        return 0;
    }
    if matches!(text(object, "/status/phase"), "Succeeded" | "Failed") {
        return 0;
    }
    let own = object
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64);
    asked.or(own).unwrap_or(30).max(0)
}

/// Objects of `events.k8s.io` and of the core are the same, with other names for some fields.
pub(crate) mod events {
    use super::{Map, Value, as_map};

    const RENAMED: &[(&str, &str)] = &[
        ("note", "message"),
        ("regarding", "involvedObject"),
        ("reportingController", "reportingComponent"),
        ("deprecatedCount", "count"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedSource", "source"),
    ];

    fn rename(object: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
        let map: &mut Map<String, Value> = as_map(object);
        for (from, to) in names {
            if let Some(value) = map.remove(from) {
                map.insert(to.to_owned(), value);
            }
        }
    }

    /// From `events.k8s.io` to what is stored.
    pub(crate) fn to_core(object: &mut Value) {
        rename(object, RENAMED.iter().copied());
        as_map(object).insert("apiVersion".to_owned(), Value::from("v1"));
    }

    /// From what is stored to `events.k8s.io`.
    pub(crate) fn from_core(object: &mut Value) {
        rename(object, RENAMED.iter().map(|(one, other)| (*other, *one)));
        as_map(object).insert("apiVersion".to_owned(), Value::from("events.k8s.io/v1"));
    }
}

/// Sets the owner's own marks on a new object: uid and times.
pub(crate) fn mark_new(resource: &Resource, object: &mut Value, uid: String, timestamp: String) {
    set_meta(object, "uid", uid);
    set_meta(object, "creationTimestamp", timestamp);
    if resource.generation {
        set_meta(object, "generation", 1);
    }
    debug_assert!(!meta(object, "uid").is_empty());
}
