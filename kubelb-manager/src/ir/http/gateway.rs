//! One Gateway by itself: its listeners, and which routes they take.
//!
//! Must not know: routes and certificates, which come together with it in the assembly.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kubelb_api::gateway_api as api;
use kubelb_api::v1alpha1::KubernetesSource;

use super::clients::{self, ClientsDraft};
use super::{Verdict, cluster, hostname};

/// Most listeners of one Gateway, as the schema has it.
const MAX_LISTENERS: usize = 64;
/// Characters of a value that are said in a condition.
const MAX_SHOWN: usize = 253;

/// A Gateway.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GatewayDraft {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) generation: Option<i64>,
    pub(super) accepted: Verdict,
    /// Somewhere it asks clients for certificates and lets those in that have none.
    pub(super) insecure_fallback: bool,
    pub(super) listeners: Vec<ListenerDraft>,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http,
    Https,
}

/// A listener.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ListenerDraft {
    pub(super) name: String,
    pub(super) port: NonZeroU16,
    /// `*`: all.
    pub(super) hostname: Arc<str>,
    /// `None`: nothing that is served.
    pub(super) speaks: Option<Speaks>,
    pub(super) accepted: Verdict,
    pub(super) conflicted: Verdict,
    pub(super) resolved: Verdict,
    pub(super) kinds: Vec<api::RouteGroupKind>,
    from: From,
    /// Namespaces and names of Secrets.
    pub(super) certificates: Vec<(String, String)>,
    /// What clients have to show; `None`: nothing.
    pub(super) clients: Option<ClientsDraft>,
}

/// Where routes may be.
#[derive(Clone, Debug, PartialEq)]
enum From {
    All,
    Same,
    Selector(LabelSelector),
    None,
}

impl ListenerDraft {
    /// Whether it takes routes of a kind and namespace.
    pub(super) fn allows(&self, gateway: &str, kind: &str, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let of_kind = self.kinds.iter().any(|allowed| allowed.kind == kind);
        let of_namespace = match &self.from {
            From::All => true,
            From::Same => gateway == namespace,
            From::Selector(selector) => selects(selector, namespace, labels),
            From::None => false,
        };
        of_kind && of_namespace
    }
}

/// Reads a Gateway.
pub(super) fn read(object: &api::Viewed<api::GatewaySpec>, source: &KubernetesSource) -> GatewayDraft {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let spec = &object.spec;
    let listeners = spec.listeners.iter().take(MAX_LISTENERS);
    let mut listeners: Vec<ListenerDraft> = listeners
        .map(|listener| listener_draft(&namespace, listener, spec.frontend_validation(listener), source))
        .collect();
    tell_apart(&mut listeners);
    let mut addresses = spec.addresses.iter().enumerate();
    let strange = addresses.find(|(_, address)| !address.is_ip());
    GatewayDraft {
        namespace,
        name: object.metadata.name.clone().unwrap_or_default(),
        generation: object.metadata.generation,
        accepted: match strange {
            Some((index, address)) => {
                let kind: String = address
                    .type_
                    .iter()
                    .flat_map(|kind| kind.chars())
                    .take(MAX_SHOWN)
                    .collect();
                let value: String = address.value.chars().take(MAX_SHOWN).collect();
                let message = format!(
                    "spec.addresses[{index}]: {value:?} is of type {kind:?}, which is not supported; ask for one of type IPAddress, or for none"
                );
                Verdict::no("UnsupportedAddress", message)
            }
            None => Verdict::yes("Accepted"),
        },
        insecure_fallback: listeners
            .iter()
            .any(|one| one.clients.as_ref().is_some_and(|clients| clients.insecure_fallback)),
        listeners,
    }
}

