//! Objects of the Gateway API as kubelb reads them: what it serves, and no more.
//!
//! Views of a [`RawObject`](crate::raw_object::RawObject): fields that are not here survive in it, and words are text, so that a value which only a newer version of the API
//! has costs what it is in and not the object. Must not know: what the fields are used for.

mod gateway;
mod route;

use kube::core::ObjectMeta;
use serde::{Deserialize, Serialize};

pub use gateway::{
    AllowedRoutes, FrontendTls, FrontendTlsPort, FrontendTlsSettings, FrontendValidation, GatewayAddress, GatewaySpec,
    GatewayTls, Listener, ListenerTls, RouteGroupKind, RouteNamespaces,
};
pub use route::{
    BackendReference, Cors, Filter, Fraction, GrpcMatch, GrpcMethodMatch, GrpcRouteSpec, GrpcRule, HeaderModifier,
    HeaderValue, HttpMatch, HttpRouteSpec, HttpRule, NamedMatch, ParentReference, PathMatch, PathModifier,
    RequestMirror, RequestRedirect, Retry, Timeouts, UrlRewrite,
};

/// API group.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// Who says so in statuses, and in GatewayClasses that are kubelb's.
pub const CONTROLLER_NAME: &str = "kubelb.k8c.io/gateway-controller";

/// An object by its metadata and specification.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Viewed<S> {
    /// Name, namespace, generation.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: S,
}

/// A reference to an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// Its group; the default depends on the field.
    pub group: Option<String>,
    /// Its kind; the default depends on the field.
    pub kind: Option<String>,
    /// Its namespace; that of who refers to it when left out.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}
