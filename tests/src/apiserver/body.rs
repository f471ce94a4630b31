//! Bodies: JSON, YAML and protobuf read into objects; unknown fields found; objects put into the version asked for.

use hyper::body::Bytes;
use serde_json::Value;

use super::call::{Request, Target};
use super::json_text;
use super::kinds::{autoscaling, events};
use super::object::{as_map, text};
use super::protobuf;
use super::resource::{Resource, group_version};
use super::schema::{Definitions, Shape};
use super::status::{ApiError, Cause};
use super::store::Stored;
use super::validate;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Larger bodies are refused, as a real server does (bytes).
pub(crate) const LARGEST: usize = 3 << 20;

/// A body as JSON, whatever it came as. `kind` is what is expected.
///
/// # Errors
/// When it can't be read.
pub(crate) fn read(
    request: &Request,
    definitions: &Definitions,
    kind: &str,
    definition: &str,
) -> Result<Value, ApiError> {
    match request.media_type() {
        PROTOBUF => protobuf_body(request, definitions, definition),
        "application/yaml" | "application/apply-patch+yaml" => yaml(&request.body),
        ""
        | "application/json"
        | "application/json-patch+json"
        | "application/merge-patch+json"
        | "application/strategic-merge-patch+json" => {
            serde_json::from_slice(&request.body).map_err(|error| unreadable(request, kind, &error))
        }
        _ => Err(ApiError::unsupported_media_type()),
    }
}

fn unreadable(request: &Request, kind: &str, error: &serde_json::Error) -> ApiError {
    let why = json_text::complaint(&request.body).unwrap_or_else(|| error.to_string());
    if request.media_type().ends_with("patch+json") {
        return ApiError::bad_request(format!("error decoding patch: {why}"));
    }
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {why} ({})",
        summary(&request.body)
    ))
}

/// The start of a body: as text when that is what it seems to be.
fn summary(body: &[u8]) -> String {
    const MOST: usize = 30;
    let start = body.get(..body.len().min(MOST)).unwrap_or_default();
    let shown = match start.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(start).into_owned(),
        Some(_) => start.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let more = if body.len() > MOST { " ..." } else { "" };
    shown + more
}

fn yaml(body: &[u8]) -> Result<Value, ApiError> {
    // Nearly always it is JSON, which is YAML too.
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text =
        std::str::from_utf8(body).map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
    serde_saphyr::from_str(text).map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}

fn protobuf_body(request: &Request, definitions: &Definitions, definition: &str) -> Result<Value, ApiError> {
    let broken = |error: protobuf::WireError| ApiError::bad_request(error.to_string());
    let envelope = protobuf::open(&request.body).map_err(broken)?;
    let definition = match envelope.kind.as_str() {
        "DeleteOptions" => "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
        _ => definition,
    };
    if definitions.fields.message(definition).is_none() {
        return Err(ApiError::unsupported_media_type());
    }
    let mut object = protobuf::decode(&definitions.fields, definition, envelope.message).map_err(broken)?;
    let map = as_map(&mut object);
    map.insert("apiVersion".to_owned(), Value::from(envelope.api_version));
    map.insert("kind".to_owned(), Value::from(envelope.kind));
    Ok(object)
}

/// Makes sure that a body is what the path is about, in the form in which it is stored.
///
/// # Errors
/// When it is of another kind.
pub(crate) fn identify(target: &Target, object: &mut Value) -> Result<(), ApiError> {
    let resource = &target.resource;
    let (group, version, kind) = match resource.subresource(&target.subresource) {
        Some(sub) => (&sub.group, &sub.version, &sub.kind),
        None => (&resource.group, &resource.version, &resource.kind),
    };
    identify_as(object, &group_version(group, version), kind)?;
    if resource.group == "events.k8s.io" {
        events::to_core(object);
    } else if resource.is_view() {
        autoscaling::to_stored(object);
    }
    Ok(())
}

