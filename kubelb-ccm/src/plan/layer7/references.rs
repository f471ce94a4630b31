//! What an object refers to, and which of that it may.

use std::collections::{BTreeMap, BTreeSet};

use kubelb_api::gateway_api::{
    BackendReference, Filter, GROUP, GatewaySpec, GrpcRouteSpec, HttpRouteSpec, ObjectReference, ParentReference,
};
use serde::Deserialize;

use super::ours::gateway_of;
use super::{Name, View};
use crate::layer7::object::{Kind, Object};

/// What TLS needs of the core API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    /// What it is.
    pub kind: MaterialKind,
    /// Which.
    pub name: Name,
}

/// What TLS needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MaterialKind {
    /// A certificate with its key.
    Secret,
    /// Authorities of clients' certificates.
    ConfigMap,
}

impl MaterialKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Secret, Self::ConfigMap];

    /// `kind`, also in the label of copies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

/// What an object refers to, by itself: whether it is there, and may be, is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Gateways that a route names as parents.
    pub gateways: BTreeSet<Name>,
    /// Services that a route sends requests to, with the ports.
    pub services: BTreeMap<Name, BTreeSet<i32>>,
    /// What a Gateway has certificates and authorities from.
    pub materials: BTreeSet<Material>,
    /// Class of a Gateway.
    pub class: Option<String>,
}

impl References {
    /// Namespaces of others that something is referred to in.
    pub fn foreign<'a>(&'a self, own: &'a str) -> impl Iterator<Item = &'a str> {
        let services = self.services.keys();
        let all = services.chain(self.materials.iter().map(|material| &material.name));
        all.map(|(namespace, _)| namespace.as_str())
            .filter(move |namespace| *namespace != own)
    }
}

/// Reads what an object refers to. One that does not fit its type refers to nothing.
#[must_use]
pub fn read(kind: Kind, object: &Object) -> References {
    let namespace = object.namespace();
    let mut found = References::default();
    match kind {
        Kind::Gateway => {
            if let Some(spec) = object.read::<GatewaySpec>() {
                found.materials = materials(&spec, namespace).collect();
                found.class = Some(spec.gateway_class_name);
            }
        }
        Kind::HttpRoute => {
            if let Some(spec) = object.read::<HttpRouteSpec>() {
                let rules = spec.rules.iter().map(|rule| (&*rule.backend_refs, &*rule.filters));
                found.take_route(&spec.parent_refs, rules, namespace);
            }
        }
        Kind::GrpcRoute => {
            if let Some(spec) = object.read::<GrpcRouteSpec>() {
                let rules = spec.rules.iter().map(|rule| (&*rule.backend_refs, &*rule.filters));
                found.take_route(&spec.parent_refs, rules, namespace);
            }
        }
        Kind::GatewayClass | Kind::ReferenceGrant => {}
    }
    found
}

impl References {
    fn take_route<'a>(
        &mut self,
        parents: &[ParentReference],
        rules: impl Iterator<Item = (&'a [BackendReference], &'a [Filter])>,
        namespace: &str,
    ) {
        let ours = parents.iter().filter_map(|parent| gateway_of(parent, namespace));
        self.gateways.extend(ours);
        for (backends, filters) in rules {
            self.take_rule(backends, filters, namespace);
        }
    }

    fn take_rule(&mut self, backends: &[BackendReference], filters: &[Filter], namespace: &str) {
        let of_backends = backends.iter().flat_map(|backend| &backend.filters);
        let mirrors = filters
            .iter()
            .chain(of_backends)
            .filter_map(|filter| filter.request_mirror.as_ref());
        let mirrored = mirrors.map(|mirror| &mirror.backend_ref);
        for reference in backends.iter().chain(mirrored) {
            let group = reference.group.as_deref().unwrap_or_default();
            let kind = reference.kind.as_deref().unwrap_or("Service");
            if (group, kind) != ("", "Service") {
                continue;
            }
            let ports = self
                .services
                .entry(name_of(reference.namespace.as_deref(), namespace, &reference.name));
            let ports = ports.or_default();
            ports.extend(reference.port.and_then(|port| i32::try_from(port).ok()));
        }
    }
}

