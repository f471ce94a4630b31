//! Envoy's bootstrap: one delta ADS stream over TLS, an admin interface that is no port, and limits.
//!
//! As data in protobuf's JSON form. Nothing of the load balancing itself is in it: all that comes by the stream.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use serde_json::{Value, json};

use super::{EnvoyLimits, EnvoyPlaces};
use crate::identity::authority::Issued;

/// Name of the cluster that the configuration comes from.
pub const CLUSTER: &str = "kubelb-xds";
const CLIENT_SECRET: &str = "kubelb-xds-client";
const TRUST_SECRET: &str = "kubelb-xds-trust";
const TOKEN_SECRET: &str = "kubelb-xds-token";
/// Names of their files.
const CLIENT_FILE: &str = "client-secret.json";
const TRUST_FILE: &str = "trust-secret.json";
const TOKEN_FILE: &str = "token-secret.json";
/// Where its admin interface is, unless it is told.
pub const ADMIN_SOCKET: &str = "/run/kubelb-envoy-admin.sock";
/// Name of the listener that says whether Envoy is ready.
const READY: &str = "kubelb-ready";
/// What it is asked for.
const READY_PATH: &str = "/ready";

/// Where a manager listens; shown as `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// DNS name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// The text is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no https://HOST:PORT")]
pub struct EndpointError(pub String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let rest = text.strip_prefix("https://")?;
            let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':')?;
            let host = match host.strip_prefix('[') {
                Some(inner) => inner
                    .strip_suffix(']')
                    .filter(|inner| inner.parse::<IpAddr>().is_ok())?,
                None if host.contains([':', '/', '@', '?', '#']) => return None,
                None => host,
            };
            let port = port.parse().ok().filter(|port| *port != 0)?;
            (!host.is_empty()).then(|| Self {
                host: host.to_owned(),
                port,
            })
        };
        parse().ok_or_else(|| EndpointError(text.to_owned()))
    }
}

/// Where Envoy has its certificate from.
#[derive(Clone, Copy, Debug)]
pub enum Credentials<'a> {
    /// In the bootstrap: it ends with the certificate.
    Inline {
        /// PEM of what the server is to be issued by.
        authority: &'a str,
        /// Envoy's own.
        issued: &'a Issued,
    },
    /// In the files of [`client_secret`] and [`trust_secret`] in this directory, which Envoy watches.
    Files(&'a Path),
    /// A bearer token instead of a certificate.
    Token {
        /// Directory with the files of [`token_secret`] and [`trust_secret`].
        directory: &'a Path,
        /// The token itself. Envoy watches its directory, and reads it again when something is moved there, as the kubelet does.
        token_file: &'a Path,
    },
}

/// The whole bootstrap.
#[must_use]
pub fn bootstrap(node: &str, endpoints: &[Endpoint], credentials: &Credentials<'_>, limits: EnvoyLimits) -> Value {
    json!({
        "node": { "id": node, "cluster": node },
        "admin": { "address": { "pipe": { "path": ADMIN_SOCKET, "mode": 0o600 } } },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": {
                    "cluster_name": CLUSTER,
                    // Else the pause after an outage is up to 30 s; managers count on less before they say that nobody is there.
                    "retry_policy": { "retry_back_off": { "base_interval": "0.25s", "max_interval": "5s" } },
                } }],
            },
            "cds_config": { "ads": {}, "resource_api_version": "V3" },
            "lds_config": { "ads": {}, "resource_api_version": "V3" },
        },
        "static_resources": { "clusters": [cluster(endpoints, credentials)] },
        // Most clusters and listeners of many tenants are idle: they have statistics when they have traffic.
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
        "stats_config": { "stats_matcher": { "exclusion_list": { "patterns": [
            // Per route and host: too many with many tenants.
            { "safe_regex": { "regex": "^vhost\\..*" } },
        ] } } },
        "layered_runtime": { "layers": [{ "name": "static", "static_layer": {
            // A tenant's regular expression may not cost everyone's memory.
            "re2.max_program_size.error_level": 1000,
        } }] },
        "overload_manager": overload_manager(limits),
    })
}

