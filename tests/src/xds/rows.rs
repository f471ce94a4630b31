//! Very many resources of one sort, each row in the layout that is to be tried. Owns how they are named and laid out; pure but for the certificate.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use kubelb_xds::Resource;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{Chain, Tenant};

/// Where the listener is that is always there, which routes everything to the one backend.
pub const WEB: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8_080);
/// First port of listeners with chains.
const FIRST_PORT: u16 = 9_000;
/// Their hosts' domain.
const DOMAIN: &str = "many.example";
/// The cluster that every route leads to.
const ONE: &str = "one";

/// What there is many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Clusters, each with an endpoint.
    Clusters,
    /// Hosts in one RouteConfiguration.
    Hosts,
    /// Listeners, each with an address of its own.
    Listeners,
    /// Hosts with certificate and routes of their own: a filter chain each.
    Chains {
        /// So many chains in one listener; then comes the next listener.
        each: u16,
    },
    /// Hosts that share a certificate: one filter chain.
    OneCertificate,
}

/// The resources of tenant `a`.
#[derive(Debug)]
pub struct Site {
    backend: SocketAddr,
    pem: String,
    key: String,
    der: CertificateDer<'static>,
}

/// How one of many is asked whether it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// Plain HTTP.
    Http(SocketAddr),
    /// TLS, for this host.
    Https(SocketAddr, String),
}

impl Site {
    /// Where everything leads to `backend`.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn new(backend: SocketAddr) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec![format!("*.{DOMAIN}")]).context("no certificate")?;
        Ok(Self {
            backend,
            pem: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            der: made.cert.der().clone(),
        })
    }

    /// What every certificate of it is.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The listener at [`WEB`], and `many` of a row.
    #[must_use]
    pub fn resources(&self, row: Row, many: u16) -> Vec<Resource> {
        let hosts: Vec<String> = match row {
            Row::Hosts => (0..many).map(host).collect(),
            Row::Clusters | Row::Listeners | Row::Chains { .. } | Row::OneCertificate => Vec::new(),
        };
        let hosts = hosts.iter().map(|host| (host.as_str(), ONE)).chain([("*", ONE)]);
        let base = Tenant::new("a")
            .http("web", WEB, "web")
            .routes("web", &hosts.collect::<Vec<_>>())
            .cluster(ONE, &[self.backend]);
        let numbers = 0..many;
        let tenant = match row {
            Row::Hosts => base,
            Row::Clusters => numbers.fold(base, |tenant, number| {
                tenant.cluster(&format!("cluster-{number}"), &[self.backend])
            }),
            Row::Listeners => numbers.fold(base.routes("many", &[("*", ONE)]), |tenant, number| {
                tenant.http(&format!("listener-{number}"), own_address(number), "many")
            }),
            Row::Chains { each } => self.chains(base, each.max(1), many),
            Row::OneCertificate if many == 0 => base,
            Row::OneCertificate => {
                let hosts: Vec<String> = numbers.map(host).collect();
                let routes: Vec<(&str, &str)> = hosts.iter().map(|host| (host.as_str(), ONE)).collect();
                let tenant = base.routes("shared", &routes).secret("shared", &self.pem, &self.key);
                let chain = Chain {
                    hosts,
                    routes: "shared".to_owned(),
                    secret: "shared".to_owned(),
                };
                tenant.chained("shared", local(FIRST_PORT), &[chain])
            }
        };
        tenant.resources()
    }

    fn chains(&self, base: Tenant, each: u16, many: u16) -> Tenant {
        let numbers: Vec<u16> = (0..many).collect();
        let add_chain = |tenant: Tenant, number: &u16| {
            tenant.routes(&format!("routes-{number}"), &[("*", ONE)]).secret(
                &format!("secret-{number}"),
                &self.pem,
                &self.key,
            )
        };
        let tenant = numbers.iter().fold(base, add_chain);
        let listeners = numbers.chunks(usize::from(each)).zip(FIRST_PORT..);
        listeners.fold(tenant, |tenant, (numbers, port)| {
            let chain = |number: &u16| Chain {
                hosts: vec![host(*number)],
                routes: format!("routes-{number}"),
                secret: format!("secret-{number}"),
            };
            let chains: Vec<Chain> = numbers.iter().map(chain).collect();
            tenant.chained(&format!("chains-{port}"), local(port), &chains)
        })
    }
}

impl Row {
    /// How to ask number `number`, if it can be asked other than by an acknowledgement.
    #[must_use]
    pub fn door(self, number: u16) -> Option<Door> {
        match self {
            Self::Clusters | Self::Hosts => None,
            Self::Listeners => Some(Door::Http(own_address(number))),
            Self::Chains { each } => Some(Door::Https(local(FIRST_PORT + number / each.max(1)), host(number))),
            Self::OneCertificate => Some(Door::Https(local(FIRST_PORT), host(number))),
        }
    }
}

fn host(number: u16) -> String {
    format!("host-{number}.{DOMAIN}")
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// One of 65,536 addresses of the loopback interface.
fn own_address(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::from(([127, 1, high, low], 8_080))
}

#[cfg(test)]
mod tests {
    use kubelb_xds::{ResourceType, Snapshot};

    use super::*;

    #[test]
    fn every_row_is_whole_and_has_what_it_says() {
        let site = Site::new(local(9)).unwrap();
        for (row, listeners) in [
            (Row::Clusters, 1),
            (Row::Hosts, 1),
            (Row::Listeners, 8),
            (Row::Chains { each: 3 }, 4),
            (Row::OneCertificate, 2),
        ] {
            for (many, listeners) in [(0, 1), (7, listeners)] {
                let snapshot = Snapshot::build(site.resources(row, many), None).unwrap();
                snapshot.check_references().unwrap();
                assert_eq!(
                    snapshot.table(ResourceType::Listener).len(),
                    listeners,
                    "{row:?} {many}"
                );
            }
        }
        assert_eq!(
            Row::Chains { each: 3 }.door(4),
            Some(Door::Https(local(9_001), "host-4.many.example".to_owned()))
        );
    }
}
