//! Create, update and delete: what they check, what they keep, and in which order, for every kind alike.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Request, Target};
use super::kinds::{self, crd};
use super::managed::{self, Writer};
use super::names;
use super::object::{
    as_map, carry, carry_meta, field_mut, finalizers, is_deleting, items, meta, metadata_mut, name, name_suffix,
    new_uid, set_meta, specification_differs, tidy_metadata,
};
use super::resource::Resource;
use super::schema::Shape;
use super::server::Txn;
use super::status::{ApiError, Cause};
use super::store::Stored;
use super::validate;
use super::zeros;

/// How often another generated name is tried.
const NAME_TRIES: usize = 8;
const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing \
                         errors to complete validation";

/// Who owns the fields that a write sets.
#[derive(Clone, Debug)]
pub(crate) struct Ownership {
    pub(crate) manager: String,
    /// The object was merged by server-side apply, which recorded the owners.
    pub(crate) applied: bool,
}

impl Ownership {
    pub(crate) fn of(request: &Request) -> Self {
        Self {
            manager: request.manager(),
            applied: false,
        }
    }
}

/// The writer as ownership wants it; `now` and `api_version` live as long as the call.
pub(crate) fn writer<'a>(target: &'a Target, manager: &'a str, api_version: &'a str, now: &'a str) -> Writer<'a> {
    Writer {
        manager,
        api_version,
        subresource: &target.subresource,
        now,
        has_status: target.resource.has_status(),
    }
}

/// Creates `object`, which is clean and of the right kind.
pub(crate) fn create(
    txn: &mut Txn<'_>,
    target: &Target,
    mut object: Value,
    ownership: &Ownership,
) -> Result<Arc<Stored>, ApiError> {
    let resource = &target.resource;
    if !meta(&object, "resourceVersion").is_empty() {
        let mut error = ApiError::new(500, "", "resourceVersion should not be set on objects to be created");
        error.details = Value::Null;
        return Err(error);
    }
    place(txn, target, &mut object)?;
    let metadata = metadata_mut(&mut object);
    for key in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "uid",
    ] {
        metadata.remove(key);
    }
    if resource.has_status() {
        as_map(&mut object).remove("status");
    }
    omit_zeros(txn, resource, &mut object);
    kinds::mark_new(resource, &mut object, new_uid(), txn.timestamp());
    name_it(txn, resource, &mut object)?;

    let shape = Shape::of(txn.definitions(), resource);
    validate::default(&mut object, shape);
    kinds::default(resource, &mut object);
    tidy_metadata(&mut object);
    if !ownership.applied {
        let (api_version, now) = (resource.api_version(), txn.timestamp());
        let writer = writer(target, &ownership.manager, &api_version, &now);
        let blank = zeros::blank(&txn.definitions().fields, resource.stored_definition());
        managed::record(&blank, &mut object, shape, writer);
    }
    let mut causes = kinds::prepare_create(resource, &mut object, txn)?;
    show_zeros(txn, resource, &mut object);
    check(txn, target, &object, None, &mut causes)?;
    if txn.get(resource, meta(&object, "namespace"), name(&object)).is_some() {
        return Err(ApiError::already_exists(resource, name(&object)));
    }
    let stored = txn.put(resource, object);
    kinds::written(resource, &stored, txn);
    Ok(stored)
}

fn omit_zeros(txn: &Txn<'_>, resource: &Resource, object: &mut Value) {
    zeros::omit(&txn.definitions().fields, resource.stored_definition(), object);
}

fn show_zeros(txn: &Txn<'_>, resource: &Resource, object: &mut Value) {
    zeros::show(&txn.definitions().fields, resource.stored_definition(), object);
}

/// Puts the object into the namespace of the path, which must be there.
fn place(txn: &Txn<'_>, target: &Target, object: &mut Value) -> Result<(), ApiError> {
    if !target.resource.namespaced {
        metadata_mut(object).remove("namespace");
        return Ok(());
    }
    let own = meta(object, "namespace");
    if !own.is_empty() && own != target.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(message));
    }
    set_meta(object, "namespace", target.namespace.as_str());
    let registry = txn.registry();
    let Some(namespaces) = registry.get("", "v1", "namespaces") else {
        return Ok(());
    };
    match txn.get(namespaces, "", &target.namespace) {
        None => Err(ApiError::not_found(namespaces, &target.namespace)),
        Some(namespace) if is_deleting(&namespace) => {
            let (resource, named) = (&target.resource, name(object));
            let message = format!(
                "{} \"{named}\" is forbidden: unable to create new content in namespace {} because it is being terminated",
                resource.qualified(),
                target.namespace
            );
            let mut details = resource.details(Some(named));
            let cause = json!({
                "reason": "NamespaceTerminating",
                "message": format!("namespace {} is being terminated", target.namespace),
                "field": "metadata.namespace",
            });
            as_map(&mut details).insert("causes".to_owned(), json!([cause]));
            Err(ApiError::forbidden(details, message))
        }
        Some(_) => Ok(()),
    }
}

