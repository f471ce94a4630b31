//! Backends of a route: from a reference to a Service of the tenant, and from there to ports of the tenant's nodes.
//!
//! Must not know: other Routes. A cluster is named after its Service, so that two routes to it share it.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use kubelb_api::gateway_api::BackendReference;
use kubelb_api::labels::Label;
use kubelb_api::names::TenantName;
use kubelb_api::v1alpha1::{KubernetesSource, LoadBalancerEndpoints};

use super::{ClusterSettings, HttpCluster, Upstream};
use crate::ir::Host;

/// Not found, or not permitted.
pub(super) type Refusal = (&'static str, String);

/// A cluster, and the version of the Service that it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) version: u64,
    pub(super) cluster: Arc<HttpCluster>,
}

/// The backends that one Route brings along, and those that were asked for.
pub(super) struct Services<'a> {
    tenant: &'a TenantName,
    /// Namespace of the route in the tenant.
    namespace: &'a str,
    source: &'a KubernetesSource,
    endpoints: &'a [LoadBalancerEndpoints],
    hosts: &'a dyn Fn(usize) -> Arc<[Host]>,
    services: BTreeMap<(String, String), Service>,
    pub(super) clusters: BTreeMap<Arc<str>, Found>,
    settings: ClusterSettings,
}

impl<'a> Services<'a> {
    /// Reads the Services of a Route. `hosts` are the addresses of a group of endpoints.
    pub(super) fn new(
        tenant: &'a TenantName,
        namespace: &'a str,
        source: &'a KubernetesSource,
        endpoints: &'a [LoadBalancerEndpoints],
        hosts: &'a dyn Fn(usize) -> Arc<[Host]>,
    ) -> Self {
        let mut services = BTreeMap::new();
        for raw in &source.services {
            // One that cannot be read is one that is not there.
            let Ok(service) = raw.read::<Service>() else { continue };
            let meta = &service.metadata;
            let origin = |label: Label, own: &Option<String>| {
                let own = own.as_deref().unwrap_or_default();
                label
                    .get(meta)
                    .filter(|text| !text.is_empty())
                    .unwrap_or(own)
                    .to_owned()
            };
            let name = (
                origin(Label::ORIGIN_NAMESPACE, &meta.namespace),
                origin(Label::ORIGIN_NAME, &meta.name),
            );
            services.entry(name).or_insert(service);
        }
        Self {
            tenant,
            namespace,
            source,
            endpoints,
            hosts,
            services,
            clusters: BTreeMap::new(),
            settings: ClusterSettings::default(),
        }
    }

    /// What holds for all clusters.
    pub(super) fn with(self, settings: ClusterSettings) -> Self {
        Self { settings, ..self }
    }

