//! Schemas of all that is served, built in and custom, and the one way to walk them: [`Shape`].
//!
//! Built-in types come from the k8s-openapi crate, their merge keys from [`super::fields`]. Knows nothing of requests.

mod builtin;

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::resource::Resource;

const REFERENCE: &str = "#/components/schemas/";
/// What `metadata` of every object is.
pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Built-in types by the name that OpenAPI gives them.
#[derive(Debug)]
pub(crate) struct Definitions {
    types: Map<String, Value>,
    pub(crate) fields: Fields,
}

impl Definitions {
    pub(crate) fn builtin() -> Self {
        let fields = Fields::parse();
        Self {
            types: builtin::types(&fields),
            fields,
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.types.get(name)
    }

    /// What is said of a field of a type; values that it may have are left out.
    pub(crate) fn described(&self, name: &str, field: &str) -> Option<&str> {
        let property = self.get(name)?.get("properties")?.get(field)?;
        let text = property.get("description")?.as_str()?;
        text.split("\n\nPossible enum values").next()
    }

    /// A type as clients see it: with the values of fields that are always there, and without marks of our own.
    pub(crate) fn published(&self, name: &str) -> Option<Value> {
        let mut schema = self.get(name)?.clone();
        builtin::publish(&mut schema, name, &self.fields);
        Some(schema)
    }
}

/// A reference to a built-in type.
pub(crate) fn reference(name: &str) -> Value {
    json!({"allOf": [{"$ref": format!("{REFERENCE}{name}")}]})
}

/// Name of the type that a node refers to.
pub(crate) fn referred(node: &Value) -> Option<&str> {
    let direct = node.get("$ref");
    direct
        .or_else(|| node.pointer("/allOf/0/$ref"))
        .and_then(Value::as_str)?
        .strip_prefix(REFERENCE)
}

/// How a list is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListKind<'a> {
    /// As a whole.
    Atomic,
    /// By value.
    Set,
    /// By the values of these fields.
    Map(Vec<&'a str>),
}

/// A place in a schema. Beyond what the schema knows there is no node, and everything goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    definitions: &'a Definitions,
    node: Option<&'a Value>,
}

impl<'a> Shape<'a> {
    /// Of a whole object.
    pub(crate) fn of(definitions: &'a Definitions, resource: &'a Resource) -> Self {
        let node = match &resource.custom {
            Some(custom) => Some(&custom.schema),
            // Bodies are brought into the form in which they are kept before they are looked at.
            None => definitions.get(resource.stored_definition()),
        };
        Self { definitions, node }
    }

    /// Of a built-in type.
    pub(crate) fn named(definitions: &'a Definitions, name: &str) -> Self {
        Self {
            definitions,
            node: definitions.get(name),
        }
    }

    /// Of a node of a schema.
    #[cfg(test)]
    pub(crate) fn at(definitions: &'a Definitions, node: &'a Value) -> Self {
        Self {
            definitions,
            node: Some(node),
        }
    }

    /// Another node in the place of this one.
    pub(crate) fn with<'b>(self, node: &'b Value) -> Shape<'b>
    where
        'a: 'b,
    {
        Shape {
            definitions: self.definitions,
            node: Some(node),
        }
    }

    fn unknown(self) -> Self {
        Self { node: None, ..self }
    }

    /// The node itself, before a reference is followed: markers of the field are here.
    pub(crate) fn outer(self) -> Option<&'a Value> {
        self.node
    }

    /// The node with its reference followed.
    pub(crate) fn inner(self) -> Option<&'a Value> {
        let node = self.node?;
        match referred(node) {
            Some(name) => self.definitions.get(name),
            None => Some(node),
        }
    }

    fn marker(self, name: &str) -> Option<&'a Value> {
        let own = self.node.and_then(|node| node.get(name));
        own.or_else(|| self.inner().and_then(|node| node.get(name)))
    }

    fn flag(self, name: &str) -> bool {
        self.marker(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn text(self, name: &str) -> Option<&'a str> {
        self.marker(name).and_then(Value::as_str)
    }

    /// `string`, `object`, …; `None` when anything goes.
    pub(crate) fn kind(self) -> Option<&'a str> {
        self.inner().and_then(|node| node.get("type")).and_then(Value::as_str)
    }

    /// Of a field; a shape without a node when the schema does not know it.
    pub(crate) fn field(self, name: &str) -> Self {
        match self.known_field(name) {
            Some(shape) => shape,
            None => self.unknown(),
        }
    }

    /// Of a field that the schema names or allows by `additionalProperties`.
    pub(crate) fn known_field(self, name: &str) -> Option<Self> {
        let inner = self.inner()?;
        let named = inner.get("properties").and_then(|properties| properties.get(name));
        let node = named.or_else(|| inner.get("additionalProperties").filter(|node| !node.is_boolean()))?;
        Some(Self {
            node: Some(node),
            ..self
        })
    }

    pub(crate) fn items(self) -> Self {
        Self {
            node: self.inner().and_then(|node| node.get("items")),
            ..self
        }
    }

    /// Fields that the schema names.
    pub(crate) fn properties(self) -> Option<&'a Map<String, Value>> {
        self.inner()?.get("properties")?.as_object()
    }

    /// No field is unknown here.
    pub(crate) fn is_open(self) -> bool {
        let Some(inner) = self.inner() else {
            return true;
        };
        self.flag("x-kubernetes-preserve-unknown-fields")
            || inner
                .get("additionalProperties")
                .is_some_and(|node| node != &Value::Bool(false))
            || inner.get("type").is_none()
    }

    pub(crate) fn is_int_or_string(self) -> bool {
        self.flag("x-kubernetes-int-or-string")
    }

    pub(crate) fn is_embedded_resource(self) -> bool {
        self.flag("x-kubernetes-embedded-resource")
    }

    /// The map is replaced as a whole.
    pub(crate) fn is_atomic_map(self) -> bool {
        self.text("x-kubernetes-map-type") == Some("atomic")
    }

    pub(crate) fn list_kind(self) -> ListKind<'a> {
        match self.text("x-kubernetes-list-type") {
            Some("set") => ListKind::Set,
            Some("map") => {
                let keys = self.marker("x-kubernetes-list-map-keys").and_then(Value::as_array);
                ListKind::Map(keys.into_iter().flatten().filter_map(Value::as_str).collect())
            }
            _ => ListKind::Atomic,
        }
    }

    /// What a strategic merge patch does with the list.
    pub(crate) fn patch_merges(self) -> bool {
        self.text("x-kubernetes-patch-strategy")
            .is_some_and(|strategy| strategy.split(',').any(|word| word == "merge"))
    }

    pub(crate) fn patch_key(self) -> Option<&'a str> {
        self.text("x-kubernetes-patch-merge-key")
    }
}

/// The schema of a custom resource as it is used and published: with what every object has.
pub(crate) fn complete(schema: &Value) -> Value {
    let mut schema = schema.clone();
    add_object_fields(&mut schema);
    add_embedded(&mut schema);
    schema
}

fn add_embedded(node: &mut Value) {
    match node {
        Value::Object(map) => {
            for child in map.values_mut() {
                add_embedded(child);
            }
            if map.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
                add_object_fields(node);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(add_embedded),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn add_object_fields(node: &mut Value) {
    let Some(map) = node.as_object_mut() else {
        return;
    };
    let properties = map.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
        properties.insert("kind".to_owned(), json!({"type": "string"}));
        properties.insert("metadata".to_owned(), reference(OBJECT_META));
    }
}