fn name_it(txn: &Txn<'_>, resource: &Resource, object: &mut Value) -> Result<(), ApiError> {
    let prefix = meta(object, "generateName").to_owned();
    if name(object).is_empty() && !prefix.is_empty() {
        let namespace = meta(object, "namespace").to_owned();
        let free = std::iter::repeat_with(|| format!("{prefix}{}", name_suffix()))
            .take(NAME_TRIES)
            .find(|name| txn.get(resource, &namespace, name).is_none());
        let Some(free) = free else {
            return Err(ApiError::already_exists(resource, &prefix));
        };
        set_meta(object, "name", free);
    }
    let named = name(object);
    let mut causes = Vec::new();
    if named.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Err(why) = names::check(resource, named) {
        causes.push(Cause::invalid("metadata.name", &json!(named), &why));
    }
    names::check_labels(object, &mut causes);
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(resource, named, &causes))
    }
}

/// Everything that an object is checked for before it is stored.
fn check(
    txn: &Txn<'_>,
    target: &Target,
    object: &Value,
    old: Option<&Value>,
    causes: &mut Vec<Cause>,
) -> Result<(), ApiError> {
    let resource = &target.resource;
    let shape = Shape::of(txn.definitions(), resource);
    if let Some(custom) = &resource.custom {
        let before = causes.len();
        validate::check(object, shape, "", causes);
        let well_formed = causes.len() == before;
        validate::check_lists(object, shape, "", causes);
        if well_formed {
            custom.rules.check(shape, object, old, "", causes);
        } else if !custom.rules.is_empty() {
            causes.push(Cause::invalid("<nil>", &Value::Null, UNCHECKED));
        }
    } else if matches!(target.subresource.as_str(), "" | "ephemeralcontainers") {
        causes.extend(kinds::check(resource, object, old));
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(resource, name(object), causes))
    }
}

/// Replaces `live` by `object`, which is clean and of the right kind, as far as the path may.
pub(crate) fn update(
    txn: &mut Txn<'_>,
    target: &Target,
    live: &Arc<Stored>,
    mut object: Value,
    ownership: &Ownership,
) -> Result<Arc<Stored>, ApiError> {
    let resource = &target.resource;
    check_identity(target, live, &mut object)?;
    omit_zeros(txn, resource, &mut object);
    for key in [
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        carry_meta(live, &mut object, key);
    }
    tidy_metadata(&mut object);
    let shape = Shape::of(txn.definitions(), resource);
    if target.subresource == "status" {
        object = with_part_of(live, &object, "/status");
        validate::default(&mut object, shape);
        kinds::default_status(resource, &mut object);
    } else if target.subresource == "approval" {
        object = with_part_of(live, &object, "/status/conditions");
    } else if target.subresource == "resize" {
        object = resized(live, &object);
        kinds::default(resource, &mut object);
    } else if target.subresource == "ephemeralcontainers" {
        object = with_part_of(live, &object, "/spec/ephemeralContainers");
        kinds::default(resource, &mut object);
    } else {
        if resource.has_status() {
            carry(live, &mut object, "status");
        }
        validate::default(&mut object, shape);
        kinds::default(resource, &mut object);
    }
    if !ownership.applied {
        let (api_version, now) = (resource.api_version(), txn.timestamp());
        let writer = writer(target, &ownership.manager, &api_version, &now);
        managed::record(live, &mut object, shape, writer);
    }
    // What the server itself gives or takes is no one's.
    let mut causes = if target.subresource == "status" {
        Vec::new()
    } else {
        kinds::prepare_update(resource, live, &mut object, txn)
    };
    show_zeros(txn, resource, &mut object);
    let mut of_metadata = Vec::new();
    check_finalizers(live, &object, &mut of_metadata);
    names::check_labels(&object, &mut of_metadata);
    // A real server looks at the metadata of an update twice, and says so.
    causes.extend(of_metadata.iter().cloned().chain(of_metadata.iter().cloned()));
    check(txn, target, &object, Some(live), &mut causes)?;
    tidy_metadata(&mut object);
    if same(live, &object) {
        return Ok(Arc::clone(live));
    }
    if resource.generation && specification_differs(live, &object, resource.has_status()) {
        let generation = live
            .pointer("/metadata/generation")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        set_meta(&mut object, "generation", generation.saturating_add(1));
    }
    Ok(store_or_end(txn, resource, object))
}

