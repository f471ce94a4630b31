//! The `Status` object that every failure is answered with.
//!
//! Messages follow the wording of a real server where clients or people rely on it. Knows nothing of HTTP framing or
//! of the store.

use serde_json::{Value, json};

use super::resource::Resource;

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, …
    pub(crate) reason: &'static str,
    /// Without the field's name.
    pub(crate) message: String,
    /// Path, for example `spec.ports[0].name`.
    pub(crate) field: String,
}

impl Cause {
    fn new(reason: &'static str, field: impl Into<String>, message: String) -> Self {
        Self {
            reason,
            message,
            field: field.into(),
        }
    }

    /// A value that is not allowed; `shown` is the value as JSON.
    pub(crate) fn invalid(field: impl Into<String>, shown: &Value, why: &str) -> Self {
        Self::new("FieldValueInvalid", field, format!("Invalid value: {shown}: {why}"))
    }

    /// A failed rule: the message alone, as the rule words it.
    pub(crate) fn rule(field: impl Into<String>, why: &str) -> Self {
        Self::new("FieldValueInvalid", field, format!("Invalid value: {why}"))
    }

    pub(crate) fn wrong_type(field: impl Into<String>, got: &str, why: &str) -> Self {
        let shown = Value::from(got);
        Self::new("FieldValueTypeInvalid", field, format!("Invalid value: {shown}: {why}"))
    }

    pub(crate) fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        Self::new("FieldValueRequired", field, message)
    }

    pub(crate) fn duplicate(field: impl Into<String>, shown: &Value) -> Self {
        Self::new("FieldValueDuplicate", field, format!("Duplicate value: {shown}"))
    }

    pub(crate) fn not_found(field: impl Into<String>, shown: &Value) -> Self {
        Self::new("FieldValueNotFound", field, format!("Not found: {shown}"))
    }

    pub(crate) fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self::new("FieldValueForbidden", field, format!("Forbidden: {why}"))
    }

    pub(crate) fn unsupported(field: impl Into<String>, shown: &Value, supported: &[Value]) -> Self {
        let supported: Vec<String> = supported.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {shown}: supported values: {}", supported.join(", "));
        Self::new("FieldValueNotSupported", field, message)
    }

    pub(crate) fn too_long(field: impl Into<String>, why: &str) -> Self {
        Self::new("FieldValueTooLong", field, format!("Too long: {why}"))
    }

    pub(crate) fn too_many(field: impl Into<String>, got: usize, most: u64) -> Self {
        Self::new(
            "FieldValueTooMany",
            field,
            format!("Too many: {got}: must have at most {most} items"),
        )
    }

    fn to_json(&self) -> Value {
        json!({"reason": self.reason, "message": self.message, "field": self.field})
    }
}

/// A request that failed, and all that its answer says.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) code: u16,
    /// Empty when the answer has none.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// `Null` when the answer has none.
    pub(crate) details: Value,
    /// Seconds, for the header `Retry-After`.
    pub(crate) retry_after: Option<u32>,
    /// What is missing is about to be made by someone: worth another try in a moment.
    pub(crate) settles: bool,
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
            retry_after: None,
            settles: false,
        }
    }

    fn with(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// A path that serves nothing.
    pub(crate) fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with(json!({}))
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message).with(json!({}))
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message).with(resource.details(Some(name)))
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).with(resource.details(Some(name)))
    }

    /// A write from an old resourceVersion.
    pub(crate) fn stale(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        Self::conflict_on(&resource.qualified(), resource.details(Some(name)), name, why)
    }

    /// The same for something else than the object itself.
    pub(crate) fn conflict_on(what: &str, details: Value, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        Self::new(409, "Conflict", message).with(details)
    }

    /// An eviction that would leave too few Pods.
    pub(crate) fn disruption(why: &str) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        Self::new(429, "TooManyRequests", message)
            .with(json!({"causes": [{"reason": "DisruptionBudget", "message": why}]}))
    }

    /// A delete whose precondition does not hold. Named after the kind, not the resource, as a real server does.
    pub(crate) fn precondition(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            resource.qualified_kind()
        );
        Self::new(409, "Conflict", message).with(resource.kind_details(name, &[]))
    }

    /// Fields of an object that are wrong; there is at least one.
    pub(crate) fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        Self::invalid_kind(
            &resource.qualified_kind(),
            resource.kind_details(name, &[]),
            name,
            causes,
        )
    }

    /// The same for something that is no resource, such as the options of a request.
    pub(crate) fn invalid_options(kind: &str, group: &str, causes: &[Cause]) -> Self {
        let details = json!({"group": group, "kind": kind});
        Self::invalid_kind(&format!("{kind}.{group}"), details, "", causes)
    }

    /// The same for options about an object with a name.
    pub(crate) fn invalid_named(kind: &str, name: &str, causes: &[Cause]) -> Self {
        Self::invalid_kind(kind, json!({"name": name, "kind": kind}), name, causes)
    }

    fn invalid_kind(kind: &str, mut details: Value, name: &str, causes: &[Cause]) -> Self {
        let mut each: Vec<String> = Vec::new();
        for cause in causes {
            let text = format!("{}: {}", cause.field, cause.message);
            if !each.contains(&text) {
                each.push(text);
            }
        }
        let all = match each.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        if let Some(map) = details.as_object_mut() {
            let causes = causes.iter().map(Cause::to_json).collect();
            map.insert("causes".to_owned(), Value::Array(causes));
        }
        Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {all}")).with(details)
    }

    /// A JSON patch that does not fit the object.
    pub(crate) fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(422, "Invalid", message).with(json!({}))
    }

    pub(crate) fn forbidden(details: Value, message: String) -> Self {
        Self::new(403, "Forbidden", message).with(details)
    }

    /// A patch type that this resource does not take.
    pub(crate) fn unsupported_patch(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn unsupported_media_type() -> Self {
        Self::new(415, "UnsupportedMediaType", "415: Unsupported Media Type").with(json!({}))
    }

    /// Fields that another manager owns, as (manager, path).
    pub(crate) fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|(manager, field)| {
                json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": field})
            })
            .collect();
        let message = match conflicts {
            [(manager, field)] => format!("Apply failed with 1 conflict: conflict with {manager}: {field}"),
            many => {
                let lines: Vec<String> = many
                    .iter()
                    .map(|(manager, field)| format!("conflict with {manager}: {field}"))
                    .collect();
                format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
            }
        };
        Self::new(409, "Conflict", message).with(json!({"causes": causes}))
    }

    /// A resourceVersion that is not in the log any more.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// A resourceVersion that this server has not reached.
    pub(crate) fn too_large(asked: u64, current: u64) -> Self {
        let mut error = Self::new(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
        );
        error.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        error.retry_after = Some(1);
        error
    }

    /// The body of the answer.
    pub(crate) fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if let Some(map) = status.as_object_mut() {
            if !self.reason.is_empty() {
                map.insert("reason".to_owned(), Value::from(self.reason));
            }
            if !self.details.is_null() {
                map.insert("details".to_owned(), self.details.clone());
            }
        }
        status
    }
}
