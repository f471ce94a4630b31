//! A Kubernetes object kept as it came, so that fields which no type here knows survive the way from a tenant to the manager.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An object of any kind, whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawObject(Map<String, Value>);

/// Why an object cannot be read as a type.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {namespace}/{name} cannot be read")]
pub struct ReadError {
    /// `kind` of the object.
    pub kind: String,
    /// `metadata.namespace` of the object, empty when it has none.
    pub namespace: String,
    /// `metadata.name` of the object.
    pub name: String,
    /// Which field does not fit.
    #[source]
    pub source: serde_json::Error,
}

/// Why a value is no object.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It has no JSON form.
    #[error("the object has no JSON form")]
    Json(#[from] serde_json::Error),
    /// Its JSON form is not a map.
    #[error("a list or a single value is no object")]
    NotAnObject,
}

impl RawObject {
    /// Takes any object of Kubernetes, typed or not.
    ///
    /// # Errors
    /// When the JSON form of `object` is not a map.
    pub fn new(object: &impl Serialize) -> Result<Self, WriteError> {
        match serde_json::to_value(object)? {
            Value::Object(fields) => Ok(Self(fields)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(WriteError::NotAnObject)
            }
        }
    }

    /// `apiVersion`; empty when it is missing.
    #[must_use]
    pub fn api_version(&self) -> &str {
        text(self.0.get("apiVersion"))
    }

    /// The group in `apiVersion`; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version().rsplit_once('/').map_or("", |(group, _)| group)
    }

    /// `kind`; empty when it is missing.
    #[must_use]
    pub fn kind(&self) -> &str {
        text(self.0.get("kind"))
    }

    /// `metadata.name`; empty when it is missing.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata("name")
    }

    /// `metadata.namespace`; empty when it is missing.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata("namespace")
    }

    /// Every field.
    #[must_use]
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// A typed view. What `T` does not know is still in `self`.
    ///
    /// # Errors
    /// When a field that `T` knows has another type, or one that it needs is missing.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, ReadError> {
        T::deserialize(&Value::Object(self.0.clone())).map_err(|source| ReadError {
            kind: self.kind().to_owned(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            source,
        })
    }

    fn metadata(&self, field: &str) -> &str {
        text(self.0.get("metadata").and_then(|metadata| metadata.get(field)))
    }
}

impl JsonSchema for RawObject {
    fn schema_name() -> Cow<'static, str> {
        "RawObject".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true,
        })
    }
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    fn object() -> RawObject {
        RawObject::new(&json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop", "fieldOfTomorrow": 1},
            "spec": {"ports": [{"port": 80, "fieldOfTomorrow": true}]},
        }))
        .unwrap()
    }

    #[test]
    fn what_no_type_knows_is_kept() {
        let object = object();
        let service: Service = object.read().unwrap();
        assert_eq!(service.spec.unwrap().ports.unwrap()[0].port, 80);
        let text = serde_json::to_string(&object).unwrap();
        assert_eq!(text.matches("fieldOfTomorrow").count(), 2);
    }

    #[test]
    fn an_object_tells_what_it_is() {
        let object = object();
        assert_eq!((object.kind(), object.group()), ("Service", ""));
        assert_eq!((object.namespace(), object.name()), ("shop", "web"));
        let ingress = RawObject::new(&json!({"apiVersion": "networking.k8s.io/v1"})).unwrap();
        assert_eq!((ingress.group(), ingress.name()), ("networking.k8s.io", ""));
    }

    #[test]
    fn an_object_that_does_not_fit_is_named() {
        let bad = RawObject::new(&json!({"kind": "Service", "metadata": {"name": "web"}, "spec": 1})).unwrap();
        let error = bad.read::<Service>().unwrap_err();
        assert_eq!(error.to_string(), "Service /web cannot be read");
        assert!(matches!(RawObject::new(&json!([1])), Err(WriteError::NotAnObject)));
    }
}
