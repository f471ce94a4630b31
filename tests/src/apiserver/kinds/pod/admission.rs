//! What admission adds to a new Pod: its service account with a token to mount, tolerations, priority.
//!
//! The same as the plugins ServiceAccount, DefaultTolerationSeconds and Priority of a real server, which are on there unless
//! switched off.

use serde_json::{Value, json};

use super::super::super::object::{as_map, default_to, field_mut, items, meta, name, name_suffix, text};
use super::super::super::resource::Resource;
use super::super::super::server::Txn;
use super::super::super::status::ApiError;

/// Where a container finds its token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// One hour and a bit, so that a token is renewed before the hour that clients expect is over (seconds).
const TOKEN_SECONDS: u32 = 3607;
/// How long a Pod stays on a node that is not ready or not reachable (seconds).
const TOLERATED_SECONDS: u32 = 300;
/// Comes from a file on the node; the kubelet shows it, nothing is added.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Adds everything to a Pod that is being created.
///
/// # Errors
/// When its service account or its priority class is not there.
pub(crate) fn admit(resource: &Resource, pod: &mut Value, txn: &Txn<'_>) -> Result<(), ApiError> {
    let is_mirror = pod
        .pointer("/metadata/annotations")
        .is_some_and(|annotations| annotations.get(MIRROR).is_some());
    if !is_mirror {
        service_account(resource, pod, txn)?;
    }
    tolerations(pod);
    priority(resource, pod, txn)
}

fn refuse(resource: &Resource, pod: &Value, why: &str) -> ApiError {
    let named = match name(pod) {
        "" => meta(pod, "generateName"),
        named => named,
    };
    let message = format!("{} \"{named}\" is forbidden: {why}", resource.qualified());
    ApiError::forbidden(resource.details(Some(named)), message)
}

fn service_account(resource: &Resource, pod: &mut Value, txn: &Txn<'_>) -> Result<(), ApiError> {
    let spec = field_mut(pod, "spec");
    if spec
        .get("serviceAccountName")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .is_empty()
    {
        spec.insert("serviceAccountName".to_owned(), Value::from("default"));
    }
    let account_name = spec.get("serviceAccountName").cloned().unwrap_or_default();
    spec.insert("serviceAccount".to_owned(), account_name.clone());
    let account_name = account_name.as_str().unwrap_or_default();
    let namespace = meta(pod, "namespace");
    let Some(account) = txn.store.get("serviceaccounts", namespace, account_name).cloned() else {
        let why = format!(
            "error looking up service account {namespace}/{account_name}: serviceaccount \"{account_name}\" not found"
        );
        let mut error = refuse(resource, pod, &why);
        // A controller makes it in every new namespace.
        error.settles = account_name == "default";
        return Err(error);
    };
    let flag = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_bool);
    let mounts = flag(pod, "/spec/automountServiceAccountToken")
        .or_else(|| flag(&account, "/automountServiceAccountToken"))
        .unwrap_or(true);
    if mounts {
        mount_token(pod);
    }
    let secrets = items(&account, "/imagePullSecrets");
    if items(pod, "/spec/imagePullSecrets").is_empty() && !secrets.is_empty() {
        field_mut(pod, "spec").insert("imagePullSecrets".to_owned(), json!(secrets));
    }
    Ok(())
}

fn mount_token(pod: &mut Value) {
    let existing = items(pod, "/spec/volumes")
        .iter()
        .map(|volume| text(volume, "/name"))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let volume_name = existing
        .clone()
        .unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", name_suffix()));
    let spec = field_mut(pod, "spec");
    let mut used = false;
    for key in ["initContainers", "containers"] {
        let Some(Value::Array(containers)) = spec.get_mut(key) else {
            continue;
        };
        for container in containers {
            let own = items(container, "/volumeMounts");
            if own.iter().any(|mount| text(mount, "/mountPath") == MOUNT_PATH) {
                continue;
            }
            used = true;
            let mount = json!({"name": volume_name, "readOnly": true, "mountPath": MOUNT_PATH});
            let mounts = as_map(container).entry("volumeMounts").or_insert(json!([]));
            if let Some(mounts) = mounts.as_array_mut() {
                mounts.push(mount);
            }
        }
    }
    if !used || existing.is_some() {
        return;
    }
    let volume = json!({"name": volume_name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}});
    if let Some(volumes) = spec.entry("volumes").or_insert(json!([])).as_array_mut() {
        volumes.push(volume);
    }
}

fn tolerations(pod: &mut Value) {
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = items(pod, "/spec/tolerations").iter().any(|toleration| {
            let (key, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
            (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if tolerated {
            continue;
        }
        let toleration = json!({"key": taint, "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": TOLERATED_SECONDS});
        let all = field_mut(pod, "spec").entry("tolerations").or_insert(json!([]));
        if let Some(all) = all.as_array_mut() {
            all.push(toleration);
        }
    }
}

fn priority(resource: &Resource, pod: &mut Value, txn: &Txn<'_>) -> Result<(), ApiError> {
    let wanted = text(pod, "/spec/priorityClassName").to_owned();
    let mut classes = txn.store.list("priorityclasses.scheduling.k8s.io", None);
    let class = if wanted.is_empty() {
        classes.find(|(_, class)| class.get("globalDefault") == Some(&Value::Bool(true)))
    } else {
        let class = classes.find(|((_, name), _)| *name == wanted);
        if class.is_none() {
            let why = format!("no PriorityClass with name {wanted} was found");
            return Err(refuse(resource, pod, &why));
        }
        class
    };
    let of = |key: &str| class.and_then(|(_, class)| class.get(key)).cloned();
    let value = of("value").unwrap_or(json!(0));
    let preempts = of("preemptionPolicy").unwrap_or(json!("PreemptLowerPriority"));
    let named = class.map(|((_, name), _)| name.clone());
    let spec = field_mut(pod, "spec");
    spec.insert("priority".to_owned(), value);
    default_to(spec, "preemptionPolicy", preempts);
    if let Some(named) = named {
        spec.insert("priorityClassName".to_owned(), Value::from(named));
    }
    Ok(())
}
