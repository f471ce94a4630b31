//! The objects: tenants with LoadBalancers, as manifests. Pure.
//!
//! Each tenant has as many nodes as a LoadBalancer has endpoints, and a file of its own. Its first two LoadBalancers refer to the tenant's
//! Addresses, and the second one of the first tenant is for Envoy; the others list their endpoints, so that a change of one concerns it alone.

use std::net::Ipv4Addr;

/// Where the tenants' nodes are.
pub(crate) const NODES: &str = "10.64.0.0/10";
/// Addresses of one tenant's nodes are this far from the next tenant's.
const STRIDE: u32 = 64;
/// First address of the nodes.
const FIRST_NODE: u32 = u32::from_be_bytes([10, 64, 0, 0]);
/// First VIP (RFC 2544).
const FIRST_VIP: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// First NodePort of every tenant.
pub(crate) const FIRST_PORT: u16 = 30_000;
/// The LoadBalancer of the first tenant that is for Envoy.
pub(crate) const FOR_ENVOY: u32 = 1;

/// How many of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) load_balancers: u32,
    pub(crate) endpoints: u32,
    /// Of each tenant; the last one may have fewer.
    pub(crate) each: u32,
}

impl Scenario {
    pub(crate) fn new(load_balancers: u32, endpoints: u32) -> Self {
        Self {
            load_balancers,
            endpoints: endpoints.clamp(1, STRIDE - 20),
            each: load_balancers.div_ceil(100).max(5),
        }
    }

    pub(crate) fn tenants(&self) -> u32 {
        self.load_balancers.div_ceil(self.each)
    }

    /// The number of different NodePorts.
    pub(crate) fn ports(&self) -> u16 {
        u16::try_from(self.each).unwrap_or(u16::MAX)
    }

    pub(crate) fn node(tenant: u32, node: u32) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_NODE + tenant * STRIDE + node + 1)
    }

    /// The manifest of a tenant. The last of its Addresses is another one when `replaced` says which.
    pub(crate) fn manifest(&self, tenant: u32, replaced: Option<u32>) -> String {
        let mut text = format!(
            "apiVersion: kubelb.k8c.io/v1alpha1\nkind: Tenant\nmetadata: {{name: t{tenant}}}\n---\n\
             apiVersion: kubelb.k8c.io/v1alpha1\nkind: Addresses\n\
             metadata: {{name: default, namespace: tenant-t{tenant}}}\nspec:\n  addresses:\n"
        );
        self.list(&mut text, "  ", tenant, replaced);
        for number in 0..self.each.min(self.load_balancers - tenant * self.each) {
            text.push_str("---\n");
            text.push_str(&self.load_balancer(tenant, number, None));
        }
        text
    }

    /// One LoadBalancer, whose last endpoint is another one when `replaced` says which.
    pub(crate) fn load_balancer(&self, tenant: u32, number: u32, replaced: Option<u32>) -> String {
        let proxy_protocol = if (tenant, number) == (0, FOR_ENVOY) {
            ", annotations: {kubelb.k8c.io/proxy-protocol: v2}"
        } else {
            ""
        };
        let vip = Ipv4Addr::from(FIRST_VIP + tenant * self.each + number + 1);
        let port = u32::from(FIRST_PORT) + number;
        let mut text = format!(
            "apiVersion: kubelb.k8c.io/v1alpha1\nkind: LoadBalancer\n\
             metadata: {{name: lb{number}, namespace: tenant-t{tenant}{proxy_protocol}}}\n\
             spec:\n  type: LoadBalancer\n  ports:\n  - {{name: web, port: 80, protocol: TCP}}\n  endpoints:\n  \
             - ports:\n    - {{name: web, port: {port}, protocol: TCP}}\n"
        );
        if number <= FOR_ENVOY {
            text.push_str("    addressesReference: {name: default}\n");
        } else {
            text.push_str("    addresses:\n");
            self.list(&mut text, "    ", tenant, replaced);
        }
        text.push_str(&format!("status:\n  loadBalancer:\n    ingress:\n    - ip: {vip}\n"));
        text
    }

    fn list(&self, text: &mut String, indent: &str, tenant: u32, replaced: Option<u32>) {
        for node in 0..self.endpoints {
            let node = replaced.filter(|_| node + 1 == self.endpoints).unwrap_or(node);
            text.push_str(&format!("{indent}- ip: {}\n", Self::node(tenant, node)));
        }
    }

    /// What the manager calls the endpoints of a tenant's LoadBalancer.
    pub(crate) fn endpoints_name(tenant: u32, number: u32) -> String {
        format!("tenant-t{tenant}/lb{number}/80-tcp/v4")
    }

    /// Endpoints that agents forward to.
    pub(crate) fn backends(&self) -> usize {
        usize::try_from((self.load_balancers - 1) * self.endpoints).unwrap_or(0)
    }
}