/// The same for a body of a known version and kind.
pub(crate) fn identify_as(object: &mut Value, api_version: &str, kind: &str) -> Result<(), ApiError> {
    if !object.is_object() {
        let message = format!("the object provided is unrecognized (must be of type {kind})");
        return Err(ApiError::bad_request(message));
    }
    let found = (text(object, "/apiVersion").to_owned(), text(object, "/kind").to_owned());
    let same = |found: &str, wanted: &str| found.is_empty() || found == wanted;
    if !same(&found.1, kind) {
        let message = format!(
            "{} in version \"{}\" cannot be handled as a {kind}: converting ({}.{}) to ({}.{kind}): unknown conversion",
            found.1,
            found.0,
            found.0,
            found.1,
            internal_group(api_version)
        );
        return Err(ApiError::bad_request(message));
    }
    if !same(&found.0, api_version) {
        let message = format!(
            "the API version in the data ({}) does not match the expected API version ({api_version})",
            found.0
        );
        return Err(ApiError::bad_request(message));
    }
    let map = as_map(object);
    map.insert("apiVersion".to_owned(), Value::from(api_version));
    map.insert("kind".to_owned(), Value::from(kind));
    Ok(())
}

/// What the group is called inside a real server, whose messages show it.
fn internal_group(api_version: &str) -> &str {
    match api_version.split_once('/') {
        Some((group, _)) => group.split('.').next().unwrap_or(group),
        None => "core",
    }
}

/// Removes unknown fields and refuses values of the wrong type in built-in objects. Answers the warnings.
///
/// # Errors
/// When fields are unknown and `fieldValidation=Strict`, or a built-in object can't be decoded.
pub(crate) fn clean(
    request: &Request,
    resource: &Resource,
    definitions: &Definitions,
    object: &mut Value,
) -> Result<Vec<String>, ApiError> {
    let shape = Shape::of(definitions, resource);
    let unknown = validate::prune(object, shape);
    let strict = request.query.get("fieldValidation") == "Strict";
    let kind = &resource.kind;
    if strict && !unknown.is_empty() {
        let fields: Vec<String> = unknown
            .iter()
            .map(|field| format!("unknown field \"{field}\""))
            .collect();
        let message = format!(
            "{kind} in version \"{}\" cannot be handled as a {kind}: strict decoding error: {}",
            resource.version,
            fields.join(", ")
        );
        return Err(ApiError::bad_request(message));
    }
    validate::drop_nulls(object, shape);
    if resource.is_builtin() {
        let mut causes = Vec::new();
        validate::check(object, shape, "", &mut causes);
        let wrong_type = |cause: &&Cause| cause.reason == "FieldValueTypeInvalid";
        if let Some(cause) = causes.iter().find(wrong_type) {
            let message = format!(
                "{kind} in version \"{}\" cannot be handled as a {kind}: json: cannot unmarshal {} into Go struct field {kind}.{}",
                resource.version, cause.message, cause.field
            );
            return Err(ApiError::bad_request(message));
        }
    }
    if request.query.get("fieldValidation") == "Ignore" {
        return Ok(Vec::new());
    }
    Ok(unknown
        .iter()
        .map(|field| format!("unknown field \"{field}\""))
        .collect())
}

/// The same as JSON; what all see alike is written once for all.
pub(crate) fn json(resource: &Resource, object: &Stored) -> Bytes {
    let alike = !resource.is_view() && (resource.is_builtin() || text(object, "/apiVersion") == resource.api_version());
    if alike {
        object.json().clone()
    } else {
        Bytes::from(present(resource, object).to_string())
    }
}

/// An object as this version of its resource shows it.
pub(crate) fn present(resource: &Resource, object: &Value) -> Value {
    let mut object = object.clone();
    if resource.group == "events.k8s.io" {
        events::from_core(&mut object);
    } else if resource.is_view() {
        autoscaling::from_stored(&mut object);
    } else if resource.custom.is_some() {
        as_map(&mut object).insert("apiVersion".to_owned(), Value::from(resource.api_version()));
    }
    object
}
