//! A Kubernetes object kept as it came, so that fields which no type here knows survive the way from a tenant to the manager.
//!
//! It is kept as text: there are thousands, each is read when it has changed, and a tree of maps takes many times as much memory.

use std::borrow::Cow;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// A value as text; nothing unless it is said otherwise. Equal values are equal, in whatever order their fields came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawJson(Arc<str>);

impl Default for RawJson {
    fn default() -> Self {
        Self::from(Value::Null)
    }
}

impl From<Value> for RawJson {
    fn from(value: Value) -> Self {
        // Its maps are in the order of their keys, so that equal ones are equal texts.
        Self(value.to_string().into())
    }
}

impl RawJson {
    /// The value.
    #[must_use]
    pub fn value(&self) -> Value {
        self.read().unwrap_or_default()
    }

    /// The value as a type.
    ///
    /// # Errors
    /// When a field that `T` knows has another type, or one that it needs is missing.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        // Where in the text it does not fit is of no use to anybody who wrote another one.
        serde_json::from_str(&self.0).or_else(|_placed| T::deserialize(serde_json::from_str::<Value>(&self.0)?))
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

/// Fields of any names, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RawFields(RawJson);

impl Default for RawFields {
    fn default() -> Self {
        Self::from(Map::new())
    }
}

impl From<Map<String, Value>> for RawFields {
    fn from(fields: Map<String, Value>) -> Self {
        Self(Value::Object(fields).into())
    }
}

impl RawFields {
    /// Every field.
    #[must_use]
    pub fn fields(&self) -> Map<String, Value> {
        self.0.read().unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for RawFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from)
    }
}

/// An object of any kind, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawObject {
    fields: RawFields,
    api_version: Box<str>,
    kind: Box<str>,
    namespace: Box<str>,
    name: Box<str>,
}

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
            Value::Object(fields) => Ok(Self::from(fields)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(WriteError::NotAnObject)
            }
        }
    }

    /// `apiVersion`; empty when it is missing.
    #[must_use]
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// The group in `apiVersion`; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version().rsplit_once('/').map_or("", |(group, _)| group)
    }

    /// `kind`; empty when it is missing.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// `metadata.name`; empty when it is missing.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `metadata.namespace`; empty when it is missing.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Every field.
    #[must_use]
    pub fn fields(&self) -> Map<String, Value> {
        self.fields.fields()
    }

    /// A typed view. What `T` does not know is still in `self`.
    ///
    /// # Errors
    /// When a field that `T` knows has another type, or one that it needs is missing.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, ReadError> {
        self.fields.0.read().map_err(|source| ReadError {
            kind: self.kind().to_owned(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            source,
        })
    }
}

impl From<Map<String, Value>> for RawObject {
    fn from(fields: Map<String, Value>) -> Self {
        let metadata = |field: &str| text(fields.get("metadata").and_then(|metadata| metadata.get(field)));
        Self {
            api_version: text(fields.get("apiVersion")),
            kind: text(fields.get("kind")),
            namespace: metadata("namespace"),
            name: metadata("name"),
            fields: RawFields::from(fields),
        }
    }
}

impl Serialize for RawObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from)
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

fn text(value: Option<&Value>) -> Box<str> {
    value.and_then(Value::as_str).unwrap_or_default().into()
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
    fn the_order_of_fields_makes_no_difference() {
        let read = |text: &str| serde_json::from_str::<RawObject>(text).unwrap();
        let one = read(r#"{"kind": "Service", "spec": {"a": 1, "b": [{"d": "\u0041", "c": null}]}}"#);
        let other = read(r#"{"spec": {"b": [{"c": null, "d": "A"}], "a": 1}, "kind": "Service"}"#);
        assert_eq!(one, other);
        assert_ne!(one, read(r#"{"spec": {"b": [], "a": 1}, "kind": "Service"}"#));
        assert_eq!(serde_json::from_str::<RawFields>("{}").unwrap(), RawFields::default());
        assert!(serde_json::from_str::<RawFields>("[]").is_err());
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
        assert_eq!(
            error.source.to_string(),
            "invalid type: integer `1`, expected ServiceSpec"
        );
        assert!(matches!(RawObject::new(&json!([1])), Err(WriteError::NotAnObject)));
    }
}
