//! Parts of schemas that deriving cannot make: conditions, durations, and types of Kubernetes with what their Rust bindings leave out.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Go's duration as Kubernetes writes it, without a sign: `500ms`, `1m30s`, `0`.
pub(crate) const DURATION_PATTERN: &str = "^(0|([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$";

/// A list of conditions, merged by their types.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "description": "One aspect of the object's state.",
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {
                    "description": "When the status last changed.",
                    "type": "string",
                    "format": "date-time",
                },
                "message": {
                    "description": "What a person should know; may be empty.",
                    "type": "string",
                    "maxLength": 32768,
                },
                "observedGeneration": {
                    "description": "The object's metadata.generation that this is about; an older one means that it is out of date.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "reason": {
                    "description": "Why the status is what it is, in one CamelCase word.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "status": {
                    "description": "Whether the aspect holds.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "type": {
                    "description": "Name of the aspect, in CamelCase.",
                    "type": "string",
                    "maxLength": 316,
                },
            },
        },
    })
}

/// A duration such as `5s` or `1m30s`.
pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 32, "pattern": DURATION_PATTERN})
}

/// A duration with a value of its own when it is left out.
pub(crate) fn duration_default_60s(generator: &mut SchemaGenerator) -> Schema {
    with(duration(generator), "default", "60s".into())
}

/// A duration with a value of its own when it is left out.
pub(crate) fn duration_default_5s(generator: &mut SchemaGenerator) -> Schema {
    with(duration(generator), "default", "5s".into())
}

/// A list of networks in CIDR notation.
pub(crate) fn networks(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 1024,
        "items": {
            "type": "string",
            "maxLength": 49,
            "x-kubernetes-validations": [{
                "rule": "isCIDR(self)",
                "message": "must be a network such as 203.0.113.0/24 or 2001:db8::/32",
            }],
        },
    })
}

/// A list of networks, and of ranges by first and last address.
pub(crate) fn address_ranges(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 64,
        "items": {
            "type": "string",
            "maxLength": 91,
            "x-kubernetes-validations": [{
                // Not by splitting: the API server cannot tell how long the parts are, and counts the rule as too expensive.
                "rule": "isCIDR(self) || (self.contains('-') && isIP(self.substring(0, self.indexOf('-'))) \
                         && isIP(self.substring(self.indexOf('-') + 1)))",
                "message": "must be a network such as 203.0.113.0/24, or first and last address as 203.0.113.10-203.0.113.20",
            }],
        },
    })
}

/// A map of values in base64, as a Secret has them.
pub(crate) fn bytes_by_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"type": "string", "format": "byte"}})
}

/// Any map, kept as it is.
pub(crate) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// The core API's reference to an object, replaced as a whole by whoever applies it.
pub(crate) fn object_reference(generator: &mut SchemaGenerator) -> Schema {
    let schema = generator.subschema_for::<k8s_openapi::api::core::v1::ObjectReference>();
    with(schema, "x-kubernetes-map-type", "atomic".into())
}

/// The core API's resource requirements; claims are told apart by their names.
pub(crate) fn resources(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<k8s_openapi::api::core::v1::ResourceRequirements>();
    merge(&mut schema, "/properties/claims", &list_of("map", &["name"]));
    schema
}

/// The core API's load balancer status; its lists are replaced as a whole.
pub(crate) fn load_balancer_status(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<k8s_openapi::api::core::v1::LoadBalancerStatus>();
    merge(&mut schema, "/properties/ingress", &list_of("atomic", &[]));
    let ports = "/properties/ingress/items/properties/ports";
    merge(&mut schema, ports, &list_of("atomic", &[]));
    schema
}

/// A list of the core API's service ports, TCP unless they say otherwise.
pub(crate) fn service_ports(generator: &mut SchemaGenerator) -> Schema {
    let mut item = generator.subschema_for::<ServicePort>();
    merge(&mut item, "/properties/protocol", &json!({"default": "TCP"}));
    json_schema!({"type": "array", "items": item})
}

/// A list of whole Services, with what the core API says of their fields, and with room for fields that it does not know yet.
pub(crate) fn services(generator: &mut SchemaGenerator) -> Schema {
    let mut service = generator.subschema_for::<Service>();
    for list in ["clusterIPs", "externalIPs", "ipFamilies", "loadBalancerSourceRanges"] {
        let path = format!("/properties/spec/properties/{list}");
        merge(&mut service, &path, &list_of("atomic", &[]));
    }
    let ports = "/properties/spec/properties/ports";
    merge(&mut service, ports, &list_of("map", &["port", "protocol"]));
    let protocol = format!("{ports}/items/properties/protocol");
    merge(&mut service, &protocol, &json!({"default": "TCP"}));
    let selector = "/properties/spec/properties/selector";
    merge(&mut service, selector, &json!({"x-kubernetes-map-type": "atomic"}));
    service.ensure_object().values_mut().for_each(keep_unknown_fields);
    let object = service.ensure_object();
    object.remove("required");
    object.insert("x-kubernetes-embedded-resource".into(), true.into());
    object.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    // An API server checks the metadata of an embedded object by itself and lets no schema say anything about it.
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("metadata".into(), json!({"type": "object"}));
    }
    json_schema!({"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": service})
}

/// Lets every object below keep fields that its schema does not know. An API server drops them level by level: that the outermost
/// object keeps its own says nothing of those inside.
fn keep_unknown_fields(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            keywords.values_mut().for_each(keep_unknown_fields);
            if keywords.get("properties").is_some_and(Value::is_object) {
                keywords.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(keep_unknown_fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn list_of(kind: &str, keys: &[&str]) -> Value {
    let mut list = json!({"x-kubernetes-list-type": kind});
    if let (false, Some(object)) = (keys.is_empty(), list.as_object_mut()) {
        object.insert("x-kubernetes-list-map-keys".into(), keys.into());
    }
    list
}

fn with(mut schema: Schema, keyword: &str, value: Value) -> Schema {
    schema.insert(keyword.to_owned(), value);
    schema
}

/// Adds keywords to the schema at `path`. Whether the path still leads somewhere is seen by the tests of the definitions, which look for
/// what is added here.
fn merge(schema: &mut Schema, path: &str, keywords: &Value) {
    let target = schema.pointer_mut(path).and_then(Value::as_object_mut);
    if let (Some(target), Some(keywords)) = (target, keywords.as_object()) {
        target.extend(keywords.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}
