//! Listeners of layer 7: one for each address and port, with a chain for each name over TLS.

use std::sync::Arc;
use std::time::Duration;

use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::config::listener::v3 as pb;
use kubelb_xds::pb::envoy::extensions::filters::http::cors::v3::Cors;
use kubelb_xds::pb::envoy::extensions::filters::http::router::v3::Router;
use kubelb_xds::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use kubelb_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use kubelb_xds::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use kubelb_xds::pb::google::protobuf::BoolValue;
use kubelb_xds::{Audience, Owner, Reference, Resource, ResourceType};
use prost::{Message, Name};

use super::{ads, needs};
use crate::ir::Protocol;
use crate::ir::http::{Chains, HttpListener, TlsChain};
use crate::xds::wire::{self, any, duration, number};

/// Connections and streams on which nothing happens for so long are closed.
const IDLE: Duration = Duration::from_secs(3_600);
/// What a client may send before somebody reads it.
const BUFFER: u32 = 1 << 20;
const STREAMS: u32 = 128;
const STREAM_WINDOW: u32 = 1 << 16;
const CONNECTION_WINDOW: u32 = 1 << 20;

pub(super) fn resource(name: &str, listener: &HttpListener, owner: &Owner) -> Resource {
    let mut needed: Vec<Reference> = Vec::new();
    let mut message = pb::Listener {
        name: name.to_owned(),
        address: Some(wire::address(
            listener.address.to_string(),
            listener.port.get(),
            Protocol::Tcp,
        )),
        // The VIP may be on the node only later, or for a while not at all.
        freebind: Some(BoolValue { value: true }),
        per_connection_buffer_limit_bytes: Some(number(BUFFER)),
        ..pb::Listener::default()
    };
    match &listener.chains {
        Chains::Plain(table) => {
            needed.push(needs(ResourceType::Route, table));
            message.filter_chains.push(pb::FilterChain {
                filters: vec![manager(listener, table)],
                ..pb::FilterChain::default()
            });
        }
        Chains::Tls(chains) => {
            message.listener_filters.push(pb::ListenerFilter {
                name: "envoy.filters.listener.tls_inspector".to_owned(),
                config_type: Some(pb::listener_filter::ConfigType::TypedConfig(any(
                    &TlsInspector::default(),
                ))),
                ..pb::ListenerFilter::default()
            });
            for chain in chains {
                needed.push(needs(ResourceType::Route, &chain.table));
                needed.extend(chain.certificates.iter().map(|name| needs(ResourceType::Secret, name)));
                message.filter_chains.push(tls_chain(listener, chain));
            }
        }
    }
    Resource::new(&message, owner.clone(), Audience::Fleets).needing(needed)
}

fn tls_chain(listener: &HttpListener, chain: &TlsChain) -> pb::FilterChain {
    let certificate = |name: &Arc<str>| tls::SdsSecretConfig {
        name: name.to_string(),
        sds_config: Some(ads()),
    };
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(tls::TlsParameters {
                tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12.into(),
                ..tls::TlsParameters::default()
            }),
            tls_certificate_sds_secret_configs: chain.certificates.iter().map(certificate).collect(),
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            ..tls::CommonTlsContext::default()
        }),
        ..tls::DownstreamTlsContext::default()
    };
    pb::FilterChain {
        name: chain.table.to_string(),
        filter_chain_match: chain.server_name.as_ref().map(|name| pb::FilterChainMatch {
            server_names: vec![name.to_string()],
            ..pb::FilterChainMatch::default()
        }),
        transport_socket: Some(core::TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&context))),
        }),
        filters: vec![manager(listener, &chain.table)],
        ..pb::FilterChain::default()
    }
}

fn manager(listener: &HttpListener, table: &str) -> pb::Filter {
    let limits = &listener.limits;
    let manager = http::HttpConnectionManager {
        stat_prefix: "http".to_owned(),
        route_specifier: Some(http::http_connection_manager::RouteSpecifier::Rds(http::Rds {
            config_source: Some(ads()),
            route_config_name: table.to_owned(),
        })),
        http_filters: vec![
            http_filter("envoy.filters.http.cors", &Cors {}),
            http_filter("envoy.filters.http.router", &Router::default()),
        ],
        // The connection's address is the client's: nobody is in front.
        use_remote_address: Some(BoolValue { value: true }),
        normalize_path: Some(BoolValue { value: true }),
        server_header_transformation: http::http_connection_manager::ServerHeaderTransformation::PassThrough.into(),
        stream_idle_timeout: Some(duration(IDLE)),
        max_request_headers_kb: limits.request_kib.map(number),
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: Some(duration(IDLE)),
            max_headers_count: limits.request_count.map(number),
            headers_with_underscores_action: core::http_protocol_options::HeadersWithUnderscoresAction::Allow.into(),
            ..core::HttpProtocolOptions::default()
        }),
        http2_protocol_options: Some(core::Http2ProtocolOptions {
            max_concurrent_streams: Some(number(STREAMS)),
            initial_stream_window_size: Some(number(STREAM_WINDOW)),
            initial_connection_window_size: Some(number(CONNECTION_WINDOW)),
            ..core::Http2ProtocolOptions::default()
        }),
        upgrade_configs: vec![http::http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..http::http_connection_manager::UpgradeConfig::default()
        }],
        ..http::HttpConnectionManager::default()
    };
    pb::Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(pb::filter::ConfigType::TypedConfig(any(&manager))),
    }
}

fn http_filter<M: Message + Name>(name: &str, config: &M) -> http::HttpFilter {
    http::HttpFilter {
        name: name.to_owned(),
        config_type: Some(http::http_filter::ConfigType::TypedConfig(any(config))),
        ..http::HttpFilter::default()
    }
}
