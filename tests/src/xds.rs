//! xDS resources for tests, each as small as Envoy takes it: listeners with HTTP and TLS, routes, clusters, endpoints, secrets.
//!
//! Nothing here knows how the manager makes its own.

pub mod rows;

use std::net::SocketAddr;

use kubelb_xds::pb::envoy::config::cluster::v3 as cluster;
use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::config::endpoint::v3 as endpoint;
use kubelb_xds::pb::envoy::config::listener::v3 as listener;
use kubelb_xds::pb::envoy::config::route::v3 as route;
use kubelb_xds::pb::envoy::extensions::filters::http::router::v3::Router;
use kubelb_xds::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use kubelb_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use kubelb_xds::pb::envoy::extensions::transport_sockets::tls::cert_mappers::sni::v3::Sni;
use kubelb_xds::pb::envoy::extensions::transport_sockets::tls::cert_selectors::on_demand_secret::v3 as on_demand_secret;
use kubelb_xds::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use kubelb_xds::pb::google::protobuf::{Any, Duration};
use kubelb_xds::resource::XdsResource;
use kubelb_xds::{Audience, Owner, Reference, Resource, ResourceType};
use prost::{Message, Name};

pub use cluster::Cluster;
pub use endpoint::ClusterLoadAssignment;
pub use listener::Listener;
pub use route::RouteConfiguration;
pub use tls::Secret;

/// Resources of one tenant, for fleets, each with what it refers to.
#[derive(Clone, Debug)]
pub struct Tenant {
    owner: Owner,
    resources: Vec<Resource>,
}

impl Tenant {
    /// Without any yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            owner: Owner::tenant(name),
            resources: Vec::new(),
        }
    }

    /// Any resource, with what it needs.
    #[must_use]
    pub fn with<M: XdsResource>(mut self, message: &M, needs: &[(ResourceType, &str)]) -> Self {
        let references = needs.iter().map(|(kind, name)| Reference {
            kind: *kind,
            name: (*name).into(),
        });
        let resource = Resource::new(message, self.owner.clone(), Audience::Fleets);
        self.resources.push(resource.needing(references));
        self
    }

    /// A cluster with its endpoints.
    #[must_use]
    pub fn cluster(self, name: &str, addresses: &[SocketAddr]) -> Self {
        self.with(&cluster(name), &[(ResourceType::Endpoints, name)])
            .with(&endpoints(name, addresses), &[])
    }

    /// A cluster that brings its endpoints along.
    #[must_use]
    pub fn static_cluster(self, name: &str, addresses: &[SocketAddr]) -> Self {
        self.with(&static_cluster(name, addresses), &[])
    }

    /// A listener for HTTP.
    #[must_use]
    pub fn http(self, name: &str, address: SocketAddr, routes: &str) -> Self {
        self.with(&http_listener(name, address, routes), &[(ResourceType::Route, routes)])
    }

    /// A listener for HTTPS.
    #[must_use]
    pub fn https(self, name: &str, address: SocketAddr, routes: &str, secret: &str) -> Self {
        let needs = [(ResourceType::Route, routes), (ResourceType::Secret, secret)];
        self.with(&https_listener(name, address, routes, secret), &needs)
    }

    /// A listener for HTTPS with these chains.
    #[must_use]
    pub fn chained(self, name: &str, address: SocketAddr, chains: &[Chain]) -> Self {
        let needs: Vec<_> = chains
            .iter()
            .flat_map(|chain| {
                [
                    (ResourceType::Route, chain.routes.as_str()),
                    (ResourceType::Secret, chain.secret.as_str()),
                ]
            })
            .collect();
        self.with(&chained_listener(name, address, chains), &needs)
    }

    /// Routes, each domain to its cluster.
    #[must_use]
    pub fn routes(self, name: &str, hosts: &[(&str, &str)]) -> Self {
        let needs: Vec<_> = hosts
            .iter()
            .map(|(_, cluster)| (ResourceType::Cluster, *cluster))
            .collect();
        self.with(&routes(name, hosts), &needs)
    }

    /// A certificate.
    #[must_use]
    pub fn secret(self, name: &str, certificate: &str, key: &str) -> Self {
        self.with(&secret(name, certificate, key), &[])
    }

    /// All of them.
    #[must_use]
    pub fn resources(self) -> Vec<Resource> {
        self.resources
    }
}

/// A cluster whose endpoints come by EDS under its own name.
#[must_use]
pub fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds.into(),
        )),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            ..Default::default()
        }),
        connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    }
}

/// A cluster that has its endpoints in itself.
#[must_use]
pub fn static_cluster(name: &str, addresses: &[SocketAddr]) -> Cluster {
    Cluster {
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Static.into(),
        )),
        eds_cluster_config: None,
        load_assignment: Some(endpoints(name, addresses)),
        ..cluster(name)
    }
}

/// The same with TLS to its endpoints, whose client certificate comes by SDS.
#[must_use]
pub fn cluster_with_tls(name: &str, secret: &str) -> Cluster {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(certificate_by_sds(secret)),
        ..Default::default()
    };
    Cluster {
        transport_socket: Some(tls_socket(&context)),
        ..cluster(name)
    }
}

