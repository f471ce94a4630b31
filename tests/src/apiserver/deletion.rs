//! Deletion: what holds an object up, what becomes of its dependents, and when it is gone.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Request, Target};
use super::kinds::{self, crd};
use super::object::{field_mut, finalizers, is_deleting, items, meta, metadata_mut, name, set_meta, text};
use super::resource::Resource;
use super::server::{Txn, rfc3339};
use super::status::ApiError;
use super::store::Stored;
use super::write::{check_identity, store_or_end};

/// What a delete asks for, from its body and query.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) grace_period: Option<i64>,
    /// `Foreground`, `Background`, `Orphan` or empty.
    pub(crate) propagation: String,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    pub(crate) fn of(request: &Request, body: &Value) -> Result<Self, ApiError> {
        let query = |key: &str| request.query.get(key).to_owned();
        let either = |pointer: &str, key: &str| match text(body, pointer) {
            "" => query(key),
            found => found.to_owned(),
        };
        let grace = body.get("gracePeriodSeconds").and_then(Value::as_i64);
        // The older way to say it.
        let orphans = body.get("orphanDependents").and_then(Value::as_bool);
        Ok(Self {
            uid: text(body, "/preconditions/uid").to_owned(),
            resource_version: text(body, "/preconditions/resourceVersion").to_owned(),
            grace_period: grace.or_else(|| query("gracePeriodSeconds").parse().ok()),
            propagation: match (either("/propagationPolicy", "propagationPolicy"), orphans) {
                (policy, None) => policy,
                (_, Some(true)) => "Orphan".to_owned(),
                (_, Some(false)) => "Background".to_owned(),
            },
            dry_run: request.dry_run()? || items(body, "/dryRun").contains(&json!("All")),
        })
    }
}

/// What became of an object.
pub(crate) enum Deleted {
    /// It is gone.
    Gone(Arc<Stored>),
    /// It is on its way.
    Waiting(Arc<Stored>),
}

/// Begins or ends the deletion of `live`.
pub(crate) fn delete(
    txn: &mut Txn<'_>,
    resource: &Resource,
    live: &Arc<Stored>,
    options: &DeleteOptions,
) -> Result<Deleted, ApiError> {
    check_preconditions(resource, live, options)?;
    let mut object = Value::clone(live);
    let mut holders: Vec<String> = finalizers(live).into_iter().map(str::to_owned).collect();
    let is_definition = resource.is("apiextensions.k8s.io", "customresourcedefinitions");
    if is_definition && !crd::delete_objects(live, txn) && !holders.iter().any(|holder| holder == crd::CLEANUP) {
        holders.push(crd::CLEANUP.to_owned());
    }
    let holders = holders_by_propagation(holders, &options.propagation);
    let grace = kinds::grace_period(resource, live, options.grace_period);
    if holders.is_empty() && grace == 0 && !kinds::holds_on(resource, live) {
        txn.remove(resource, live);
        crd::object_gone(resource, txn);
        return Ok(Deleted::Gone(Arc::clone(live)));
    }
    let before = live
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    let shorter = !is_deleting(live) || before.is_some_and(|before| before > grace);
    if !shorter && holders == finalizers(live) {
        return Ok(Deleted::Waiting(Arc::clone(live)));
    }
    if shorter {
        let until = txn
            .now
            .checked_add(jiff::SignedDuration::from_secs(grace))
            .unwrap_or(txn.now);
        set_meta(&mut object, "deletionTimestamp", rfc3339(until));
        set_meta(&mut object, "deletionGracePeriodSeconds", grace);
    }
    if holders.is_empty() {
        metadata_mut(&mut object).remove("finalizers");
    } else {
        set_meta(&mut object, "finalizers", holders);
    }
    kinds::deletion_begins(resource, &mut object);
    if resource.generation && !is_deleting(live) {
        let generation = live
            .pointer("/metadata/generation")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        set_meta(&mut object, "generation", generation.saturating_add(1));
    }
    Ok(Deleted::Waiting(txn.put(resource, object)))
}

/// What holds an object once it is known what is to become of its dependents: a controller takes these two off.
fn holders_by_propagation(mut holders: Vec<String>, propagation: &str) -> Vec<String> {
    const FOREGROUND: &str = "foregroundDeletion";
    const ORPHAN: &str = "orphan";
    let wanted = match propagation {
        "Foreground" => Some(FOREGROUND),
        "Orphan" => Some(ORPHAN),
        "Background" => None,
        // Nothing was said: what the object itself says goes on.
        _ => return holders,
    };
    let has = |holders: &[String], name: &str| holders.iter().any(|holder| holder == name);
    holders.retain(|holder| ![FOREGROUND, ORPHAN].contains(&holder.as_str()) || wanted == Some(holder.as_str()));
    if let Some(wanted) = wanted
        && !has(&holders, wanted)
    {
        holders.push(wanted.to_owned());
    }
    holders
}

fn check_preconditions(resource: &Resource, live: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let named = name(live);
    let (uid, revision) = (meta(live, "uid"), meta(live, "resourceVersion"));
    let why = if !options.uid.is_empty() && options.uid != uid {
        format!(
            "the UID in the precondition ({}) does not match the UID in record ({uid}). \
             The object might have been deleted and then recreated",
            options.uid
        )
    } else if !options.resource_version.is_empty() && options.resource_version != revision {
        format!(
            "the ResourceVersion in the precondition ({}) does not match the ResourceVersion in record ({revision}). \
             The object might have been modified",
            options.resource_version
        )
    } else {
        return Ok(());
    };
    Err(ApiError::precondition(resource, named, &why))
}

/// The end of a Namespace, or a step towards it: the path `finalize`.
///
/// # Errors
/// When the Namespace has changed since it was read.
pub(crate) fn finalize_namespace(
    txn: &mut Txn<'_>,
    target: &Target,
    live: &Value,
    object: &Value,
) -> Result<Arc<Stored>, ApiError> {
    check_identity(target, live, &mut object.clone())?;
    let mut next = live.clone();
    let finalizers = object.pointer("/spec/finalizers").cloned().unwrap_or(json!([]));
    field_mut(&mut next, "spec").insert("finalizers".to_owned(), finalizers);
    Ok(store_or_end(txn, &target.resource, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_dependents_is_said_by_a_finalizer() {
        let after = |before: &[&str], propagation: &str| {
            let before = before.iter().map(|name| (*name).to_owned()).collect();
            holders_by_propagation(before, propagation).join(",")
        };
        assert_eq!(after(&["f"], "Foreground"), "f,foregroundDeletion");
        assert_eq!(after(&["orphan", "f"], "Foreground"), "f,foregroundDeletion");
        assert_eq!(after(&["foregroundDeletion"], "Orphan"), "orphan");
        assert_eq!(after(&["foregroundDeletion", "f"], "Background"), "f");
        assert_eq!(after(&["orphan"], ""), "orphan");
        assert_eq!(after(&["orphan"], "Orphan"), "orphan");
    }
}
