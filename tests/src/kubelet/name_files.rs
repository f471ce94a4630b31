//! `/etc/hosts` and `/etc/resolv.conf` of a Pod. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

/// `/etc/hosts`. `node` is the machine's own file, which Pods on the node's network start from.
pub(super) fn hosts(spec: &PodSpec, hostname: &str, addresses: &[IpAddr], node: &str) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n".to_owned();
    if spec.host_network == Some(true) {
        text.push_str(node);
    } else {
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        for address in addresses {
            // Writing to a String does not fail.
            writeln!(text, "{address}\t{hostname}").ok();
        }
    }
    for alias in spec.host_aliases.iter().flatten() {
        writeln!(
            text,
            "{}\t{}",
            alias.ip,
            alias.hostnames.clone().unwrap_or_default().join("\t")
        )
        .ok();
    }
    text
}

/// `/etc/resolv.conf`. `node` is the machine's own file.
pub(super) fn resolv_conf(spec: &PodSpec, namespace: &str, cluster_dns: &[IpAddr], node: &str) -> String {
    let words = |key: &str| -> Vec<String> {
        let lines = node.lines().filter_map(|line| line.trim().strip_prefix(key));
        lines
            .filter(|rest| rest.starts_with(char::is_whitespace))
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect()
    };
    let policy = match (spec.dns_policy.as_deref().unwrap_or("ClusterFirst"), spec.host_network) {
        ("ClusterFirst", Some(true)) => "Default",
        ("ClusterFirstWithHostNet", _) => "ClusterFirst",
        (other, _) => other,
    };
    let (mut servers, mut searches, mut options) = match policy {
        "None" => (Vec::new(), Vec::new(), Vec::new()),
        "ClusterFirst" if !cluster_dns.is_empty() => {
            let mut searches: Vec<String> = [
                format!("{namespace}.svc.cluster.local"),
                "svc.cluster.local".to_owned(),
                "cluster.local".to_owned(),
            ]
            .into();
            searches.extend(words("search"));
            (
                cluster_dns.iter().map(IpAddr::to_string).collect(),
                searches,
                vec!["ndots:5".to_owned()],
            )
        }
        _ => (words("nameserver"), words("search"), words("options")),
    };
    let config = spec.dns_config.clone().unwrap_or_default();
    servers.extend(config.nameservers.unwrap_or_default());
    searches.extend(config.searches.unwrap_or_default());
    for option in config.options.unwrap_or_default() {
        let name = option.name.unwrap_or_default();
        options.retain(|known| known.split(':').next() != Some(&name));
        options.push(option.value.map_or(name.clone(), |value| format!("{name}:{value}")));
    }
    let mut text = String::new();
    if !searches.is_empty() {
        writeln!(text, "search {}", searches.join(" ")).ok();
    }
    for server in servers {
        writeln!(text, "nameserver {server}").ok();
    }
    if !options.is_empty() {
        writeln!(text, "options {}", options.join(" ")).ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(mut value: Value) -> PodSpec {
        value["containers"] = json!([]);
        serde_json::from_value(value).unwrap()
    }

    const NODE: &str = "nameserver 9.9.9.9\nsearch lan\noptions edns0\n";

    #[test]
    fn cluster_names_come_first() {
        let dns = ["10.96.0.10".parse().unwrap()];
        let of = |value: Value| resolv_conf(&spec(value), "n", &dns, NODE);
        assert_eq!(
            of(json!({})),
            "search n.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
        assert_eq!(
            of(json!({"dnsPolicy": "Default"})),
            "search lan\nnameserver 9.9.9.9\noptions edns0\n"
        );
        assert_eq!(of(json!({"hostNetwork": true})), of(json!({"dnsPolicy": "Default"})));
        assert_eq!(
            of(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})),
            of(json!({}))
        );
        let own = json!({"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]});
        assert_eq!(
            of(json!({"dnsPolicy": "None", "dnsConfig": own})),
            "nameserver 1.1.1.1\noptions ndots:2\n"
        );
    }

    #[test]
    fn hosts_know_the_pod_and_its_aliases() {
        let pod = spec(json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts(&pod, "p", &["10.0.0.2".parse().unwrap()], "");
        assert!(text.ends_with("10.0.0.2\tp\n1.2.3.4\ta\tb\n"), "{text}");
    }
}
