//! Who forwards a listener's traffic: the one place where that is decided.
//!
//! Must not know: objects, and what is connected at the moment. The kernel does all that it can, Envoy what it cannot, and the management
//! cluster's own Services what is not delivered to the VIP at all.

use serde::Serialize;

use super::Protocol;

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum DataPlane {
    /// The node agents' programs.
    #[serde(rename = "eBPF")]
    Ebpf,
    /// Envoy.
    Envoy,
    /// The management cluster's own Services.
    KubeProxy,
}

/// What a listener needs, as far as it decides who can serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// What clients speak.
    pub protocol: Protocol,
    /// Backends want to be told the client in a PROXY protocol header.
    pub proxy_protocol: bool,
    /// At least one backend is known by its name only.
    pub has_names: bool,
    /// Connections are told apart by the name in the TLS handshake.
    pub tls_passthrough: bool,
    /// Whoever gave the address delivers to it, and not to a node's own address (`ipMode: Proxy`).
    pub delivered_to_vip: bool,
}

/// Who forwards, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// Who forwards.
    pub mode: DataPlane,
    /// Why, in a sentence.
    pub reason: &'static str,
}

impl Choice {
    /// What needs nothing special gets.
    pub const DEFAULT: Self = Self {
        mode: DataPlane::Ebpf,
        reason: "forwarded in the kernel of the management nodes",
    };

    /// What a Service of the management cluster forwards, which kubelb has no address for.
    pub const DELEGATED: Self = Self {
        mode: DataPlane::KubeProxy,
        reason: "Config.spec.addressPools is empty, so a Service of the management cluster takes the traffic",
    };
}

/// Decides who forwards.
#[must_use]
pub const fn choose(needs: Needs) -> Choice {
    let (mode, reason) = if !needs.delivered_to_vip {
        (
            DataPlane::KubeProxy,
            "the address is a proxy's that delivers to the nodes' own addresses, so the management cluster's Service takes the traffic",
        )
    } else if needs.proxy_protocol && matches!(needs.protocol, Protocol::Tcp) {
        (
            DataPlane::Envoy,
            "a PROXY protocol header is put before each connection, which the kernel path cannot do",
        )
    } else if needs.tls_passthrough {
        (
            DataPlane::Envoy,
            "connections are routed by the name in the TLS handshake, which the kernel path does not read",
        )
    } else if needs.has_names {
        (
            DataPlane::Envoy,
            "a backend is given by its name, which the kernel path cannot follow",
        )
    } else {
        return Choice::DEFAULT;
    };
    Choice { mode, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_serves_all_that_it_can() {
        let plain = Needs {
            protocol: Protocol::Tcp,
            proxy_protocol: false,
            has_names: false,
            tls_passthrough: false,
            delivered_to_vip: true,
        };
        let cases = [
            (plain, DataPlane::Ebpf, "kernel"),
            (
                Needs {
                    proxy_protocol: true,
                    ..plain
                },
                DataPlane::Envoy,
                "PROXY protocol",
            ),
            (
                // There is no such header for UDP.
                Needs {
                    proxy_protocol: true,
                    protocol: Protocol::Udp,
                    ..plain
                },
                DataPlane::Ebpf,
                "kernel",
            ),
            (
                Needs {
                    has_names: true,
                    ..plain
                },
                DataPlane::Envoy,
                "name",
            ),
            (
                Needs {
                    tls_passthrough: true,
                    ..plain
                },
                DataPlane::Envoy,
                "TLS",
            ),
            (
                Needs {
                    delivered_to_vip: false,
                    proxy_protocol: true,
                    ..plain
                },
                DataPlane::KubeProxy,
                "Service",
            ),
        ];
        for (needs, mode, word) in cases {
            let choice = choose(needs);
            assert_eq!(choice.mode, mode, "{needs:?}");
            assert!(choice.reason.contains(word), "{}", choice.reason);
        }
    }
}
