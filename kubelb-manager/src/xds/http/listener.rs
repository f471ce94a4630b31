//! Listeners of layer 7: one for each address and port, with a chain for each name over TLS; the same again for QUIC.

mod log;

use std::sync::Arc;

use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::config::listener::v3 as pb;
use kubelb_xds::pb::envoy::extensions::filters::http::cors::v3::Cors;
use kubelb_xds::pb::envoy::extensions::filters::http::router::v3::Router;
use kubelb_xds::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use kubelb_xds::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use kubelb_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use kubelb_xds::pb::envoy::extensions::transport_sockets::quic::v3::QuicDownstreamTransport;
use kubelb_xds::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use kubelb_xds::pb::google::protobuf::{BoolValue, UInt64Value};
use kubelb_xds::{Audience, Owner, Reference, Resource, ResourceType};
use prost::{Message, Name};

use super::{ads, needs};
use crate::ir::Protocol;
use crate::ir::http::{Chains, Clients, HttpListener, TlsChain};
use crate::xds::wire::{self, any, duration, number};

const STREAM_WINDOW: u32 = 1 << 16;
const CONNECTION_WINDOW: u32 = 1 << 20;

pub(super) fn resource(name: &str, listener: &HttpListener, owner: &Owner) -> Resource {
    let mut needed: Vec<Reference> = Vec::new();
    let is_quic = listener.is_quic;
    let protocol = if is_quic { Protocol::Udp } else { Protocol::Tcp };
    let buffer = listener.settings.buffer_kib.saturating_mul(1_024);
    let mut message = pb::Listener {
        name: name.to_owned(),
        address: Some(wire::address(
            listener.address.to_string(),
            listener.port.get(),
            protocol,
        )),
        // The VIP may be on the node only later, or for a while not at all.
        freebind: Some(BoolValue { value: true }),
        per_connection_buffer_limit_bytes: (!is_quic).then(|| number(buffer)),
        udp_listener_config: is_quic.then(|| pb::UdpListenerConfig {
            quic_options: Some(pb::QuicProtocolOptions::default()),
            downstream_socket_config: Some(core::UdpSocketConfig {
                prefer_gro: Some(BoolValue { value: true }),
                ..core::UdpSocketConfig::default()
            }),
            ..pb::UdpListenerConfig::default()
        }),
        ..pb::Listener::default()
    };
    match &listener.chains {
        Chains::Plain(table) => {
            needed.push(needs(ResourceType::Route, table));
            message.filter_chains.push(pb::FilterChain {
                filters: filters(name, listener, table, None),
                ..pb::FilterChain::default()
            });
        }
        Chains::Tls(chains) => {
            // QUIC knows the name by itself.
            if !is_quic {
                message.listener_filters.push(pb::ListenerFilter {
                    name: "envoy.filters.listener.tls_inspector".to_owned(),
                    config_type: Some(pb::listener_filter::ConfigType::TypedConfig(any(
                        &TlsInspector::default(),
                    ))),
                    ..pb::ListenerFilter::default()
                });
            }
            for chain in chains {
                needed.push(needs(ResourceType::Route, &chain.table));
                let authorities = chain.clients.iter().map(|clients| &clients.authorities);
                let secrets = chain.certificates.iter().chain(authorities);
                needed.extend(secrets.map(|name| needs(ResourceType::Secret, name)));
                message.filter_chains.push(tls_chain(name, listener, chain));
            }
        }
    }
    Resource::new(&message, owner.clone(), Audience::Fleets).needing(needed)
}

fn tls_chain(name: &str, listener: &HttpListener, chain: &TlsChain) -> pb::FilterChain {
    let certificate = |name: &Arc<str>| tls::SdsSecretConfig {
        name: name.to_string(),
        sds_config: Some(ads()),
    };
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            // QUIC has TLS 1.3 and h3, and nothing else.
            tls_params: (!listener.is_quic).then(|| tls::TlsParameters {
                tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv12.into(),
                ..tls::TlsParameters::default()
            }),
            tls_certificate_sds_secret_configs: chain.certificates.iter().map(certificate).collect(),
            alpn_protocols: if listener.is_quic {
                Vec::new()
            } else {
                vec!["h2".to_owned(), "http/1.1".to_owned()]
            },
            validation_context_type: chain.clients.as_ref().map(validation),
            ..tls::CommonTlsContext::default()
        }),
        require_client_certificate: is_demanded(chain.clients.as_ref()).then_some(BoolValue { value: true }),
        ..tls::DownstreamTlsContext::default()
    };
    pb::FilterChain {
        name: chain.table.to_string(),
        filter_chain_match: chain.server_name.as_ref().map(|name| pb::FilterChainMatch {
            server_names: vec![name.to_string()],
            ..pb::FilterChainMatch::default()
        }),
        transport_socket: Some(socket(listener, context)),
        filters: filters(name, listener, &chain.table, chain.clients.as_ref()),
        ..pb::FilterChain::default()
    }
}