/// Stores an object, or removes it when nothing holds its deletion up any more.
pub(crate) fn store_or_end(txn: &mut Txn<'_>, resource: &Resource, object: Value) -> Arc<Stored> {
    let graceful = object
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|seconds| seconds > 0);
    let ends =
        is_deleting(&object) && finalizers(&object).is_empty() && !kinds::holds_on(resource, &object) && !graceful;
    if ends {
        txn.remove(resource, &object);
        crd::object_gone(resource, txn);
        return Arc::new(Stored::new(object));
    }
    let stored = txn.put(resource, object);
    kinds::written(resource, &stored, txn);
    stored
}

pub(crate) fn check_identity(target: &Target, live: &Value, object: &mut Value) -> Result<(), ApiError> {
    let resource = &target.resource;
    let named = name(object);
    if named.is_empty() {
        set_meta(object, "name", target.name.as_str());
    } else if named != target.name {
        let message = format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            target.name
        );
        return Err(ApiError::bad_request(message));
    }
    let namespace = meta(object, "namespace");
    if !namespace.is_empty() && namespace != target.namespace {
        let message = format!(
            "the namespace of the object ({namespace}) does not match the namespace on the URL ({})",
            target.namespace
        );
        return Err(ApiError::bad_request(message));
    }
    let (uid, live_uid) = (meta(object, "uid"), meta(live, "uid"));
    if !uid.is_empty() && uid != live_uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {live_uid}");
        return Err(ApiError::conflict(resource, &target.name, &why));
    }
    let revision = meta(object, "resourceVersion");
    if !revision.is_empty() && revision != meta(live, "resourceVersion") {
        return Err(ApiError::stale(resource, &target.name));
    }
    Ok(())
}

/// `live` with a part of `object`, which is one or two names deep.
fn with_part_of(live: &Value, object: &Value, pointer: &str) -> Value {
    let mut next = live.clone();
    let value = object.pointer(pointer).cloned();
    let path = pointer.trim_start_matches('/');
    let (map, key) = match path.split_once('/') {
        Some((first, second)) => (field_mut(&mut next, first), second),
        None => (as_map(&mut next), path),
    };
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    };
    // Owners may be set through any path.
    carry_meta(object, &mut next, "managedFields");
    next
}

/// `live` with what the containers of `object` may use.
fn resized(live: &Value, object: &Value) -> Value {
    let mut next = live.clone();
    for list in ["containers", "initContainers"] {
        let wanted = items(object, &format!("/spec/{list}"));
        let containers = next.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let same = wanted.iter().find(|one| one.get("name") == container.get("name"));
            if let Some(resources) = same.and_then(|one| one.get("resources")) {
                as_map(container).insert("resources".to_owned(), resources.clone());
            }
        }
    }
    carry_meta(object, &mut next, "managedFields");
    next
}

fn check_finalizers(live: &Value, object: &Value, causes: &mut Vec<Cause>) {
    if !is_deleting(live) {
        return;
    }
    let had = finalizers(live);
    let new: Vec<String> = finalizers(object)
        .into_iter()
        .filter(|finalizer| !had.contains(finalizer))
        .map(|finalizer| format!("\"{finalizer}\""))
        .collect();
    if !new.is_empty() {
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            new.join(", ")
        );
        causes.push(Cause::forbidden("metadata.finalizers", &why));
    }
}

/// Nothing was changed, times of owners aside.
fn same(live: &Value, object: &Value) -> bool {
    let without_times = |object: &Value| {
        let mut object = object.clone();
        if let Some(Value::Array(entries)) = object.pointer_mut("/metadata/managedFields") {
            for entry in entries {
                as_map(entry).remove("time");
            }
        }
        object
    };
    without_times(live) == without_times(object)
}
