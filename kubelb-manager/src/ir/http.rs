//! Layer 7 in the IR: what one tenant's Gateways and routes come to, free of the API's types and of the wire's.
//!
//! Names of listeners, tables, clusters and certificates are those of their resources, `docs/design/011-routes.md`. Values here are valid: Envoy
//! takes whatever is made of them.

mod assembly;
mod book;
mod clients;
mod cluster;
mod filters;
mod gateway;
mod gateways;
mod hostname;
mod matches;
mod regex;
mod route;
mod secret;
mod settings;
mod text;
mod x509;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use kubelb_api::gateway_api::{ParentReference, RouteGroupKind};
use serde::{Serialize, Serializer};

pub(super) use book::Book;
pub(crate) use regex::quote;
pub use settings::{AccessLog, ClusterSettings, ListenerSettings, Outliers, ProcessSettings, Settings};

use super::Host;

/// What one tenant serves on layer 7.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Http {
    /// By name.
    pub listeners: BTreeMap<Arc<str>, Arc<HttpListener>>,
    /// By name.
    pub tables: BTreeMap<Arc<str>, Arc<RouteTable>>,
    /// By name.
    pub clusters: BTreeMap<Arc<str>, Arc<HttpCluster>>,
    /// By name.
    pub certificates: BTreeMap<Arc<str>, Arc<Certificate>>,
    /// By name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub authorities: BTreeMap<Arc<str>, Arc<Authorities>>,
    /// Versions of the Services that clusters were made of.
    #[serde(skip)]
    versions: BTreeMap<Arc<str>, u64>,
    /// What became of each Route, by its name.
    pub outcomes: BTreeMap<Arc<str>, Arc<Outcome>>,
}

/// An address and port that HTTP is accepted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpListener {
    /// The VIP.
    pub address: IpAddr,
    /// The port.
    pub port: NonZeroU16,
    /// UDP, with QUIC on it; else TCP.
    #[serde(skip_serializing_if = "super::is_false")]
    pub is_quic: bool,
    /// What becomes of connections.
    pub chains: Chains,
    /// What holds for all listeners.
    #[serde(skip_serializing_if = "ListenerSettings::is_default")]
    pub settings: ListenerSettings,
}

/// What becomes of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Chains {
    /// HTTP without TLS, with the routes of this table.
    Plain(Arc<str>),
    /// TLS, by the name that the client asks for.
    Tls(Vec<TlsChain>),
}

/// Connections for one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsChain {
    /// The name, or `*.` and a suffix; `None`: all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Arc<str>>,
    /// Certificates to show.
    pub certificates: Vec<Arc<str>>,
    /// What clients have to show; `None`: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<Clients>,
    /// Their routes.
    pub table: Arc<str>,
}

/// Clients are asked for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Clients {
    /// Who it must be of.
    pub authorities: Arc<str>,
    /// Who shows none, or another one, is let in as well.
    #[serde(skip_serializing_if = "super::is_false")]
    pub insecure_fallback: bool,
}

/// Routes of one listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteTable {
    /// Port of the listener.
    pub port: NonZeroU16,
    /// Whether it speaks TLS.
    #[serde(skip_serializing_if = "super::is_false")]
    pub is_tls: bool,
    /// Whether clients are told that the same is to be had by HTTP/3.
    #[serde(skip_serializing_if = "super::is_false")]
    pub http3: bool,
    /// By the hostname that they are for; `*` is all others. What is for none is answered with 404.
    pub hosts: BTreeMap<Arc<str>, VirtualHost>,
}

/// What becomes of requests for one hostname.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum VirtualHost {
    /// The first that matches; 404 when none does.
    Routes(Vec<Arc<HttpRoute>>),
    /// Another listener's: the client is to use another connection (RFC 9110, 421).
    Misdirected,
}

/// What becomes of requests that match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// The route's namespace, name and rule.
    pub name: Arc<str>,
    /// Which requests.
    pub matches: Match,
    /// Only so many of a million of them; all that are left over when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub millionths: Option<u32>,
    /// What becomes of them.
    pub rule: Arc<Rule>,
}

/// Which requests: all of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Match {
    /// The path.
    pub path: Path,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers; names are in small letters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, Text)>,
    /// Query parameters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<(String, Text)>,
    /// Only gRPC.
    #[serde(skip_serializing_if = "super::is_false")]
    pub grpc: bool,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Path {
    /// Exactly this.
    Exact(String),
    /// This, and what is below it; never ends with `/`, so that all is nothing.
    Prefix(String),
    /// What starts with this text.
    Start(String),
    /// What a regular expression matches as a whole.
    Regex(String),
}

impl Default for Path {
    fn default() -> Self {
        Self::Prefix(String::new())
    }
}

/// A text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Text {
    /// Exactly this.
    Exact(String),
    /// What a regular expression matches as a whole.
    Regex(String),
}

/// What becomes of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// What is done to them.
    #[serde(skip_serializing_if = "Filters::is_none")]
    pub filters: Filters,
    /// Where they go.
    pub action: Action,
    /// From the whole request to the whole answer; `None`: for as long as it takes.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "super::seconds_if_some")]
    pub timeout: Option<Duration>,
    /// When they are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// An answer without a backend.
    Respond(u16),
    /// The client is told to ask elsewhere.
    Redirect(Redirect),
    /// Backends; shares are more than zero in sum.
    Forward(Vec<Share>),
}