/// Those of one port that are not told apart by protocol or hostname are served by none.
fn tell_apart(listeners: &mut [ListenerDraft]) {
    let known: Vec<(String, NonZeroU16, Option<Speaks>, Arc<str>)> = listeners
        .iter()
        .map(|one| (one.name.clone(), one.port, one.speaks, Arc::clone(&one.hostname)))
        .collect();
    for (place, listener) in listeners.iter_mut().enumerate() {
        let mut others = known
            .iter()
            .enumerate()
            .filter(|(other, (_, port, speaks, _))| *other != place && *port == listener.port && speaks.is_some())
            .map(|(_, other)| other);
        let clash =
            others.find(|(_, _, speaks, hostname)| *speaks != listener.speaks || *hostname == listener.hostname);
        if let (Some((name, _, speaks, _)), Some(_)) = (clash, listener.speaks) {
            let (reason, what) = if *speaks == listener.speaks {
                ("HostnameConflict", "hostname")
            } else {
                ("ProtocolConflict", "port, with another protocol")
            };
            listener.conflicted = Verdict {
                holds: true,
                reason,
                message: format!("the listener {name} has the same {what}"),
            };
            listener.accepted = Verdict::no(reason, format!("the listener {name} has the same {what}"));
        }
    }
}

fn listener_draft(
    namespace: &str,
    wanted: &api::Listener,
    validation: Option<&api::FrontendValidation>,
    source: &KubernetesSource,
) -> ListenerDraft {
    let mut draft = ListenerDraft {
        name: wanted.name.clone(),
        port: NonZeroU16::MIN,
        hostname: hostname::ANY.into(),
        speaks: None,
        accepted: Verdict::yes("Accepted"),
        conflicted: Verdict {
            holds: false,
            reason: "NoConflicts",
            message: String::new(),
        },
        resolved: Verdict::yes("ResolvedRefs"),
        kinds: Vec::new(),
        from: From::Same,
        certificates: Vec::new(),
        clients: None,
    };
    if !kubelb_api::names::is_subdomain(&wanted.name) {
        draft.accepted = Verdict::no("UnsupportedValue", "name: must be a DNS name");
        return draft;
    }
    let speaks = match wanted.protocol.as_str() {
        "HTTP" => Speaks::Http,
        "HTTPS" => Speaks::Https,
        "TLS" => {
            let passes = wanted.tls.as_ref().and_then(|tls| tls.mode.as_deref()) == Some("Passthrough");
            let mode = if passes { "Passthrough" } else { "Terminate" };
            let message = format!(
                "protocol TLS with tls.mode {mode} needs a TLSRoute, and these are not served; HTTPS ends TLS for HTTPRoutes and GRPCRoutes"
            );
            draft.accepted = Verdict::no("UnsupportedProtocol", message);
            return draft;
        }
        other => {
            draft.accepted = Verdict::no("UnsupportedProtocol", format!("protocol {other:?} is not served"));
            return draft;
        }
    };
    let Some(port) = u16::try_from(wanted.port).ok().and_then(NonZeroU16::new) else {
        draft.accepted = Verdict::no("PortUnavailable", format!("port: {} is none", wanted.port));
        return draft;
    };
    if let Some(text) = wanted.hostname.as_deref().filter(|text| !text.is_empty()) {
        let Some(found) = hostname::read(text) else {
            draft.accepted = Verdict::no("UnsupportedValue", format!("hostname: {text:?} is none"));
            return draft;
        };
        draft.hostname = found;
    }
    draft.port = port;
    draft.speaks = Some(speaks);
    kinds(wanted.allowed_routes.as_ref(), &mut draft);
    draft.from = from(wanted.allowed_routes.as_ref(), &mut draft.accepted);
    if speaks == Speaks::Https {
        tls(namespace, wanted.tls.as_ref(), source, &mut draft);
        match validation
            .map(|wanted| clients::read(namespace, wanted, source))
            .transpose()
        {
            Ok(clients) => draft.clients = clients,
            Err(why) => draft.accepted = why,
        }
    }
    draft
}