/// Endpoints of a cluster.
#[must_use]
pub fn endpoints(cluster: &str, addresses: &[SocketAddr]) -> ClusterLoadAssignment {
    let endpoint = |address: &SocketAddr| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(socket_address(*address)),
            ..Default::default()
        })),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: addresses.iter().map(endpoint).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A listener for HTTP whose routes come by RDS.
#[must_use]
pub fn http_listener(name: &str, address: SocketAddr, routes: &str) -> Listener {
    Listener {
        name: name.to_owned(),
        address: Some(socket_address(address)),
        filter_chains: vec![listener::FilterChain {
            filters: vec![http_filter(routes)],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The same for HTTPS, whose certificate comes by SDS.
#[must_use]
pub fn https_listener(name: &str, address: SocketAddr, routes: &str, secret: &str) -> Listener {
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(certificate_by_sds(secret)),
        ..Default::default()
    };
    let mut listener = http_listener(name, address, routes);
    for chain in &mut listener.filter_chains {
        chain.transport_socket = Some(tls_socket(&context));
    }
    listener
}

/// A listener for HTTPS that asks for the certificate of a name when a client asks for that name.
#[must_use]
pub fn on_demand_listener(name: &str, address: SocketAddr, routes: &str) -> Listener {
    let mapper = Sni {
        default_value: "no-name".to_owned(),
    };
    let selector = on_demand_secret::Config {
        config_source: Some(ads()),
        certificate_mapper: Some(extension("sni", &mapper)),
        ..Default::default()
    };
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            custom_tls_certificate_selector: Some(extension("on-demand", &selector)),
            ..Default::default()
        }),
        // A resumed session would have no certificate to be asked for: Envoy refuses both together.
        session_ticket_keys_type: Some(
            tls::downstream_tls_context::SessionTicketKeysType::DisableStatelessSessionResumption(true),
        ),
        disable_stateful_session_resumption: true,
        ..Default::default()
    };
    let mut listener = http_listener(name, address, routes);
    for chain in &mut listener.filter_chains {
        chain.transport_socket = Some(tls_socket(&context));
    }
    listener
}

/// A filter chain for HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Server names that clients ask for.
    pub hosts: Vec<String>,
    /// Name of its RouteConfiguration.
    pub routes: String,
    /// Name of its certificate.
    pub secret: String,
}

/// A listener for HTTPS with these chains.
#[must_use]
pub fn chained_listener(name: &str, address: SocketAddr, chains: &[Chain]) -> Listener {
    let filter_chain = |chain: &Chain| {
        let mut listener = https_listener(name, address, &chain.routes, &chain.secret);
        let mut filter_chain = listener.filter_chains.remove(0);
        filter_chain.name.clone_from(&chain.routes);
        filter_chain.filter_chain_match = Some(listener::FilterChainMatch {
            server_names: chain.hosts.clone(),
            ..Default::default()
        });
        filter_chain
    };
    let inspector = listener::ListenerFilter {
        name: "tls-inspector".to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(
            &TlsInspector::default(),
        ))),
        ..Default::default()
    };
    Listener {
        listener_filters: vec![inspector],
        filter_chains: chains.iter().map(filter_chain).collect(),
        ..http_listener(name, address, name)
    }
}

fn extension<M: Message + Name>(name: &str, config: &M) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(any(config)),
    }
}

fn http_filter(routes: &str) -> listener::Filter {
    let router = http::HttpFilter {
        name: "router".to_owned(),
        config_type: Some(http::http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..Default::default()
    };
    let manager = http::HttpConnectionManager {
        stat_prefix: routes.to_owned(),
        http_filters: vec![router],
        route_specifier: Some(http::http_connection_manager::RouteSpecifier::Rds(http::Rds {
            config_source: Some(ads()),
            route_config_name: routes.to_owned(),
        })),
        ..Default::default()
    };
    listener::Filter {
        name: "http".to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any(&manager))),
    }
}

/// Routes: each domain to its cluster.
#[must_use]
pub fn routes(name: &str, hosts: &[(&str, &str)]) -> RouteConfiguration {
    let host = |(domain, cluster): &(&str, &str)| route::VirtualHost {
        name: (*domain).to_owned(),
        domains: vec![(*domain).to_owned()],
        routes: vec![route_to(cluster)],
        ..Default::default()
    };
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: hosts.iter().map(host).collect(),
        ..Default::default()
    }
}

fn route_to(cluster: &str) -> route::Route {
    route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// A certificate and its key, PEM.
#[must_use]
pub fn secret(name: &str, certificate: &str, key: &str) -> Secret {
    let inline = |text: &str| core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
        ..Default::default()
    };
    Secret {
        name: name.to_owned(),
        r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: Some(inline(certificate)),
            private_key: Some(inline(key)),
            ..Default::default()
        })),
    }
}

/// A message as the `Any` that responses carry.
#[must_use]
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

fn certificate_by_sds(secret: &str) -> tls::CommonTlsContext {
    tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![tls::SdsSecretConfig {
            name: secret.to_owned(),
            sds_config: Some(ads()),
        }],
        ..Default::default()
    }
}

fn tls_socket<M: Message + Name>(context: &M) -> core::TransportSocket {
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(context))),
    }
}

fn socket_address(address: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(address.port().into())),
            ..Default::default()
        })),
    }
}
