//! The definitions of all kinds, as an API server takes them.
//!
//! Pure: `cargo xtask crds` writes them to files, tests install them from here.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::json;

use crate::v1alpha1::{
    AddressClaim, Addresses, Config, LoadBalancer, Route, SyncSecret, Tenant, TenantState, VirtualAddressOwner,
};

/// Whether an object may come without `spec`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spec {
    /// The API server refuses the object.
    Required,
    /// The API server adds an empty one, to stored objects too.
    Optional,
}

/// The definition of each kind, in the order of their plural names.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        definition::<AddressClaim>(Spec::Required),
        definition::<Addresses>(Spec::Required),
        definition::<Config>(Spec::Optional),
        definition::<LoadBalancer>(Spec::Required),
        definition::<Route>(Spec::Required),
        // It has no spec: its fields are at the top, as a Secret's are.
        definition::<SyncSecret>(Spec::Required),
        definition::<Tenant>(Spec::Optional),
        definition::<TenantState>(Spec::Optional),
        definition::<VirtualAddressOwner>(Spec::Required),
    ]
}

fn definition<K: CustomResourceExt>(spec: Spec) -> CustomResourceDefinition {
    let mut crd = K::crd();
    crd.spec.names.list_kind = Some(format!("{}List", crd.spec.names.kind));
    for root in roots(&mut crd) {
        finish(root);
        finish_root(root, spec);
    }
    crd
}

/// The schema of each version.
pub(crate) fn roots(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    let versions = crd.spec.versions.iter_mut();
    versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
}

/// What `kubectl explain` shows of every object, and `spec` where it may be left out.
fn finish_root(root: &mut JSONSchemaProps, spec: Spec) {
    let properties = root.properties.get_or_insert_with(BTreeMap::new);
    let text = |description: &str| JSONSchemaProps {
        type_: Some("string".to_owned()),
        description: Some(description.to_owned()),
        ..JSONSchemaProps::default()
    };
    properties.insert(
        "apiVersion".to_owned(),
        text("Group and version of the object's schema."),
    );
    properties.insert("kind".to_owned(), text("Kind of the object."));
    properties.insert(
        "metadata".to_owned(),
        JSONSchemaProps {
            type_: Some("object".to_owned()),
            ..JSONSchemaProps::default()
        },
    );
    if spec == Spec::Optional {
        if let Some(spec) = properties.get_mut("spec") {
            spec.default = Some(k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSON(json!({})));
        }
        if let Some(required) = &mut root.required {
            required.retain(|field| field != "spec");
        }
        root.required = root.required.take().filter(|required| !required.is_empty());
    }
}

/// Turns what is derived from Rust into what is meant, at every level of a schema.
fn finish(schema: &mut JSONSchemaProps) {
    // An optional field is absent, never null: nothing here writes null, and KubeLB's schemas refuse it.
    schema.nullable = None;
    // The name of a Rust type.
    schema.title = None;
    if schema.x_kubernetes_int_or_string == Some(true) {
        finish_int_or_string(schema);
    }
    for child in children(schema) {
        finish(child);
    }
}

fn finish_int_or_string(schema: &mut JSONSchemaProps) {
    let is_quantity = schema
        .description
        .as_deref()
        .is_some_and(|description| description.starts_with("Quantity is"));
    if is_quantity {
        schema.description = Some("An amount such as 500m, 2 or 512Mi.".to_owned());
        schema.pattern = Some(
            "^[+-]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+))?$"
                .to_owned(),
        );
    }
    let branch = |kind: &str| JSONSchemaProps {
        type_: Some(kind.to_owned()),
        ..JSONSchemaProps::default()
    };
    schema.any_of = Some(vec![branch("integer"), branch("string")]);
}

fn children(schema: &mut JSONSchemaProps) -> Vec<&mut JSONSchemaProps> {
    let mut children: Vec<&mut JSONSchemaProps> = schema.properties.iter_mut().flat_map(BTreeMap::values_mut).collect();
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => children.push(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => children.extend(items),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        children.push(values);
    }
    children
}
