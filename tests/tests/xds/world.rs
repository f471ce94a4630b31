//! A namespace with Envoy's clients and backends in it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use kubelb_tests::envoy::{Envoy, Setup};
use kubelb_tests::netns::Namespace;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::traffic::{HttpLoad, Kind, Server};
use kubelb_tests::xds::Tenant;
use kubelb_xds::Resource;

use crate::hub::Hub;

/// For what takes milliseconds, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Where the test's listeners listen: the namespace is the test's own.
pub(crate) const LISTEN: &str = "127.0.0.1:8080";

pub(crate) struct World {
    pub(crate) namespace: Namespace,
    scratch: Scratch,
    backends: Vec<Server>,
}

impl World {
    pub(crate) fn new(role: &str) -> Self {
        Self {
            namespace: Namespace::new(role).unwrap(),
            scratch: Scratch::new().unwrap(),
            backends: Vec::new(),
        }
    }

    /// The state directory of managers.
    pub(crate) fn state(&self) -> &Path {
        self.scratch.path()
    }

    /// A server that answers with its name.
    pub(crate) fn backend(&mut self, name: &str) -> SocketAddr {
        let server = Server::start(&self.namespace, Kind::Http, name, 0).unwrap();
        let port = server.port();
        self.backends.push(server);
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// An Envoy of the fleet of `tenants`, which has all that `hub` serves when this returns.
    pub(crate) fn envoy(&self, hub: &Hub<'_>, tenants: &str) -> Envoy<'_> {
        let envoy = self.envoy_at(&hub.bootstrap(tenants, &[hub.address()]));
        hub.until_synced();
        envoy.until_serving(SOON).unwrap();
        envoy
    }

    pub(crate) fn envoy_at(&self, bootstrap: &str) -> Envoy<'_> {
        Envoy::start(&self.namespace, Setup::default(), bootstrap).unwrap()
    }

    pub(crate) fn load(&self) -> HttpLoad {
        HttpLoad::start(&self.namespace, listen(), "web", 2).unwrap()
    }
}

pub(crate) fn listen() -> SocketAddr {
    LISTEN.parse().unwrap()
}

pub(crate) fn port(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Tenant a's listener on [`LISTEN`], which routes everything to `cluster`.
pub(crate) fn web(cluster: &str, clusters: &[(&str, SocketAddr)]) -> Vec<Resource> {
    let tenant = Tenant::new("a")
        .http("web", listen(), "web")
        .routes("web", &[("*", cluster)]);
    let add = |tenant: Tenant, (name, address): &(&str, SocketAddr)| tenant.cluster(name, &[*address]);
    clusters.iter().fold(tenant, add).resources()
}