/// Whether nobody gets in without a certificate of the authorities.
fn is_demanded(clients: Option<&Clients>) -> bool {
    clients.is_some_and(|clients| !clients.insecure_fallback)
}

/// How certificates of clients are verified. Whether that has to succeed is the listener's; the authorities can be replaced below it, without
/// a connection being closed.
fn validation(clients: &Clients) -> tls::common_tls_context::ValidationContextType {
    use tls::certificate_validation_context::TrustChainVerification;
    let trust = if clients.insecure_fallback {
        TrustChainVerification::AcceptUntrusted
    } else {
        TrustChainVerification::VerifyTrustChain
    };
    tls::common_tls_context::ValidationContextType::CombinedValidationContext(
        tls::common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: Some(tls::CertificateValidationContext {
                trust_chain_verification: trust.into(),
                ..tls::CertificateValidationContext::default()
            }),
            validation_context_sds_secret_config: Some(tls::SdsSecretConfig {
                name: clients.authorities.to_string(),
                sds_config: Some(ads()),
            }),
            ..tls::common_tls_context::CombinedCertificateValidationContext::default()
        },
    )
}

fn socket(listener: &HttpListener, context: tls::DownstreamTlsContext) -> core::TransportSocket {
    let (name, config) = if listener.is_quic {
        let quic = QuicDownstreamTransport {
            downstream_tls_context: Some(context),
            // What comes before the handshake has ended can be sent again by anybody who saw it.
            enable_early_data: Some(BoolValue { value: false }),
            ..QuicDownstreamTransport::default()
        };
        ("envoy.transport_sockets.quic", any(&quic))
    } else {
        ("envoy.transport_sockets.tls", any(&context))
    };
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

fn filters(name: &str, listener: &HttpListener, table: &str, clients: Option<&Clients>) -> Vec<pb::Filter> {
    let most = listener.settings.connections.filter(|_| !listener.is_quic);
    let limit = most.map(|most| {
        let limit = ConnectionLimit {
            stat_prefix: "http".to_owned(),
            max_connections: Some(UInt64Value { value: most.into() }),
            ..ConnectionLimit::default()
        };
        pb::Filter {
            name: "envoy.filters.network.connection_limit".to_owned(),
            config_type: Some(pb::filter::ConfigType::TypedConfig(any(&limit))),
        }
    });
    limit
        .into_iter()
        .chain([manager(name, listener, table, clients)])
        .collect()
}

fn manager(name: &str, listener: &HttpListener, table: &str, clients: Option<&Clients>) -> pb::Filter {
    use http::http_connection_manager::{CodecType, ForwardClientCertDetails, SetCurrentClientCertDetails};
    let settings = &listener.settings;
    let is_demanded = is_demanded(clients);
    let http2 = core::Http2ProtocolOptions {
        max_concurrent_streams: Some(number(settings.streams)),
        initial_stream_window_size: Some(number(STREAM_WINDOW)),
        initial_connection_window_size: Some(number(CONNECTION_WINDOW)),
        ..core::Http2ProtocolOptions::default()
    };
    let http3 = core::Http3ProtocolOptions {
        quic_protocol_options: Some(core::QuicProtocolOptions {
            max_concurrent_streams: Some(number(settings.streams)),
            initial_stream_window_size: Some(number(STREAM_WINDOW)),
            initial_connection_window_size: Some(number(CONNECTION_WINDOW)),
            ..core::QuicProtocolOptions::default()
        }),
        ..core::Http3ProtocolOptions::default()
    };
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
        // Of a client that had to show who it is, backends are told; of no other, and never what a client says of itself.
        forward_client_cert_details: if is_demanded {
            ForwardClientCertDetails::SanitizeSet.into()
        } else {
            ForwardClientCertDetails::Sanitize.into()
        },
        set_current_client_cert_details: is_demanded.then(|| SetCurrentClientCertDetails {
            subject: Some(BoolValue { value: true }),
            dns: true,
            uri: true,
            ..SetCurrentClientCertDetails::default()
        }),
        normalize_path: Some(BoolValue { value: true }),
        server_header_transformation: http::http_connection_manager::ServerHeaderTransformation::PassThrough.into(),
        codec_type: if listener.is_quic {
            CodecType::Http3.into()
        } else {
            CodecType::Auto.into()
        },
        access_log: log::of(name, settings.log).into_iter().collect(),
        stream_idle_timeout: Some(duration(settings.stream_idle)),
        request_headers_timeout: Some(duration(settings.headers)),
        max_request_headers_kb: settings.header_kib.map(number),
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: Some(duration(settings.idle)),
            max_headers_count: settings.header_count.map(number),
            headers_with_underscores_action: core::http_protocol_options::HeadersWithUnderscoresAction::Allow.into(),
            ..core::HttpProtocolOptions::default()
        }),
        http2_protocol_options: (!listener.is_quic).then_some(http2),
        http3_protocol_options: listener.is_quic.then_some(http3),
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