/// The bootstrap of an Envoy that can be asked there.
#[must_use]
pub fn placed(mut bootstrap: Value, places: &EnvoyPlaces) -> Value {
    if let Some(path) = bootstrap.pointer_mut("/admin/address/pipe/path") {
        *path = json!(places.admin_socket);
    }
    if let Some(resources) = bootstrap
        .pointer_mut("/static_resources")
        .and_then(Value::as_object_mut)
        && let Some(address) = places.ready_address
    {
        resources.insert("listeners".to_owned(), json!([ready(address)]));
    }
    bootstrap
}

/// A listener that answers when Envoy has its first configuration, and says so.
fn ready(address: SocketAddr) -> Value {
    json!({
        "name": READY,
        "address": { "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } },
        // Also when clients hold all connections that there may be.
        "bypass_overload_manager": true,
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": READY,
                "route_config": { "virtual_hosts": [{ "name": READY, "domains": ["*"] }] },
                "http_filters": [
                    { "name": "envoy.filters.http.health_check", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck",
                        "pass_through_mode": false,
                        "headers": [{ "name": ":path", "string_match": { "exact": READY_PATH } }],
                    } },
                    { "name": "envoy.filters.http.router", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    } },
                ],
            },
        }] }],
    })
}

fn cluster(endpoints: &[Endpoint], credentials: &Credentials<'_>) -> Value {
    let addresses_only = endpoints.iter().all(|endpoint| endpoint.host.parse::<IpAddr>().is_ok());
    let lb_endpoints: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| {
            json!({ "endpoint": { "address": { "socket_address": {
                "address": endpoint.host, "port_value": endpoint.port,
            } } } })
        })
        .collect();
    let mut tls = match credentials {
        Credentials::Inline { authority, issued } => json!({
            "tls_certificates": [certificate(issued)],
            "validation_context": validation(authority, endpoints),
        }),
        Credentials::Files(directory) => json!({
            "tls_certificate_sds_secret_configs": [watched(CLIENT_SECRET, directory, CLIENT_FILE, directory)],
            "validation_context_sds_secret_config": watched(TRUST_SECRET, directory, TRUST_FILE, directory),
        }),
        Credentials::Token { directory, .. } => json!({
            "validation_context_sds_secret_config": watched(TRUST_SECRET, directory, TRUST_FILE, directory),
        }),
    };
    if let Some(fields) = tls.as_object_mut() {
        let params = json!({ "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" });
        fields.insert("tls_params".to_owned(), params);
    }
    let mut http = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": { "http2_protocol_options": {
            // A manager's node that is dead says nothing, and a change waits until another one is found.
            "connection_keepalive": { "interval": "1s", "timeout": "1s" },
        } },
    });
    if let Credentials::Token { directory, token_file } = credentials
        && let Some(fields) = http.as_object_mut()
    {
        fields.insert("http_filters".to_owned(), token_filters(directory, token_file));
    }
    json!({
        "name": CLUSTER,
        "type": if addresses_only { "STATIC" } else { "STRICT_DNS" },
        // With the handshake: of a node that is dead, or a process that is stopped.
        "connect_timeout": "1s",
        "load_assignment": { "cluster_name": CLUSTER, "endpoints": [{ "lb_endpoints": lb_endpoints }] },
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http },
        "upstream_connection_options": { "tcp_keepalive": { "keepalive_time": 30 } },
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": tls,
        } },
    })
}

fn certificate(issued: &Issued) -> Value {
    json!({
        "certificate_chain": { "inline_string": issued.certificate },
        "private_key": { "inline_string": issued.key },
    })
}

/// The authority, and the names of the managers: nobody else whom it has issued something may pose as one.
fn validation(authority: &str, endpoints: &[Endpoint]) -> Value {
    json!({ "trusted_ca": { "inline_string": authority }, "match_typed_subject_alt_names": names_of(endpoints) })
}