    /// The cluster of a reference.
    pub(super) fn resolve(&mut self, reference: &BackendReference, is_grpc: bool) -> Result<Arc<str>, Refusal> {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Service");
        let namespace = reference
            .namespace
            .as_deref()
            .filter(|text| !text.is_empty())
            .unwrap_or(self.namespace);
        let name = reference.name.as_str();
        if (group, kind) != ("", "Service") {
            return Err(("InvalidKind", format!("{kind}.{group} {name} is no Service")));
        }
        if let Some(refusal) = refused(self.source, (group, kind, namespace, name)) {
            return Err(refusal);
        }
        let Some(service) = self.services.get(&(namespace.to_owned(), name.to_owned())) else {
            return Err(if namespace == self.namespace {
                ("BackendNotFound", format!("there is no Service {name}"))
            } else {
                let message = format!("no ReferenceGrant allows the Service {namespace}/{name}");
                ("RefNotPermitted", message)
            });
        };
        let wanted = reference.port.and_then(|port| i32::try_from(port).ok());
        let ports = service
            .spec
            .as_ref()
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default();
        let port = wanted.and_then(|wanted| ports.iter().find(|port| port.port == wanted));
        let Some(port) = port else {
            let said = reference.port.map_or_else(
                || "a port must be named of".to_owned(),
                |port| format!("there is no port {port} of"),
            );
            return Err(("BackendNotFound", format!("{said} the Service {namespace}/{name}")));
        };
        let protocol = protocol(port, is_grpc)?;
        let suffix = match protocol {
            Upstream::Http1 => "http1",
            Upstream::Http2 => "http2",
        };
        let cluster_name: Arc<str> = format!("http/{}/{namespace}/{name}/{}-{suffix}", self.tenant, port.port).into();
        if self.clusters.contains_key(&cluster_name) {
            return Ok(cluster_name);
        }
        let own = format!("{namespace}/{name}");
        let place = self
            .endpoints
            .iter()
            .position(|group| group.name.as_deref() == Some(&own));
        let place = place.unwrap_or_default();
        let Some(dialled) = dialled(port, self.endpoints.get(place)) else {
            let message = format!("the port {} of the Service {own} has no node port", port.port);
            return Err(("BackendNotFound", message));
        };
        let version = service
            .metadata
            .resource_version
            .as_deref()
            .and_then(|text| text.parse().ok());
        let found = Found {
            version: version.unwrap_or_default(),
            cluster: Arc::new(HttpCluster {
                port: dialled,
                hosts: (self.hosts)(place),
                protocol,
                settings: self.settings,
            }),
        };
        self.clusters.insert(Arc::clone(&cluster_name), found);
        Ok(cluster_name)
    }
}

/// Whether a reference may not be followed, as the tenant's side says.
pub(super) fn refused(source: &KubernetesSource, wanted: (&str, &str, &str, &str)) -> Option<Refusal> {
    let (group, kind, namespace, name) = wanted;
    let found = source.refused.iter().find(|refused| {
        (&*refused.group, &*refused.kind, &*refused.namespace, &*refused.name) == (group, kind, namespace, name)
    })?;
    let reason = match found.reason.as_str() {
        "BackendNotFound" => "BackendNotFound",
        "InvalidKind" => "InvalidKind",
        "UnsupportedProtocol" => "UnsupportedProtocol",
        "InvalidCertificateRef" => "InvalidCertificateRef",
        "InvalidCACertificateRef" => "InvalidCACertificateRef",
        _ => "RefNotPermitted",
    };
    let message = if found.message.is_empty() {
        format!("{kind} {namespace}/{name} may not be referred to from here")
    } else {
        found.message.chars().take(1_024).collect()
    };
    Some((reason, message))
}

fn protocol(port: &ServicePort, is_grpc: bool) -> Result<Upstream, Refusal> {
    if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
        return Err(("UnsupportedProtocol", format!("port {} is not TCP", port.port)));
    }
    match port.app_protocol.as_deref().unwrap_or_default() {
        "kubernetes.io/wss" | "https" | "HTTPS" => {
            let message = format!("port {} wants TLS, which nothing says how to verify", port.port);
            Err(("UnsupportedProtocol", message))
        }
        "kubernetes.io/h2c" | "grpc" | "http2" => Ok(Upstream::Http2),
        _ if is_grpc => Ok(Upstream::Http2),
        _ => Ok(Upstream::Http1),
    }
}

/// The port of the group of that name, else the node port.
fn dialled(port: &ServicePort, group: Option<&LoadBalancerEndpoints>) -> Option<NonZeroU16> {
    let ports = group.map_or(&[][..], |group| &group.ports);
    // KubeLB's groups for routes have no ports, or such as nobody reads; ours are called by the Service.
    let is_own = group.is_some_and(|group| group.name.as_deref().is_some_and(|name| name.contains('/')));
    let name = port.name.as_deref().unwrap_or_default();
    let own = ports
        .iter()
        .find(|own| is_own && own.name.as_deref().unwrap_or_default() == name);
    let number = own.map(|own| own.port).or(port.node_port)?;
    u16::try_from(number).ok().and_then(NonZeroU16::new)
}