fn kinds(wanted: Option<&api::AllowedRoutes>, draft: &mut ListenerDraft) {
    let group = |kind: &str| api::RouteGroupKind {
        group: Some(api::GROUP.to_owned()),
        kind: kind.to_owned(),
    };
    let known = ["HTTPRoute", "GRPCRoute"];
    let wanted = wanted.map(|allowed| allowed.kinds.as_slice()).unwrap_or_default();
    if wanted.is_empty() {
        draft.kinds = known.map(group).to_vec();
        return;
    }
    for one in wanted {
        let is_ours = one.group.as_deref().unwrap_or(api::GROUP) == api::GROUP;
        if is_ours && known.contains(&one.kind.as_str()) {
            let kind = group(&one.kind);
            if !draft.kinds.contains(&kind) {
                draft.kinds.push(kind);
            }
        } else {
            draft.resolved = Verdict::no("InvalidRouteKinds", format!("{} cannot be attached", one.kind));
        }
    }
}

fn from(wanted: Option<&api::AllowedRoutes>, accepted: &mut Verdict) -> From {
    let Some(namespaces) = wanted.and_then(|allowed| allowed.namespaces.as_ref()) else {
        return From::Same;
    };
    match (namespaces.from.as_deref().unwrap_or("Same"), &namespaces.selector) {
        ("All", _) => From::All,
        ("Same", _) => From::Same,
        ("None", _) => From::None,
        ("Selector", Some(selector)) => From::Selector(selector.clone()),
        (other, _) => {
            let message = format!("allowedRoutes.namespaces.from: {other:?} is not known, or lacks its selector");
            *accepted = Verdict::no("UnsupportedValue", message);
            From::None
        }
    }
}

/// What is not understood of it leaves the listener without service: it may have been there to keep somebody out.
fn tls(namespace: &str, wanted: Option<&api::ListenerTls>, source: &KubernetesSource, draft: &mut ListenerDraft) {
    let unsupported = |message: &str| Verdict::no("UnsupportedValue", message);
    let Some(tls) = wanted else {
        draft.resolved = Verdict::no("InvalidCertificateRef", "tls: there is no certificate");
        return;
    };
    if tls.mode.as_deref().unwrap_or("Terminate") != "Terminate" {
        draft.accepted = unsupported("tls.mode: HTTPS is terminated; use the protocol TLS for Passthrough");
        return;
    }
    if tls.certificate_refs.is_empty() {
        draft.resolved = Verdict::no("InvalidCertificateRef", "tls.certificateRefs: there is none");
    }
    for (index, reference) in tls.certificate_refs.iter().enumerate().take(16) {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        let of = reference
            .namespace
            .as_deref()
            .filter(|text| !text.is_empty())
            .unwrap_or(namespace);
        let at = format!("tls.certificateRefs[{index}]");
        if (group, kind) != ("", "Secret") {
            draft.resolved = Verdict::no("InvalidCertificateRef", format!("{at}: {kind}.{group} is no Secret"));
        } else if let Some((reason, message)) = cluster::refused(source, (group, kind, of, &reference.name)) {
            draft.resolved = Verdict::no(reason, format!("{at}: {message}"));
        } else {
            draft.certificates.push((of.to_owned(), reference.name.clone()));
        }
    }
}

