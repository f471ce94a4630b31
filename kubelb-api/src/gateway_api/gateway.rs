//! Gateway.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

use super::ObjectReference;

/// What a Gateway wants.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Its class.
    pub gateway_class_name: String,
    /// What it accepts on.
    pub listeners: Vec<Listener>,
    /// Addresses that it asks for.
    pub addresses: Vec<GatewayAddress>,
    /// TLS of all its listeners.
    pub tls: Option<GatewayTls>,
}

impl GatewaySpec {
    /// How clients of a listener show who they are (GEP-91); `None`: they need not. A listener's own, which releases of the API up to 1.3 have, is
    /// before that of its port, and that before the Gateway's.
    #[must_use]
    pub fn frontend_validation<'a>(&'a self, listener: &'a Listener) -> Option<&'a FrontendValidation> {
        let own = listener.tls.as_ref().and_then(|tls| tls.frontend_validation.as_ref());
        own.or_else(|| {
            let frontend = self.tls.as_ref()?.frontend.as_ref()?;
            let of_port = frontend.per_port.iter().find(|one| one.port == listener.port);
            // One of the port that asks for nothing is in place of the default as well.
            of_port.map_or(&frontend.default, |one| &one.tls).validation.as_ref()
        })
    }
}

/// TLS of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayTls {
    /// Towards clients.
    pub frontend: Option<FrontendTls>,
}

/// TLS towards clients.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendTls {
    /// At all ports that are not named.
    pub default: FrontendTlsSettings,
    /// At single ports, in place of the default.
    pub per_port: Vec<FrontendTlsPort>,
}

/// TLS towards clients of one port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendTlsPort {
    /// The port.
    pub port: i64,
    /// What holds there.
    pub tls: FrontendTlsSettings,
}

/// What holds for connections of clients.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendTlsSettings {
    /// Asks clients for certificates.
    pub validation: Option<FrontendValidation>,
}

/// How clients show who they are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendValidation {
    /// ConfigMaps with the authorities that clients' certificates are of.
    pub ca_certificate_refs: Vec<ObjectReference>,
    /// AllowValidOnly when left out, or AllowInsecureFallback.
    pub mode: Option<String>,
}

/// An address that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayAddress {
    /// IPAddress when left out.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// The address; any when empty.
    pub value: String,
}

impl GatewayAddress {
    /// Whether its type says that it is an IP address.
    #[must_use]
    pub fn is_ip(&self) -> bool {
        self.type_.as_deref().unwrap_or("IPAddress") == "IPAddress"
    }
}

/// A port with a protocol, and for which hostnames.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Its name in the Gateway.
    pub name: String,
    /// Only requests for this one, which may start with `*.`; all when left out.
    pub hostname: Option<String>,
    /// The port.
    pub port: i64,
    /// HTTP, HTTPS, TLS, TCP or UDP.
    pub protocol: String,
    /// Certificates.
    pub tls: Option<ListenerTls>,
    /// Which routes may attach.
    pub allowed_routes: Option<AllowedRoutes>,
}

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerTls {
    /// Terminate when left out, or Passthrough.
    pub mode: Option<String>,
    /// Secrets with the certificates.
    pub certificate_refs: Vec<ObjectReference>,
    /// Asks clients for certificates, in releases of the API up to 1.3.
    pub frontend_validation: Option<FrontendValidation>,
    /// What only some implementations have.
    pub options: BTreeMap<String, String>,
}

/// Which routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedRoutes {
    /// From where.
    pub namespaces: Option<RouteNamespaces>,
    /// Of what kinds; those of the protocol when empty.
    pub kinds: Vec<RouteGroupKind>,
}

/// Namespaces whose routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteNamespaces {
    /// Same when left out, or All, Selector, None.
    pub from: Option<String>,
    /// For Selector.
    pub selector: Option<LabelSelector>,
}

/// A kind of routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteGroupKind {
    /// Gateway API's when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// HTTPRoute, GRPCRoute, …
    pub kind: String,
}
