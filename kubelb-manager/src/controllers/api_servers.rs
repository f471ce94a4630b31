//! By which addresses tenants reach the management cluster's API server, and whom they trust then. No I/O.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;

/// Namespace and name of the ConfigMap in which clusters may say how they are reached (made by kubeadm).
pub(crate) const CLUSTER_INFO: (&str, &str) = ("kube-public", "cluster-info");
/// Name of the ConfigMap with the cluster's authority that every namespace has.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
/// Namespace and name of the Service behind which the API servers are.
pub(crate) const SERVICE: (&str, &str) = ("default", "kubernetes");
const PORT_NAME: &str = "https";
/// Most addresses that a kubeconfig names.
const MAX_ADDRESSES: usize = 16;

/// How tenants reach the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiServers {
    /// URLs, the best one first; at least one.
    pub(crate) urls: Vec<String>,
    /// Whom to trust, PEM.
    pub(crate) authority: String,
}

/// Why nothing is known of the API servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unknown {
    /// No address.
    #[error(
        "no address of the API server is known: there is no ConfigMap kube-public/cluster-info with a kubeconfig, and no EndpointSlice of \
         Service default/kubernetes has an address with a port named https; name one with --api-server-url"
    )]
    Address,
    /// No authority.
    #[error(
        "the authority of the API server is not known: neither ConfigMap kube-public/cluster-info nor ConfigMap kube-root-ca.crt has it; name a \
         file with --api-server-ca"
    )]
    Authority,
}

/// What may tell something of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources<'a> {
    /// What the administrator says.
    pub(crate) urls: &'a [String],
    /// What the administrator says, PEM.
    pub(crate) authority: Option<&'a str>,
    /// [`CLUSTER_INFO`].
    pub(crate) cluster_info: Option<&'a ConfigMap>,
    /// [`ROOT_CA`] of any namespace.
    pub(crate) root_ca: Option<&'a ConfigMap>,
}

/// The first source that says something, for addresses and for the authority.
pub(crate) fn choose<S: Borrow<EndpointSlice>>(
    sources: &Sources<'_>,
    slices: impl IntoIterator<Item = S>,
) -> Result<ApiServers, Unknown> {
    let info = sources.cluster_info.and_then(cluster_info).unwrap_or_default();
    let urls = match (sources.urls, info.server) {
        ([_, ..], _) => sources.urls.to_vec(),
        ([], Some(server)) => vec![server],
        ([], None) => addresses(slices),
    };
    if urls.is_empty() {
        return Err(Unknown::Address);
    }
    let authority = sources
        .authority
        .map(str::to_owned)
        .or(info.authority)
        .or_else(|| sources.root_ca?.data.as_ref()?.get(ROOT_CA_KEY).cloned())
        .filter(|text| text.contains("-----BEGIN CERTIFICATE-----"))
        .ok_or(Unknown::Authority)?;
    Ok(ApiServers { urls, authority })
}

#[derive(Default)]
struct Info {
    server: Option<String>,
    authority: Option<String>,
}

fn cluster_info(map: &ConfigMap) -> Option<Info> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        clusters: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        cluster: Cluster,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Cluster {
        server: String,
        certificate_authority_data: Option<String>,
    }
    let file: File = serde_saphyr::from_str(map.data.as_ref()?.get("kubeconfig")?).ok()?;
    let cluster = file.clusters.into_iter().next()?.cluster;
    let decode = |data: String| String::from_utf8(STANDARD.decode(data.trim()).ok()?).ok();
    Some(Info {
        server: Some(cluster.server).filter(|server| server.starts_with("https://")),
        authority: cluster.certificate_authority_data.and_then(decode),
    })
}

/// Of all slices, in order, none twice.
fn addresses<S: Borrow<EndpointSlice>>(slices: impl IntoIterator<Item = S>) -> Vec<String> {
    let mut all = BTreeSet::new();
    for slice in slices {
        let slice = slice.borrow();
        let ports = slice.ports.iter().flatten();
        let named: BTreeMap<&str, i32> = ports
            .filter_map(|port| Some((port.name.as_deref().unwrap_or_default(), port.port?)))
            .collect();
        let Some(port) = named.get(PORT_NAME) else {
            continue;
        };
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        for address in ready.flat_map(|endpoint| &endpoint.addresses) {
            if let Ok(address) = address.parse::<IpAddr>() {
                all.insert((address, *port));
            }
        }
    }
    let url = |(address, port): (IpAddr, i32)| match address {
        IpAddr::V4(address) => format!("https://{address}:{port}"),
        IpAddr::V6(address) => format!("https://[{address}]:{port}"),
    };
    all.into_iter().map(url).take(MAX_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

    fn slice(family: &str, addresses: &[&str], ready: bool) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": family}, "addressType": family,
            "endpoints": [{"addresses": addresses, "conditions": {"ready": ready}}],
            "ports": [{"name": "https", "port": 6443}, {"name": "other", "port": 1}],
        }))
        .unwrap()
    }

    fn root_ca() -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": ROOT_CA}, "data": {"ca.crt": PEM}})).unwrap()
    }

    #[test]
    fn all_addresses_of_the_service_are_named() {
        let slices = [
            slice("IPv6", &["2001:db8::1"], true),
            slice("IPv4", &["192.0.2.2", "192.0.2.1"], true),
            slice("IPv4", &["192.0.2.9"], false),
        ];
        let root = root_ca();
        let sources = Sources {
            root_ca: Some(&root),
            ..Sources::default()
        };
        let found = choose(&sources, &slices).unwrap();
        assert_eq!(
            found.urls,
            [
                "https://192.0.2.1:6443",
                "https://192.0.2.2:6443",
                "https://[2001:db8::1]:6443"
            ]
        );
        assert_eq!(found.authority, PEM);
    }

    #[test]
    fn what_the_cluster_says_of_itself_wins_and_the_administrator_before_it() {
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: https://api.example.com:6443\n    \
             certificate-authority-data: {}\n",
            STANDARD.encode(PEM)
        );
        let info = serde_json::from_value(json!({"data": {"kubeconfig": text}})).unwrap();
        let slices = [slice("IPv4", &["192.0.2.1"], true)];
        let mut sources = Sources {
            cluster_info: Some(&info),
            ..Sources::default()
        };
        let found = choose(&sources, &slices).unwrap();
        assert_eq!(found.urls, ["https://api.example.com:6443"]);
        assert_eq!(found.authority, PEM);
        let urls = ["https://a".to_owned(), "https://b".to_owned()];
        sources.urls = &urls;
        assert_eq!(choose(&sources, &slices).unwrap().urls, urls);
    }

    #[test]
    fn what_is_missing_is_named_with_the_fix() {
        let none: [EndpointSlice; 0] = [];
        let error = choose(&Sources::default(), &none).unwrap_err();
        assert!(error.to_string().contains("--api-server-url"), "{error}");
        let error = choose(&Sources::default(), &[slice("IPv4", &["192.0.2.1"], true)]).unwrap_err();
        assert!(error.to_string().contains("--api-server-ca"), "{error}");
    }
}