/// As Kubernetes selects; every namespace has its name as a label.
fn selects(selector: &LabelSelector, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
    let value = |key: &str| {
        let own = (key == "kubernetes.io/metadata.name").then_some(namespace);
        labels.get(key).map(String::as_str).or(own)
    };
    let mut wanted = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    wanted.all(|(key, wanted)| value(key) == Some(wanted))
        && expressions.into_iter().all(|one| {
            let values = one.values.as_deref().unwrap_or_default();
            let found = value(&one.key);
            let is_in = found.is_some_and(|found| values.iter().any(|value| value == found));
            match one.operator.as_str() {
                "In" => is_in,
                "NotIn" => !is_in,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn draft(listeners: Value) -> GatewayDraft {
        let object = json!({"metadata": {"namespace": "infra", "name": "gw"}, "spec": {"listeners": listeners}});
        read(&from_value(object).unwrap(), &KubernetesSource::default())
    }

    fn reasons(listeners: Value) -> Vec<(&'static str, &'static str, &'static str)> {
        let draft = draft(listeners);
        let reason = |one: &ListenerDraft| (one.accepted.reason, one.conflicted.reason, one.resolved.reason);
        draft.listeners.iter().map(reason).collect()
    }

    #[test]
    fn what_cannot_be_told_apart_is_all_in_conflict() {
        let listener = |name: &str, protocol: &str, hostname: &str| json!({"name": name, "port": 80, "protocol": protocol, "hostname": hostname});
        let same = json!([
            listener("a", "HTTP", "x.example"),
            listener("b", "HTTP", "x.example"),
            listener("c", "HTTP", "y.example")
        ]);
        let found: Vec<&str> = reasons(same).iter().map(|(_, conflicted, _)| *conflicted).collect();
        assert_eq!(found, ["HostnameConflict", "HostnameConflict", "NoConflicts"]);
        let mixed = json!([listener("a", "HTTP", "x.example"), listener("b", "HTTPS", "y.example")]);
        let found: Vec<&str> = reasons(mixed).iter().map(|(_, conflicted, _)| *conflicted).collect();
        assert_eq!(found, ["ProtocolConflict", "ProtocolConflict"]);
    }

    #[test]
    fn what_is_not_understood_is_not_served() {
        let found = reasons(json!([
            {"name": "a", "port": 80, "protocol": "GOPHER"},
            {"name": "t", "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
            {"name": "b", "port": 0, "protocol": "HTTP"},
            {"name": "c", "port": 80, "protocol": "HTTP", "hostname": "a.*.b"},
            {"name": "d", "port": 81, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Later"}}},
            {"name": "e", "port": 443, "protocol": "HTTPS", "tls": {"mode": "Passthrough"}},
            {"name": "f", "port": 444, "protocol": "HTTPS", "tls": {"frontendValidation": {"mode": "Later"}, "certificateRefs": [{"name": "s"}]}},
        ]));
        let accepted: Vec<&str> = found.iter().map(|(accepted, _, _)| *accepted).collect();
        let unsupported = "UnsupportedValue";
        assert_eq!(
            accepted,
            [
                "UnsupportedProtocol",
                "UnsupportedProtocol",
                "PortUnavailable",
                unsupported,
                unsupported,
                unsupported,
                unsupported
            ]
        );
    }

    #[test]
    fn kinds_and_namespaces_are_allowed_as_they_are_said() {
        let one = |allowed: Value| {
            let draft = draft(json!([{"name": "a", "port": 80, "protocol": "HTTP", "allowedRoutes": allowed}]));
            draft.listeners.into_iter().next().unwrap()
        };
        let none = BTreeMap::new();
        assert!(one(json!({})).allows("infra", "HTTPRoute", "infra", &none));
        assert!(!one(json!({})).allows("infra", "HTTPRoute", "other", &none));
        assert!(one(json!({"namespaces": {"from": "All"}})).allows("infra", "GRPCRoute", "other", &none));
        let selector = json!({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"},
            "matchExpressions": [{"key": "stage", "operator": "NotIn", "values": ["test"]}]}}});
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        assert!(one(selector.clone()).allows("infra", "HTTPRoute", "other", &labels(&[("team", "a")])));
        assert!(!one(selector.clone()).allows(
            "infra",
            "HTTPRoute",
            "other",
            &labels(&[("team", "a"), ("stage", "test")])
        ));
        assert!(!one(selector).allows("infra", "HTTPRoute", "other", &none));
        let kinds = one(json!({"kinds": [{"kind": "GRPCRoute"}, {"kind": "TCPRoute"}]}));
        assert_eq!(kinds.resolved.reason, "InvalidRouteKinds");
        assert!(!kinds.allows("infra", "HTTPRoute", "infra", &none));
        assert!(kinds.allows("infra", "GRPCRoute", "infra", &none));
    }
}
