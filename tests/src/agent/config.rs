//! Configuration files of the agent, as text.

use std::net::{IpAddr, SocketAddr};

/// A configuration; [`Config::yaml`] is what the agent reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `snat.addresses`; empty: left out.
    pub snat_addresses: Vec<IpAddr>,
    /// `snat.portRange`; `None`: left out.
    pub snat_ports: Option<(u16, u16)>,
    /// `announce`; empty: left out.
    pub announce: Vec<IpAddr>,
    /// `frontends`.
    pub frontends: Vec<Frontend>,
}

/// One frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Unique name.
    pub name: String,
    /// VIP and port.
    pub address: SocketAddr,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// Backends with weight 1.
    pub backends: Vec<SocketAddr>,
    /// The value of `healthCheck` as YAML flow text; `None`: left out.
    pub health_check: Option<String>,
    /// Other keys with their values, each a line of YAML.
    pub more: Vec<String>,
}

/// A TCP check of [`crate::world::NODE_PORT`] every 200 ms that two failures or one success decide: failover is quick, and
/// a test need not wait. The port is named since a UDP frontend can't be checked on its own.
pub const QUICK_CHECK: &str =
    "{type: TCP, port: 30700, interval: 200ms, timeout: 200ms, healthyThreshold: 1, unhealthyThreshold: 2}";

impl Frontend {
    /// A frontend without health checks.
    #[must_use]
    pub fn new(name: &str, address: SocketAddr, protocol: &'static str, backends: &[SocketAddr]) -> Self {
        Self {
            name: name.to_owned(),
            address,
            protocol,
            backends: backends.to_vec(),
            health_check: None,
            more: Vec::new(),
        }
    }

    /// The same with a health check, in YAML flow text.
    #[must_use]
    pub fn checked(mut self, check: &str) -> Self {
        self.health_check = Some(check.to_owned());
        self
    }

    /// The same with another key, like `onUnhealthy: Reset`.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.more.push(line.to_owned());
        self
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("- name: {}", self.name),
            format!("  vip: \"{}\"", self.address.ip()),
            format!("  port: {}", self.address.port()),
            format!("  protocol: {}", self.protocol),
        ];
        if let Some(check) = &self.health_check {
            lines.push(format!("  healthCheck: {check}"));
        }
        lines.extend(self.more.iter().map(|line| format!("  {line}")));
        let none = if self.backends.is_empty() { " []" } else { "" };
        lines.push(format!("  backends:{none}"));
        for backend in &self.backends {
            let (address, port) = (backend.ip(), backend.port());
            lines.push(format!("  - {{address: \"{address}\", port: {port}, weight: 1}}"));
        }
        lines
    }
}

impl Config {
    /// Only frontends, the rest left to defaults.
    #[must_use]
    pub fn new(frontends: Vec<Frontend>) -> Self {
        Self {
            frontends,
            ..Self::default()
        }
    }

    /// The file's text.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut lines = Vec::new();
        if !self.snat_addresses.is_empty() || self.snat_ports.is_some() {
            lines.push("snat:".to_owned());
        }
        if !self.snat_addresses.is_empty() {
            let addresses: Vec<String> = self.snat_addresses.iter().map(|ip| format!("\"{ip}\"")).collect();
            lines.push(format!("  addresses: [{}]", addresses.join(", ")));
        }
        if let Some((first, last)) = self.snat_ports {
            lines.push(format!("  portRange: {first}-{last}"));
        }
        if !self.announce.is_empty() {
            let addresses: Vec<String> = self.announce.iter().map(|ip| format!("\"{ip}\"")).collect();
            lines.push(format!("announce: [{}]", addresses.join(", ")));
        }
        let none = if self.frontends.is_empty() { " []" } else { "" };
        lines.push(format!("frontends:{none}"));
        lines.extend(self.frontends.iter().flat_map(Frontend::lines));
        lines.push(String::new());
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, Frontend, QUICK_CHECK};

    #[test]
    fn the_text_is_the_yaml_of_the_documentation() {
        let address = "[2001:db8::10]:80".parse().expect("an address");
        let backends = ["[fd02:1::2]:8080".parse().expect("an address")];
        let mut config = Config::new(vec![
            Frontend::new("default/web", address, "TCP", &backends)
                .checked(QUICK_CHECK)
                .with("algorithm: RoundRobin"),
            Frontend::new("default/none", address, "UDP", &[]),
        ]);
        config.snat_ports = Some((10_000, 10_099));
        let expected = "\
snat:
  portRange: 10000-10099
frontends:
- name: default/web
  vip: \"2001:db8::10\"
  port: 80
  protocol: TCP
  healthCheck: {type: TCP, port: 30700, interval: 200ms, timeout: 200ms, healthyThreshold: 1, unhealthyThreshold: 2}
  algorithm: RoundRobin
  backends:
  - {address: \"fd02:1::2\", port: 8080, weight: 1}
- name: default/none
  vip: \"2001:db8::10\"
  port: 80
  protocol: UDP
  backends: []
";
        assert_eq!(config.yaml(), expected);
    }
}