/// One backend's share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The cluster; `None`: there is no such backend, which is answered with 500.
    pub cluster: Option<Arc<str>>,
    /// Its share.
    pub weight: u32,
    /// What is done to these requests only: headers and host.
    #[serde(skip_serializing_if = "Filters::is_none")]
    pub filters: Filters,
}

/// What is done to requests and answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Filters {
    /// Of requests.
    #[serde(skip_serializing_if = "HeaderChanges::is_none")]
    pub request_headers: HeaderChanges,
    /// Of answers.
    #[serde(skip_serializing_if = "HeaderChanges::is_none")]
    pub response_headers: HeaderChanges,
    /// Another host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Another path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
    /// Where copies go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// What pages of other origins may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
}

impl Filters {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether only a route of Envoy's can have them, not one backend of several.
    fn need_route(&self) -> bool {
        self.path.is_some() || !self.mirrors.is_empty() || self.cors.is_some()
    }
}

/// Changes of headers. Values are in Envoy's form: what is not to be evaluated is escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderChanges {
    /// In place of what is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(String, String)>,
    /// Beside what is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(String, String)>,
    /// Taken away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

impl HeaderChanges {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Another path. The query stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PathChange {
    /// All of it.
    Full(String),
    /// The prefix that matched; never ends with `/`.
    Prefix(String),
}

/// A copy of each request, or of some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// The cluster.
    pub cluster: Arc<str>,
    /// How many of a million.
    pub millionths: u32,
}

/// Where a client is told to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// `http` or `https`; `None`: as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// `None`: as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `None`: that of the scheme where one is said, else the listener's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// `None`: as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What pages of other origins may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// Origins.
    pub origins: Vec<Origin>,
    /// Cookies may come along.
    pub credentials: bool,
    /// As the header has it.
    pub methods: String,
    /// As the header has it.
    pub headers: String,
    /// As the header has it.
    pub exposed: String,
    /// Seconds.
    pub max_age: u32,
}

/// An origin, or some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Origin {
    /// All.
    Any,
    /// This one.
    Exact(String),
    /// Those between the two texts, by at least one character that is in a hostname.
    Between(String, String),
}

/// When requests are tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Envoy's words, joined by commas.
    pub on: String,
    /// Statuses of answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u32>,
    /// How often at most.
    pub attempts: u32,
    /// Before the second try.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "super::seconds_if_some")]
    pub back_off: Option<Duration>,
    /// For each try.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "super::seconds_if_some")]
    pub per_try: Option<Duration>,
}

/// A port of a tenant's Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpCluster {
    /// Port of every endpoint.
    pub port: NonZeroU16,
    /// Endpoints, sorted, each once.
    pub hosts: Arc<[Host]>,
    /// What they speak.
    pub protocol: Upstream,
    /// What holds for all clusters.
    #[serde(skip_serializing_if = "ClusterSettings::is_default")]
    pub settings: ClusterSettings,
}

/// What backends speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Upstream {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, from the first byte (RFC 9113, prior knowledge).
    Http2,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// PEM, the own certificate first.
    pub chain: String,
    /// PEM.
    pub key: Hidden,
}

/// Authorities of clients' certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Authorities {
    /// PEM, certificates and nothing else.
    pub bundle: String,
}

/// What is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hidden")
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("hidden")
    }
}

/// What became of a Route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Nothing: it is no kind that is served, or cannot be read.
    Refused(Verdict),
    /// It is a Gateway.
    Gateway(GatewayOutcome),
    /// It is a route.
    Route(RouteOutcome),
}

/// Whether something holds, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether it does.
    pub holds: bool,
    /// One word, as conditions of Gateway API have it.
    pub reason: &'static str,
    /// A sentence, or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Verdict {
    /// It holds.
    pub(crate) const fn yes(reason: &'static str) -> Self {
        Self {
            holds: true,
            reason,
            message: String::new(),
        }
    }

    /// It does not.
    pub(crate) fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            holds: false,
            reason,
            message: message.into(),
        }
    }
}

/// What became of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatewayOutcome {
    /// Generation of the tenant's object.
    pub generation: Option<i64>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it is served at all.
    pub accepted: Verdict,
    /// Somewhere it asks clients for certificates and lets those in that have none.
    #[serde(skip_serializing_if = "super::is_false")]
    pub insecure_fallback: bool,
    /// In its order.
    pub listeners: Vec<ListenerOutcome>,
}

/// What became of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerOutcome {
    /// Its name.
    pub name: String,
    /// Whether it is served at all.
    pub accepted: Verdict,
    /// Whether it can be told from others; it holds when it cannot.
    pub conflicted: Verdict,
    /// Certificates, authorities and kinds.
    pub resolved: Verdict,
    /// Kinds of routes that it takes.
    pub kinds: Vec<RouteGroupKind>,
    /// Routes that are attached.
    pub attached: i32,
    /// Resources that serve it: listeners, tables, certificates and authorities.
    pub resources: Vec<Arc<str>>,
}

/// What became of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteOutcome {
    /// Generation of the tenant's object.
    pub generation: Option<i64>,
    /// For each parent that is a Gateway of ours, in its order.
    pub parents: Vec<ParentOutcome>,
    /// Clusters that it leads to, wherever it is attached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<Arc<str>>,
}

/// What became of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParentOutcome {
    /// The parent as the route names it.
    pub parent: Arc<ParentReference>,
    /// Whether it is attached.
    pub accepted: Verdict,
    /// Whether its backends were found.
    pub resolved: Verdict,
    /// Whether some of its rules are not served, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial: Option<Verdict>,
    /// Tables that it is in.
    pub tables: Vec<Arc<str>>,
}
