//! What each verb does on a resource: reads the body, opens a transaction, and says what to answer.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::Answer;
use super::body;
use super::call::{Request, Target};
use super::deletion::{self, DeleteOptions, Deleted};
use super::escalation;
use super::fieldset;
use super::identity::User;
use super::managed;
use super::object::{as_map, field_mut, meta, name, set_meta};
use super::patch;
use super::pods;
use super::rbac::Attributes;
use super::read;
use super::resource::Resource;
use super::reviews;
use super::scale;
use super::schema::Shape;
use super::selectors::Fields;
use super::server::{Server, Txn};
use super::status::{ApiError, Cause};
use super::store::Stored;
use super::watch;
use super::write::{self, Ownership};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// Answers a request that may be answered.
pub(crate) fn serve(server: &Arc<Server>, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    match (target.verb, target.subresource.as_str()) {
        (_, "scale") => scale::serve(server, request, target),
        ("list", _) => read::list(server, request, target),
        ("watch", _) => watch::start(server, request, target).map(Answer::stream),
        ("get", "" | "status" | "approval" | "ephemeralcontainers" | "resize") => get(server, request, target),
        ("create", "") if reviews::is_review(&target.resource) => reviews::review(server, request, target),
        ("create", "") if target.resource.is("", "bindings") => pods::bind(server, request, target),
        ("create", "") => create(server, request, target),
        ("create", "token") => reviews::token(server, request, target),
        ("create", "eviction") => pods::evict(server, request, target),
        ("create", "binding") => pods::bind(server, request, target),
        ("update", "" | "status" | "approval" | "ephemeralcontainers" | "resize" | "finalize") => {
            update(server, request, target)
        }
        ("patch", "" | "status" | "approval" | "ephemeralcontainers" | "resize") => patch_verb(server, request, target),
        ("delete", "") => delete(server, request, target),
        ("deletecollection", "") => delete_collection(server, request, target),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// The object of the path as it is now.
pub(crate) fn live(txn: &Txn<'_>, target: &Target) -> Result<Arc<Stored>, ApiError> {
    txn.get(&target.resource, &target.namespace, &target.name)
        .ok_or_else(|| ApiError::not_found(&target.resource, &target.name))
}

fn get(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let txn = server.begin(false);
    let object = live(&txn, target)?;
    let now = txn.now;
    let revision = txn.end();
    Ok(Answer::object(request, &target.resource, 200, &object, now).after(revision))
}

/// The body as an object of what the path is about, with warnings about it.
fn object_of(server: &Server, request: &Request, target: &Target) -> Result<(Value, Vec<String>), ApiError> {
    let resource = &target.resource;
    let definitions = &server.definitions;
    let mut object = body::read(request, definitions, &resource.kind, &resource.definition)?;
    body::identify(target, &mut object)?;
    let warnings = body::clean(request, resource, definitions, &mut object)?;
    Ok((object, warnings))
}

fn create(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    if !target.name.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    let (object, warnings) = object_of(server, request, target)?;
    let mut txn = server.begin(request.dry_run()?);
    may_grant(&txn, request, target, &object, None)?;
    let stored = write::create(&mut txn, target, object, &Ownership::of(request))?;
    let now = txn.now;
    let revision = txn.end();
    Ok(Answer::object(request, &target.resource, 201, &stored, now)
        .warning(warnings)
        .after(revision))
}

fn update(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let (object, warnings) = object_of(server, request, target)?;
    let resource = &target.resource;
    let mut txn = server.begin(request.dry_run()?);
    let Some(live) = txn.get(resource, &target.namespace, &target.name) else {
        // Few kinds are created by an update.
        let may =
            matches!(resource.kind.as_str(), "Lease" | "Event" | "Endpoints") || resource.group.starts_with("rbac.");
        if !may || !target.subresource.is_empty() {
            return Err(ApiError::not_found(resource, &target.name));
        }
        may_grant(&txn, request, target, &object, None)?;
        let stored = write::create(&mut txn, target, object, &Ownership::of(request))?;
        let now = txn.now;
        let revision = txn.end();
        return Ok(Answer::object(request, resource, 201, &stored, now).after(revision));
    };
    if resource.custom.is_some() && meta(&object, "resourceVersion").is_empty() {
        let cause = Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
        return Err(ApiError::invalid(resource, &target.name, &[cause]));
    }
    may_grant(&txn, request, target, &object, Some(&live))?;
    let stored = if target.subresource == "finalize" {
        deletion::finalize_namespace(&mut txn, target, &live, &object)?
    } else {
        write::update(&mut txn, target, &live, object, &Ownership::of(request))?
    };
    let now = txn.now;
    let revision = txn.end();
    Ok(Answer::object(request, resource, 200, &stored, now)
        .warning(warnings)
        .after(revision))
}

fn patch_verb(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let resource = &target.resource;
    let kind = request.media_type();
    match kind {
        APPLY_PATCH => return apply(server, request, target),
        JSON_PATCH | MERGE_PATCH => {}
        STRATEGIC_PATCH if resource.is_builtin() => {}
        STRATEGIC_PATCH => return Err(ApiError::unsupported_patch(&[JSON_PATCH, MERGE_PATCH, APPLY_PATCH])),
        _ => return Err(ApiError::unsupported_media_type()),
    }
    let patch = body::read(request, &server.definitions, &resource.kind, &resource.definition)?;
    let mut txn = server.begin(request.dry_run()?);
    let live = live(&txn, target)?;
    let mut object = body::present(resource, &live);
    match kind {
        JSON_PATCH => patch::json_patch(&mut object, &patch)?,
        MERGE_PATCH => patch::merge(&mut object, &patch),
        _ => patch::strategic(&mut object, &patch, Shape::of(&server.definitions, resource))?,
    }
    body::identify(target, &mut object)?;
    let warnings = body::clean(request, resource, &server.definitions, &mut object)?;
    may_grant(&txn, request, target, &object, Some(&live))?;
    let stored = write::update(&mut txn, target, &live, object, &Ownership::of(request))?;
    let now = txn.now;
    let revision = txn.end();
    Ok(Answer::object(request, resource, 200, &stored, now)
        .warning(warnings)
        .after(revision))
}

fn apply(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let resource = &target.resource;
    let manager = request.query.get("fieldManager");
    if manager.is_empty() {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        return Err(ApiError::invalid_options("PatchOptions", "meta.k8s.io", &[cause]));
    }
    let (mut applied, warnings) = object_of(server, request, target)?;
    if applied.pointer("/metadata/managedFields").is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    for (key, wanted) in [("name", &target.name), ("namespace", &target.namespace)] {
        let found = meta(&applied, key);
        if !found.is_empty() && found != wanted {
            let message = format!("the {key} of the object ({found}) does not match the {key} on the URL ({wanted})");
            return Err(ApiError::bad_request(message));
        }
    }
    let mut txn = server.begin(request.dry_run()?);
    let live = txn.get(resource, &target.namespace, &target.name);
    let (api_version, now) = (resource.api_version(), txn.timestamp());
    let mut writer = write::writer(target, manager, &api_version, &now);
    // An apply to the status owns nothing else.
    writer.has_status &= target.subresource.is_empty();
    let shape = Shape::of(&server.definitions, resource);
    refuse_duplicates(resource, &applied, shape)?;
    let force = request.query.is_true("force");
    // In the form of what is applied.
    let base = live.as_deref().map(|live| match resource.is_view() {
        true => Value::clone(live),
        false => body::present(resource, live),
    });
    let revision = meta(&applied, "resourceVersion").to_owned();
    let mut merged = managed::apply(base.as_ref(), &applied, shape, writer, force)?;
    let ownership = Ownership {
        manager: manager.to_owned(),
        applied: true,
    };
    as_map(&mut applied);
    set_meta(&mut merged, "name", target.name.as_str());
    may_grant(&txn, request, target, &merged, live.as_deref().map(|live| &**live))?;
    let at = txn.now;
    let (code, stored) = match live {
        Some(live) => {
            if revision.is_empty() {
                field_mut(&mut merged, "metadata").remove("resourceVersion");
            }
            (200, write::update(&mut txn, target, &live, merged, &ownership)?)
        }
        None if target.subresource.is_empty() => (201, write::create(&mut txn, target, merged, &ownership)?),
        None => return Err(ApiError::not_found(resource, &target.name)),
    };
    let revision = txn.end();
    Ok(Answer::object(request, resource, code, &stored, at)
        .warning(warnings)
        .after(revision))
}

fn refuse_duplicates(resource: &Resource, applied: &Value, shape: Shape<'_>) -> Result<(), ApiError> {
    let duplicates = fieldset::duplicates(applied, shape);
    let why = match duplicates.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    // The core's group shows as nothing before the slash.
    let message = format!(
        "failed to create typed patch object ({}/{}; {}/{}, Kind={}): {why}",
        meta(applied, "namespace"),
        name(applied),
        resource.group,
        resource.version,
        resource.kind
    );
    Err(ApiError::new(500, "", message))
}

/// Whether whoever asks may give away what the object grants.
fn may_grant(
    txn: &Txn<'_>,
    request: &Request,
    target: &Target,
    object: &Value,
    live: Option<&Value>,
) -> Result<(), ApiError> {
    escalation::check(
        &txn.store,
        &request.user,
        &target.resource,
        &target.namespace,
        object,
        live,
    )
}

fn options(server: &Server, request: &Request) -> Result<DeleteOptions, ApiError> {
    let body = if request.body.is_empty() {
        json!({})
    } else {
        body::read(request, &server.definitions, "DeleteOptions", "")?
    };
    DeleteOptions::of(request, &body)
}

fn delete(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let options = options(server, request)?;
    delete_with(server, request, target, &options)
}

fn delete_with(
    server: &Server,
    request: &Request,
    target: &Target,
    options: &DeleteOptions,
) -> Result<Answer, ApiError> {
    let mut txn = server.begin(options.dry_run);
    let live = live(&txn, target)?;
    let deleted = deletion::delete(&mut txn, &target.resource, &live, options)?;
    let now = txn.now;
    let revision = txn.end();
    let answer = match deleted {
        Deleted::Waiting(object) => Answer::object(request, &target.resource, 200, &object, now),
        Deleted::Gone(object) => Answer::json(200, &gone(&target.resource, &object)),
    };
    Ok(answer.after(revision))
}

fn gone(resource: &Resource, object: &Value) -> Value {
    let mut details = resource.details(Some(name(object)));
    as_map(&mut details).insert("uid".to_owned(), Value::from(meta(object, "uid")));
    success(details)
}

/// A Status that says that it went well.
pub(crate) fn success(details: Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn delete_collection(server: &Server, request: &Request, target: &Target) -> Result<Answer, ApiError> {
    let options = options(server, request)?;
    let resource = &target.resource;
    let filter = read::Filter::of(request, target)?;
    let mut txn = server.begin(options.dry_run);
    let chosen: Vec<Arc<Stored>> = txn
        .store
        .list(&resource.table(), filter.namespace())
        .map(|(_, object)| object)
        .filter(|object| filter.matches(object))
        .cloned()
        .collect();
    let mut items = Vec::with_capacity(chosen.len());
    for object in &chosen {
        let left = match deletion::delete(&mut txn, resource, object, &options)? {
            Deleted::Gone(object) | Deleted::Waiting(object) => object,
        };
        items.push(body::present(resource, &left));
    }
    let revision = txn.end();
    let list = json!({
        "kind": resource.list_kind,
        "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": revision.to_string(), "continue": ""},
        "items": items,
    });
    Ok(Answer::json(200, &list).after(revision))
}

/// Whether the user may do what the request asks.
pub(crate) fn authorize(server: &Server, request: &Request, target: &Target) -> Result<(), ApiError> {
    let mut wanted = target.attributes();
    if matches!(wanted.verb.as_str(), "list" | "watch" | "deletecollection") {
        // Who may see one object may list it alone.
        let fields = Fields::parse(request.query.get("fieldSelector"), &target.resource);
        if let Some(name) = fields.ok().as_ref().and_then(Fields::name) {
            name.clone_into(&mut wanted.name);
        }
    }
    allow(server, &request.user, &wanted)
}

/// Whether `user` may do this.
pub(crate) fn allow(server: &Server, user: &User, wanted: &Attributes) -> Result<(), ApiError> {
    match super::rbac::allowed(&server.store(), user, wanted) {
        Some(_) => Ok(()),
        None => Err(wanted.refusal(user)),
    }
}
