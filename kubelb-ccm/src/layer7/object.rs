//! Objects of the Gateway API as they are followed: metadata, and the rest as it came.
//!
//! Owns which kinds and versions are followed. An object is never refused here: what does not fit is found by whoever reads its specification.

use std::borrow::Cow;

use kube::Resource;
use kube::core::{DynamicResourceScope, ObjectMeta};
use kubelb_api::gateway_api::GROUP;
use kubelb_api::raw_object::RawJson;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A kind that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Whose Gateways are ours.
    GatewayClass,
    /// Where clients arrive.
    Gateway,
    /// HTTP.
    HttpRoute,
    /// gRPC.
    GrpcRoute,
    /// What may be referred to from other namespaces.
    ReferenceGrant,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::GatewayClass,
        Self::Gateway,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::ReferenceGrant,
    ];
    /// Those that are copied into the management cluster.
    pub const COPIED: [Self; 3] = [Self::Gateway, Self::HttpRoute, Self::GrpcRoute];

    /// `kind`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::ReferenceGrant => "ReferenceGrant",
        }
    }

    /// The name in paths.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::GatewayClass => "gatewayclasses",
            Self::Gateway => "gateways",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::ReferenceGrant => "referencegrants",
        }
    }

    /// The version that is read: the oldest that still has everything, for every release of the Gateway API serves it.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::GatewayClass | Self::Gateway | Self::HttpRoute | Self::GrpcRoute => "v1",
            Self::ReferenceGrant => "v1beta1",
        }
    }

    /// Name of its definition.
    #[must_use]
    pub fn definition(self) -> String {
        format!("{}.{GROUP}", self.plural())
    }

    /// Kind and group, as labels of copies have it.
    #[must_use]
    pub fn qualified(self) -> String {
        format!("{}.{GROUP}", self.as_str())
    }
}

/// An object of one of the [`Kind`]s.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Object {
    /// Name, namespace, generation.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: RawJson,
    /// What has been told.
    #[serde(default)]
    pub status: RawJson,
}

impl Object {
    /// Its specification as a type; `None` when it does not fit.
    #[must_use]
    pub fn read<S: DeserializeOwned>(&self) -> Option<S> {
        self.spec.read().ok()
    }

    /// Its namespace; empty when it has none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

impl Resource for Object {
    type DynamicType = Kind;
    type Scope = DynamicResourceScope;

    fn kind(kind: &Kind) -> Cow<'_, str> {
        kind.as_str().into()
    }

    fn group(_: &Kind) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version(kind: &Kind) -> Cow<'_, str> {
        kind.version().into()
    }

    fn plural(kind: &Kind) -> Cow<'_, str> {
        kind.plural().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A CustomResourceDefinition, as far as it says whether a kind is served: its schema may have half a megabyte.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Definition {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: DefinitionSpec,
    #[serde(default)]
    status: DefinitionStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct DefinitionSpec {
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Version {
    #[serde(default)]
    name: String,
    #[serde(default)]
    served: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct DefinitionStatus {
    #[serde(default)]
    conditions: Vec<Established>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Established {
    #[serde(default, rename = "type")]
    type_: String,
    #[serde(default)]
    status: String,
}

impl Definition {
    /// Whether objects of that version can be listed now. Those of a definition that is being deleted can: they go with it, and it waits for
    /// them.
    pub(crate) fn serves(&self, version: &str) -> bool {
        let established = |condition: &Established| condition.type_ == "Established" && condition.status == "True";
        let is_served = |served: &Version| served.served && served.name == version;
        self.status.conditions.iter().any(established) && self.spec.versions.iter().any(is_served)
    }
}

impl Resource for Definition {
    type DynamicType = ();
    type Scope = k8s_openapi::ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "CustomResourceDefinition".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "apiextensions.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "customresourcedefinitions".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kind_is_served_when_its_version_is_and_the_definition_is_established() {
        let definition = |served: bool, established: &str| -> Definition {
            serde_json::from_value(json!({
                "metadata": {"name": "gateways.gateway.networking.k8s.io"},
                "spec": {"versions": [{"name": "v1beta1", "served": true}, {"name": "v1", "served": served}]},
                "status": {"conditions": [{"type": "Established", "status": established}]},
            }))
            .unwrap()
        };
        assert!(definition(true, "True").serves("v1"));
        assert!(!definition(false, "True").serves("v1"));
        assert!(!definition(true, "False").serves("v1"));
        let bare: Definition = serde_json::from_value(json!({"metadata": {"name": "x"}})).unwrap();
        assert!(!bare.serves("v1"));
    }
}