fn names_of(endpoints: &[Endpoint]) -> Vec<Value> {
    let names = endpoints.iter().map(|endpoint| {
        let kind = if endpoint.host.parse::<IpAddr>().is_ok() {
            "IP_ADDRESS"
        } else {
            "DNS"
        };
        json!({ "san_type": kind, "matcher": { "exact": endpoint.host } })
    });
    names.collect()
}

/// An SDS secret in `file` of `directory`, read again when something is moved in the directory `watched`.
fn watched(name: &str, directory: &Path, file: &str, watched: &Path) -> Value {
    json!({ "name": name, "sds_config": {
        "path_config_source": { "path": directory.join(file), "watched_directory": { "path": watched } },
        "resource_api_version": "V3",
    } })
}

/// Puts the token into every request of the cluster.
fn token_filters(directory: &Path, token_file: &Path) -> Value {
    let around = token_file.parent().unwrap_or(directory);
    json!([
        { "name": "envoy.filters.http.credential_injector", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
            "overwrite": true,
            "credential": { "name": "envoy.http.injected_credentials.generic", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
                "header_value_prefix": "Bearer ",
                "credential": watched(TOKEN_SECRET, directory, TOKEN_FILE, around),
            } },
        } },
        { "name": "envoy.filters.http.upstream_codec", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
        } },
    ])
}

/// Name and content of the file with Envoy's certificate. Certificate and key are one secret, so that they are replaced in one step; a file
/// holds one secret, as Envoy wants it.
#[must_use]
pub fn client_secret(issued: &Issued) -> (&'static str, Value) {
    let content = secret(CLIENT_SECRET, "tls_certificate", certificate(issued));
    (CLIENT_FILE, content)
}

/// Name and content of the file that says whom Envoy trusts.
#[must_use]
pub fn trust_secret(authority: &str, endpoints: &[Endpoint]) -> (&'static str, Value) {
    let content = secret(TRUST_SECRET, "validation_context", validation(authority, endpoints));
    (TRUST_FILE, content)
}

/// As [`trust_secret`], where the certificates are in a file that Envoy watches: in its directory something is moved when it changes, as the
/// kubelet does.
#[must_use]
pub fn trust_in_file(authority: &Path, endpoints: &[Endpoint]) -> (&'static str, Value) {
    let around = authority.parent().unwrap_or(authority);
    let content = json!({
        "trusted_ca": { "filename": authority },
        "watched_directory": { "path": around },
        "match_typed_subject_alt_names": names_of(endpoints),
    });
    (TRUST_FILE, secret(TRUST_SECRET, "validation_context", content))
}

/// Name and content of the file that says where Envoy's token is.
#[must_use]
pub fn token_secret(token_file: &Path) -> (&'static str, Value) {
    let content = secret(
        TOKEN_SECRET,
        "generic_secret",
        json!({ "secret": { "filename": token_file } }),
    );
    (TOKEN_FILE, content)
}

fn secret(name: &str, kind: &str, content: Value) -> Value {
    json!({ "resources": [{
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": name,
        kind: content,
    }] })
}

fn overload_manager(limits: EnvoyLimits) -> Value {
    const HEAP: &str = "envoy.resource_monitors.fixed_heap";
    let action = |name: &str, threshold: f64| json!({ "name": name, "triggers": [{ "name": HEAP, "threshold": { "value": threshold } }] });
    json!({
        "refresh_interval": "0.25s",
        "resource_monitors": [
            { "name": HEAP, "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                "max_heap_size_bytes": limits.max_heap_bytes.to_string(),
            } },
            { "name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": limits.max_connections.to_string(),
            } },
        ],
        "actions": [
            action("envoy.overload_actions.shrink_heap", 0.9),
            action("envoy.overload_actions.stop_accepting_requests", 0.95),
            action("envoy.overload_actions.stop_accepting_connections", 0.98),
        ],
    })
}
