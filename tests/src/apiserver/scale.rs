//! The subresource `scale`: the number of replicas of an object, wherever its kind keeps it.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::body;
use super::call::{Request, Target};
use super::kinds::crd;
use super::object::{as_map, carry_meta, text};
use super::patch;
use super::schema::Shape;
use super::server::{Server, Txn};
use super::status::ApiError;
use super::store::Stored;
use super::verbs;
use super::write::{self, Ownership};

const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";

/// JSON pointers into the object.
struct Paths {
    replicas: String,
    status: String,
    selector: String,
}

fn paths(txn: &Txn<'_>, target: &Target) -> Paths {
    let resource = &target.resource;
    let custom = (!resource.is_builtin())
        .then(|| txn.store.get(crd::TABLE, "", &resource.qualified()))
        .flatten()
        .and_then(|definition| crd::scale_paths(definition, &resource.version));
    let pointer = |custom: &Map<String, Value>, key: &str, or: &str| {
        let path = custom.get(key).and_then(Value::as_str).unwrap_or(or);
        path.replace('.', "/")
    };
    let none = Map::new();
    let of = custom.as_ref().unwrap_or(&none);
    Paths {
        replicas: pointer(of, "specReplicasPath", ".spec.replicas"),
        status: pointer(of, "statusReplicasPath", ".status.replicas"),
        selector: pointer(
            of,
            "labelSelectorPath",
            if custom.is_some() { "" } else { ".spec.selector" },
        ),
    }
}

fn scale_of(object: &Value, paths: &Paths) -> Value {
    let number = |pointer: &str| object.pointer(pointer).cloned().unwrap_or(json!(0));
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {},
        "spec": {"replicas": number(&paths.replicas)},
        "status": {"replicas": number(&paths.status)},
    });
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        carry_meta(object, &mut scale, key);
    }
    let labels = object.pointer(&format!("{}/matchLabels", paths.selector));
    let selector = match (object.pointer(&paths.selector), labels.and_then(Value::as_object)) {
        (Some(Value::String(text)), _) => text.clone(),
        (_, Some(labels)) => {
            let parts = labels
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            parts.collect::<Vec<String>>().join(",")
        }
        _ => String::new(),
    };
    if !selector.is_empty()
        && let Some(Value::Object(status)) = scale.get_mut("status")
    {
        status.insert("selector".to_owned(), Value::from(selector));
    }
    scale
}

/// Answers a request for a scale.
pub(crate) fn serve(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let mut txn = server.begin(request.dry_run()?);
    let paths = paths(&txn, target);
    let live = verbs::live(&txn, target)?;
    let mut scale = scale_of(&live, &paths);
    let stored = match target.verb {
        "get" => live,
        "update" => {
            scale = body::read(request, &server.definitions, "Scale", SCALE)?;
            body::identify_as(&mut scale, "autoscaling/v1", "Scale")?;
            set(&mut txn, request, target, &live, &scale, &paths)?
        }
        "patch" => {
            let patch = body::read(request, &server.definitions, "Scale", SCALE)?;
            match request.media_type() {
                "application/json-patch+json" => patch::json_patch(&mut scale, &patch)?,
                "application/strategic-merge-patch+json" => {
                    patch::strategic(&mut scale, &patch, Shape::named(&server.definitions, SCALE))?;
                }
                _ => patch::merge(&mut scale, &patch),
            }
            set(&mut txn, request, target, &live, &scale, &paths)?
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    let revision = txn.end();
    Ok(Answer::json(200, &scale_of(&stored, &paths)).after(revision))
}

fn set(
    txn: &mut Txn<'_>,
    request: &Request,
    target: &Target,
    live: &Arc<Stored>,
    scale: &Value,
    paths: &Paths,
) -> Result<Arc<Stored>, ApiError> {
    let replicas = scale.pointer("/spec/replicas").cloned().unwrap_or(json!(0));
    let mut object = Value::clone(live);
    if let Some((parent, key)) = paths.replicas.rsplit_once('/')
        && let Some(parent) = object.pointer_mut(parent)
    {
        as_map(parent).insert(key.to_owned(), replicas);
    }
    let revision = text(scale, "/metadata/resourceVersion");
    if !revision.is_empty() && revision != text(live, "/metadata/resourceVersion") {
        return Err(ApiError::stale(&target.resource, &target.name));
    }
    write::update(txn, target, live, object, &Ownership::of(request))
}
