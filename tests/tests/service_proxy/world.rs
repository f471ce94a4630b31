//! A cluster without kubelets or controllers: two nodes, a pod on each, and a client on the network. What controllers
//! would write, the test writes.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use kubelb_tests::cluster::{Cluster, Plan};
use kubelb_tests::lan::{Host, Lan};
use kubelb_tests::netns::Namespace;
use serde_json::{Value, json};

use super::talk::{self, PORT};

/// A pod with a server in it.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) namespace: Namespace,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
}

impl Pod {
    pub(crate) fn address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.v4 } else { self.v6 }
    }
}

pub(crate) struct World {
    pub(crate) pods: Vec<Pod>,
    pub(crate) cluster: Cluster,
    pub(crate) client: Host,
    _lan: Lan,
}

/// What a slice says of an endpoint: ready, serving, terminating.
pub(crate) type Conditions = (bool, bool, bool);
pub(crate) const READY: Conditions = (true, true, false);
pub(crate) const DRAINING: Conditions = (false, true, true);
pub(crate) const UNREADY: Conditions = (false, false, false);

/// A Service's addresses and ports as the API server gave them.
pub(crate) struct Given {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) node_port: u16,
    pub(crate) health_check_port: u16,
}

impl World {
    pub(crate) async fn start() -> Self {
        let lan = Lan::new().unwrap();
        let plan = Plan {
            workloads: false,
            ..Plan::new("p")
        };
        let cluster = Cluster::start(&lan, &plan).await.unwrap();
        let client = lan.host("client").unwrap();
        let mut world = Self {
            pods: Vec::new(),
            cluster,
            client,
            _lan: lan,
        };
        for number in 1..=2 {
            world.register_node(number).await;
            world.add_pod(number);
        }
        world
    }

    pub(crate) fn kube(&self) -> Client {
        self.cluster.client()
    }

    pub(crate) fn node(&self, number: usize) -> &Host {
        &self.cluster.nodes()[number - 1].host
    }

    async fn register_node(&self, number: usize) {
        let node = &self.cluster.nodes()[number - 1];
        let api: Api<Node> = Api::all(self.kube());
        let addresses = node
            .host
            .addresses()
            .map(|address| json!({"type": "InternalIP", "address": address}));
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node.name},
            "spec": {"podCIDR": node.pod_cidrs[0], "podCIDRs": node.pod_cidrs},
        });
        let status = json!({"apiVersion": "v1", "kind": "Node", "status": {"addresses": addresses}});
        let test = PatchParams::apply("test").force();
        api.patch(&node.name, &test, &Patch::Apply(object)).await.unwrap();
        // Not applied: two addresses of one type are refused there.
        api.patch_status(&node.name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    fn add_pod(&mut self, number: usize) {
        let node = &self.cluster.nodes()[number - 1];
        let name = format!("pod{number}");
        let namespace = Namespace::new(&name).unwrap();
        let [v4, v6] = node.pod_cidrs.each_ref().map(|cidr| {
            let net = cidr.split('/').next().unwrap();
            let text = net
                .strip_suffix(".0")
                .map_or_else(|| format!("{net}2"), |net| format!("{net}.2"));
            text.parse::<IpAddr>().unwrap()
        });
        let host = &node.host.namespace;
        let ip = |inside: &Namespace, words: &str| inside.ip(&words.split(' ').collect::<Vec<_>>()).unwrap();
        ip(
            host,
            &format!("link add {name} type veth peer name eth0 netns {}", namespace.name()),
        );
        ip(host, "address replace 169.254.1.1/32 dev lo");
        ip(host, &format!("address add fe80::1/64 dev {name} nodad"));
        ip(host, &format!("link set {name} up"));
        ip(host, &format!("route add {v4}/32 dev {name}"));
        ip(host, &format!("route add {v6}/128 dev {name}"));
        ip(&namespace, &format!("address add {v4}/32 dev eth0"));
        ip(&namespace, &format!("address add {v6}/128 dev eth0 nodad"));
        ip(&namespace, "link set eth0 up");
        ip(&namespace, "route add 169.254.1.1 dev eth0");
        ip(&namespace, "route add default via 169.254.1.1 dev eth0");
        ip(&namespace, "route add default via fe80::1 dev eth0");
        talk::serve(&namespace, &name);
        self.pods.push(Pod {
            name,
            node: node.name.clone(),
            namespace,
            v4,
            v6,
        });
    }

    /// Creates or changes a Service of both families, with one TCP and one UDP port 80.
    pub(crate) async fn service(&self, name: &str, spec: Value) -> Given {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [
                    {"name": "t", "port": 80, "protocol": "TCP"},
                    {"name": "u", "port": 80, "protocol": "UDP"},
                ],
            },
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        let api: Api<Service> = Api::default_namespaced(self.kube());
        let test = PatchParams::apply("test").force();
        let service = api.patch(name, &test, &Patch::Apply(object)).await.unwrap();
        let spec = service.spec.unwrap();
        let port = |number: Option<i32>| u16::try_from(number.unwrap_or_default()).unwrap();
        let ports = spec.ports.unwrap_or_default();
        if ports.iter().any(|one| one.node_port != ports[0].node_port) {
            panic!("the protocols have different node ports: {ports:?}");
        }
        let addresses = spec.cluster_ips.unwrap_or_default();
        Given {
            addresses: addresses.iter().filter_map(|text| text.parse().ok()).collect(),
            node_port: port(ports.first().and_then(|port| port.node_port)),
            health_check_port: port(spec.health_check_node_port),
        }
    }

    /// Gives a Service of type LoadBalancer its addresses.
    pub(crate) async fn ingress(&self, name: &str, addresses: &[IpAddr]) {
        let ingress: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
        let status = json!({
            "apiVersion": "v1", "kind": "Service",
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        let api: Api<Service> = Api::default_namespaced(self.kube());
        let balancer = PatchParams::apply("balancer").force();
        api.patch_status(name, &balancer, &Patch::Apply(status)).await.unwrap();
    }

    /// Makes these pods, by index, the Service's endpoints.
    pub(crate) async fn endpoints(&self, service: &str, pods: &[(usize, Conditions)]) {
        let api: Api<EndpointSlice> = Api::default_namespaced(self.kube());
        for (family, like) in [("IPv4", "0.0.0.0"), ("IPv6", "::")] {
            let like: IpAddr = like.parse().unwrap();
            let endpoints: Vec<Value> = pods
                .iter()
                .map(|(index, (ready, serving, terminating))| {
                    let pod = &self.pods[*index];
                    json!({
                        "addresses": [pod.address(like)],
                        "nodeName": pod.node,
                        "hostname": pod.name,
                        "targetRef": {"kind": "Pod", "name": pod.name, "namespace": "default"},
                        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                    })
                })
                .collect();
            let name = format!("{service}-{}", family.to_lowercase());
            let object = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
                "addressType": family,
                "endpoints": endpoints,
                "ports": [
                    {"name": "t", "port": PORT, "protocol": "TCP"},
                    {"name": "u", "port": PORT, "protocol": "UDP"},
                ],
            });
            let test = PatchParams::apply("test").force();
            api.patch(&name, &test, &Patch::Apply(object)).await.unwrap();
        }
    }

    pub(crate) async fn delete_service(&self, name: &str) {
        let api: Api<Service> = Api::default_namespaced(self.kube());
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
}

pub(crate) fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}