/// Certificates, and the authorities of clients' certificates, of the listeners that have a use for them.
fn materials<'a>(spec: &'a GatewaySpec, namespace: &'a str) -> impl Iterator<Item = Material> + 'a {
    spec.listeners.iter().flat_map(move |listener| {
        let is_https = listener.protocol == "HTTPS";
        let certificates = listener.tls.iter().flat_map(|tls| &tls.certificate_refs);
        let validation = spec.frontend_validation(listener).filter(|_| is_https);
        let authorities = validation
            .into_iter()
            .flat_map(|validation| &validation.ca_certificate_refs);
        certificates
            .filter_map(move |reference| material(MaterialKind::Secret, reference, namespace))
            .chain(authorities.filter_map(move |reference| material(MaterialKind::ConfigMap, reference, namespace)))
    })
}

fn material(kind: MaterialKind, reference: &ObjectReference, namespace: &str) -> Option<Material> {
    let is_core = reference.group.as_deref().unwrap_or_default().is_empty();
    // Only references to certificates may leave out what they are to.
    let default = (kind == MaterialKind::Secret).then_some(kind.as_str());
    let is_meant = is_core && reference.kind.as_deref().or(default) == Some(kind.as_str());
    is_meant.then(|| Material {
        kind,
        name: name_of(reference.namespace.as_deref(), namespace, &reference.name),
    })
}

fn name_of(given: Option<&str>, own: &str, name: &str) -> Name {
    let namespace = given.filter(|given| !given.is_empty()).unwrap_or(own);
    (namespace.to_owned(), name.to_owned())
}

#[derive(Deserialize)]
struct GrantSpec {
    #[serde(default)]
    from: Vec<GrantFrom>,
    #[serde(default)]
    to: Vec<GrantTo>,
}

#[derive(Deserialize)]
struct GrantFrom {
    #[serde(default)]
    group: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize)]
struct GrantTo {
    #[serde(default)]
    group: String,
    #[serde(default)]
    kind: String,
    name: Option<String>,
}

/// Whether an object of `kind` in namespace `from` may refer to something of the core API. Within a namespace everything is permitted, and
/// from outside what a ReferenceGrant there permits: any of its `from` with any of its `to`, where one without a name is all of the kind.
pub(super) fn may_refer(kind: Kind, from: &str, to_kind: &str, to: &Name, view: &dyn View) -> bool {
    let (namespace, name) = to;
    if namespace == from {
        return true;
    }
    view.grants(namespace).iter().any(|grant| {
        let Some(spec) = grant.read::<GrantSpec>() else {
            return false;
        };
        let comes_from = |item: &GrantFrom| item.group == GROUP && item.kind == kind.as_str() && item.namespace == from;
        let goes_to = |item: &GrantTo| {
            let any = item.name.as_deref().filter(|named| !named.is_empty());
            item.group.is_empty() && item.kind == to_kind && any.is_none_or(|named| named == name)
        };
        grant.metadata.deletion_timestamp.is_none() && spec.from.iter().any(comes_from) && spec.to.iter().any(goes_to)
    })
}

/// Services that a route may send requests to, with their ports.
pub fn permitted_services<'a>(
    kind: Kind,
    object: &'a Object,
    references: &'a References,
    view: &'a dyn View,
) -> impl Iterator<Item = (&'a Name, &'a BTreeSet<i32>)> {
    let services = references.services.iter();
    services.filter(move |(name, _)| may_refer(kind, object.namespace(), "Service", name, view))
}

/// What a Gateway may have certificates and authorities from.
pub fn permitted_materials<'a>(
    object: &'a Object,
    references: &'a References,
    view: &'a dyn View,
) -> impl Iterator<Item = &'a Material> {
    let materials = references.materials.iter();
    materials.filter(move |to| may_refer(Kind::Gateway, object.namespace(), to.kind.as_str(), &to.name, view))
}
