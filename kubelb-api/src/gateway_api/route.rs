//! HTTPRoute and GRPCRoute.

use serde::{Deserialize, Serialize};

use super::ObjectReference;

/// A Gateway, or one of its listeners, that a route wants to be attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentReference {
    /// Gateway API's when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Gateway when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The route's own when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the Gateway.
    pub name: String,
    /// Name of the listener; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Only listeners of this port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

/// What an HTTPRoute wants.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    /// Where it wants to be attached.
    pub parent_refs: Vec<ParentReference>,
    /// Hostnames that it is for; all of the listener when empty.
    pub hostnames: Vec<String>,
    /// What becomes of requests.
    pub rules: Vec<HttpRule>,
}

/// Requests that are treated alike.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRule {
    /// Its name in the route.
    pub name: Option<String>,
    /// Any of these; every request when empty.
    pub matches: Vec<HttpMatch>,
    /// What is done to them.
    pub filters: Vec<Filter>,
    /// Where they go.
    pub backend_refs: Vec<BackendReference>,
    /// How long they may take.
    pub timeouts: Option<Timeouts>,
    /// When they are tried again.
    pub retry: Option<Retry>,
}

/// All of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// The path; prefix `/` when left out.
    pub path: Option<PathMatch>,
    /// Headers.
    pub headers: Vec<NamedMatch>,
    /// Query parameters.
    pub query_params: Vec<NamedMatch>,
    /// The method.
    pub method: Option<String>,
}

/// A path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathMatch {
    /// PathPrefix when left out, Exact or RegularExpression.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// `/` when left out.
    pub value: Option<String>,
}

/// A header or a query parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamedMatch {
    /// Exact when left out, or RegularExpression.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Something that is done to a request or an answer. One of the fields, by the type.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// Which field counts.
    #[serde(rename = "type")]
    pub type_: String,
    /// RequestHeaderModifier.
    pub request_header_modifier: Option<HeaderModifier>,
    /// ResponseHeaderModifier.
    pub response_header_modifier: Option<HeaderModifier>,
    /// RequestMirror.
    pub request_mirror: Option<RequestMirror>,
    /// RequestRedirect.
    pub request_redirect: Option<RequestRedirect>,
    /// URLRewrite.
    pub url_rewrite: Option<UrlRewrite>,
    /// CORS.
    pub cors: Option<Cors>,
    /// ExtensionRef.
    pub extension_ref: Option<ObjectReference>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderModifier {
    /// In place of what is there.
    pub set: Vec<HeaderValue>,
    /// Beside what is there.
    pub add: Vec<HeaderValue>,
    /// Taken away.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderValue {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A copy of the request goes to another backend, whose answer nobody reads.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestMirror {
    /// The backend.
    pub backend_ref: BackendReference,
    /// Share of the requests, in percent; all when left out.
    pub percent: Option<i64>,
    /// Share of the requests; all when left out.
    pub fraction: Option<Fraction>,
}

/// A share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fraction {
    /// Above the line.
    pub numerator: i64,
    /// Below it; 100 when left out.
    pub denominator: Option<i64>,
}

/// The client is told to ask elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRedirect {
    /// http or https; the request's when left out.
    pub scheme: Option<String>,
    /// The request's when left out.
    pub hostname: Option<String>,
    /// The request's when left out.
    pub path: Option<PathModifier>,
    /// That of the scheme, else the listener's, when left out.
    pub port: Option<i64>,
    /// 302 when left out.
    pub status_code: Option<i64>,
}

/// Another path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathModifier {
    /// ReplaceFullPath or ReplacePrefixMatch.
    #[serde(rename = "type")]
    pub type_: String,
    /// For ReplaceFullPath.
    pub replace_full_path: Option<String>,
    /// For ReplacePrefixMatch.
    pub replace_prefix_match: Option<String>,
}

/// The backend is asked for something else than the client asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UrlRewrite {
    /// Another host.
    pub hostname: Option<String>,
    /// Another path.
    pub path: Option<PathModifier>,
}

/// What pages of other origins may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cors {
    /// Origins; `*` is all, and may be at the start of a host.
    pub allow_origins: Vec<String>,
    /// Cookies may come along.
    pub allow_credentials: Option<bool>,
    /// Methods; `*` is all.
    pub allow_methods: Vec<String>,
    /// Request headers; `*` is all.
    pub allow_headers: Vec<String>,
    /// Answer headers that pages may read.
    pub expose_headers: Vec<String>,
    /// For how many seconds a browser believes this.
    pub max_age: Option<i64>,
}

/// Where requests go, and which share of them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendReference {
    /// Core when left out.
    pub group: Option<String>,
    /// Service when left out.
    pub kind: Option<String>,
    /// The route's own when left out.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Port of the Service.
    pub port: Option<i64>,
    /// Share; 1 when left out.
    pub weight: Option<i64>,
    /// What is done to these requests only.
    pub filters: Vec<Filter>,
}

/// How long requests may take, as Go's durations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// From the client's point of view.
    pub request: Option<String>,
    /// Each try.
    pub backend_request: Option<String>,
}

/// When a request is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// Statuses of answers.
    pub codes: Vec<i64>,
    /// How often.
    pub attempts: Option<i64>,
    /// Shortest time in between.
    pub backoff: Option<String>,
}

/// What a GRPCRoute wants.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRouteSpec {
    /// Where it wants to be attached.
    pub parent_refs: Vec<ParentReference>,
    /// Hostnames that it is for; all of the listener when empty.
    pub hostnames: Vec<String>,
    /// What becomes of calls.
    pub rules: Vec<GrpcRule>,
}

/// Calls that are treated alike.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRule {
    /// Its name in the route.
    pub name: Option<String>,
    /// Any of these; every call when empty.
    pub matches: Vec<GrpcMatch>,
    /// What is done to them.
    pub filters: Vec<Filter>,
    /// Where they go.
    pub backend_refs: Vec<BackendReference>,
}

/// All of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcMatch {
    /// What is called.
    pub method: Option<GrpcMethodMatch>,
    /// Headers.
    pub headers: Vec<NamedMatch>,
}

/// What is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcMethodMatch {
    /// Exact when left out, or RegularExpression.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// The service; any when left out.
    pub service: Option<String>,
    /// The method; any when left out.
    pub method: Option<String>,
}
