//! All Routes of one tenant together: which route is attached where, and what that makes of listeners and tables.
//!
//! Whole state in, whole answer out. Must not know: other tenants, and where addresses come from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use kubelb_api::gateway_api as api;
use kubelb_api::names::TenantName;

use super::clients::Find;
use super::cluster::Found;
use super::gateway::{GatewayDraft, ListenerDraft, Speaks};
use super::gateways::{Gateway, Gateways, Listener};
use super::matches::Order;
use super::route::RouteDraft;
use super::{
    Authorities, Certificate, Chains, Clients, GatewayOutcome, Http, HttpListener, HttpRoute, ListenerOutcome,
    ListenerSettings, Outcome, ParentOutcome, RouteOutcome, RouteTable, TlsChain, Verdict, VirtualHost, hostname,
};
use crate::object::ObjectName;

/// Why more are not.
const TOO_MANY: &str = "TooManyRoutes";
/// Most Routes of a tenant that are served: the oldest ones.
const MAX_ROUTES: usize = 8_192;
/// Most Envoy routes of a tenant, at all listeners and hostnames together.
const MAX_ENTRIES: usize = 32_768;

/// A Route by itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Draft {
    Refused(Verdict),
    Gateway(Arc<GatewayDraft>),
    Route(Arc<RouteDraft>),
}

/// A certificate, with the name of its SyncSecret.
pub(super) type Named = (Arc<str>, Arc<Certificate>);
/// A Gateway's place among the tenant's, and a listener's in it.
type Place = (usize, usize);
/// The place of a listener, with hostnames.
type Hosts = (usize, Vec<Arc<str>>);
/// A route at its parents, with the listeners that it is attached to by each.
type AtParents<'a> = (&'a ObjectName, &'a RouteDraft, Vec<(ParentOutcome, Vec<Place>)>);
/// The place of a listener, with its certificates.
type Certified = (usize, Vec<Arc<str>>);

/// What a tenant's Routes are put together with.
pub(super) struct Context<'a> {
    pub(super) tenant: &'a TenantName,
    /// Addresses of a Gateway.
    pub(super) addresses: &'a dyn Fn(&ObjectName) -> BTreeSet<IpAddr>,
    /// A certificate, by namespace and name of the Secret, with the SyncSecret's name.
    pub(super) certificate: &'a dyn Fn(&str, &str) -> Result<Named, String>,
    /// Authorities of clients' certificates, by namespace and name of the ConfigMap.
    pub(super) authorities: &'a Find<'a>,
    pub(super) settings: ListenerSettings,
}

/// Routes at a listener, by hostname.
#[derive(Default)]
struct Attached<'a> {
    hosts: BTreeMap<Arc<str>, Vec<&'a (Order, Arc<HttpRoute>)>>,
    count: i32,
    tables: Vec<Arc<str>>,
}

/// Puts a tenant's Routes together; those that are older come first.
pub(super) fn assemble(drafts: &[(&ObjectName, &Draft)], context: &Context<'_>) -> Http {
    let mut http = Http::default();
    let (drafts, surplus) = drafts.split_at(drafts.len().min(MAX_ROUTES));
    for (name, _) in surplus {
        let message = format!("the tenant has more than {MAX_ROUTES} Routes; the oldest ones are served");
        let outcome = Outcome::Refused(Verdict::no(TOO_MANY, message));
        http.outcomes.insert(Arc::clone(&name.name), Arc::new(outcome));
    }
    let mut entries = 0_usize;
    let gateways = Gateways::of(drafts, context);
    // By the Gateway's place, then the listener's.
    let mut attached: Vec<Vec<Attached<'_>>> = gateways
        .all
        .iter()
        .map(|gateway| gateway.listeners.iter().map(|_| Attached::default()).collect())
        .collect();
    let mut routes: Vec<AtParents<'_>> = Vec::new();
    for (name, draft) in drafts {
        let Draft::Route(route) = draft else { continue };
        let mut outcomes = Vec::with_capacity(route.parents.len());
        let mut done: Vec<Place> = Vec::new();
        for parent in &route.parents {
            let Some((index, gateway)) = gateways.find(route, parent) else {
                continue;
            };
            let (mut accepted, mut places) = attach(route, parent, gateway);
            let hosts: usize = places.iter().map(|(_, hosts)| hosts.len()).sum();
            // How many Envoy routes it comes to.
            let cost = hosts.saturating_mul(route.routes.len());
            if entries.saturating_add(cost) > MAX_ENTRIES {
                let message =
                    format!("the tenant's routes come to more than {MAX_ENTRIES} matches; the oldest ones are served");
                accepted = Verdict::no(TOO_MANY, message);
                places.clear();
            } else {
                entries = entries.saturating_add(cost);
            }
            let mut keys: Vec<Place> = Vec::with_capacity(places.len());
            for (place, hosts) in places {
                let key = (index, place);
                keys.push(key);
                if done.contains(&key) {
                    continue;
                }
                done.push(key);
                if let Some(at) = attached.get_mut(index).and_then(|listeners| listeners.get_mut(place)) {
                    at.count = at.count.saturating_add(1);
                    for host in hosts {
                        at.hosts.entry(host).or_default().extend(&route.routes);
                    }
                }
            }
            let outcome = ParentOutcome {
                parent: Arc::clone(parent),
                partial: route.partial.clone().filter(|_| accepted.holds),
                accepted,
                resolved: route.resolved.clone(),
                tables: Vec::new(),
            };
            outcomes.push((outcome, keys));
        }
        if !done.is_empty() {
            take_clusters(&route.clusters, &mut http);
        }
        routes.push((name, route, outcomes));
    }
    for (name, draft) in drafts {
        let outcome = match draft {
            Draft::Refused(verdict) => Outcome::Refused(verdict.clone()),
            Draft::Route(_) => continue,
            Draft::Gateway(gateway) => match gateways.place(name, gateway) {
                Some((place, gateway)) => {
                    let attached = attached.get_mut(place).map(Vec::as_mut_slice).unwrap_or_default();
                    Outcome::Gateway(serve(gateway, attached, context, &mut http))
                }
                None => {
                    let message = "another Route is about the same Gateway";
                    Outcome::Refused(Verdict::no("Invalid", message))
                }
            },
        };
        http.outcomes.insert(Arc::clone(&name.name), Arc::new(outcome));
    }
    let finished = routes.into_iter().map(|(name, route, outcomes)| {
        let parents = outcomes.into_iter().map(|(mut outcome, keys)| {
            let at = keys
                .iter()
                .filter_map(|(gateway, place)| attached.get(*gateway)?.get(*place));
            outcome.tables = at.flat_map(|at| at.tables.iter().cloned()).collect();
            outcome
        });
        let outcome = RouteOutcome {
            generation: route.generation,
            parents: parents.collect(),
            clusters: route.clusters.keys().cloned().collect(),
        };
        (Arc::clone(&name.name), Arc::new(Outcome::Route(outcome)))
    });
    // As one map and then joined, for thousands that come one by one are each looked up.
    let mut finished: BTreeMap<_, _> = finished.collect();
    http.outcomes.append(&mut finished);
    http
}

/// The places of the listeners that a route is attached to by one of its parents, with its hostnames there.
fn attach(route: &RouteDraft, parent: &api::ParentReference, gateway: &Gateway<'_>) -> (Verdict, Vec<Hosts>) {
    if !route.accepted.holds {
        return (route.accepted.clone(), Vec::new());
    }
    let named = |listener: &ListenerDraft| {
        parent
            .section_name
            .as_deref()
            .is_none_or(|name| name.is_empty() || name == listener.name)
            && parent.port.is_none_or(|port| port == i64::from(listener.port.get()))
    };
    let mut candidates = gateway
        .listeners
        .iter()
        .enumerate()
        .filter(|(_, listener)| named(listener.draft))
        .peekable();
    if candidates.peek().is_none() {
        return (
            Verdict::no("NoMatchingParent", "the Gateway has no such listener"),
            Vec::new(),
        );
    }
    let allowed: Vec<(usize, &Listener<'_>)> = candidates
        .filter(|(_, listener)| {
            listener.draft.allows(
                &gateway.draft.namespace,
                route.kind,
                &route.namespace,
                &route.namespace_labels,
            )
        })
        .collect();
    if allowed.is_empty() {
        let message = format!(
            "no listener takes a {} of the namespace {}",
            route.kind, route.namespace
        );
        return (Verdict::no("NotAllowedByListeners", message), Vec::new());
    }
    let served = allowed.into_iter().filter(|(_, listener)| listener.is_served());
    let places: Vec<Hosts> = served
        .map(|(place, listener)| (place, hosts(route, listener.draft)))
        .filter(|(_, hosts)| !hosts.is_empty())
        .collect();
    if places.is_empty() {
        let message = "no listener that is served has one of the hostnames";
        return (Verdict::no("NoMatchingListenerHostname", message), Vec::new());
    }
    (Verdict::yes("Accepted"), places)
}

/// Hostnames of a route at a listener, each once.
fn hosts(route: &RouteDraft, listener: &ListenerDraft) -> Vec<Arc<str>> {
    if route.hostnames.is_empty() {
        return vec![Arc::clone(&listener.hostname)];
    }
    let both = route.hostnames.iter().filter_map(|own| {
        let found = hostname::intersect(own, &listener.hostname)?;
        Some(if *found == **own {
            Arc::clone(own)
        } else {
            Arc::clone(&listener.hostname)
        })
    });
    let mut both: Vec<Arc<str>> = both.collect();
    both.sort();
    both.dedup();
    both
}

fn take_clusters(found: &BTreeMap<Arc<str>, Found>, http: &mut Http) {
    // Of two Routes that know a Service, the one that saw it later is right: versions are of the tenant's API server.
    for (name, found) in found {
        match http.clusters.get(name) {
            Some(known) if *known == found.cluster => {}
            Some(_) if http_versions(http, name) >= found.version => {}
            _ => {
                http.clusters.insert(Arc::clone(name), Arc::clone(&found.cluster));
                http.versions.insert(Arc::clone(name), found.version);
            }
        }
    }
}

fn http_versions(http: &Http, name: &str) -> u64 {
    http.versions.get(name).copied().unwrap_or_default()
}

/// Puts a Gateway's listeners and tables in.
fn serve(
    gateway: &Gateway<'_>,
    attached: &mut [Attached<'_>],
    context: &Context<'_>,
    http: &mut Http,
) -> GatewayOutcome {
    // Also of one that asks for what there is not: what it has got before is served.
    let addresses = (context.addresses)(gateway.object);
    let mut outcomes = Vec::new();
    let mut chains: BTreeMap<NonZeroU16, Vec<Certified>> = BTreeMap::new();
    for (place, listener) in gateway.listeners.iter().enumerate() {
        let (certificates, resolved) = certificates(listener, context, http);
        let needs_none = listener.draft.speaks == Some(Speaks::Http);
        if listener.is_served() && (needs_none || !certificates.is_empty()) {
            chains
                .entry(listener.draft.port)
                .or_default()
                .push((place, certificates));
        }
        outcomes.push(ListenerOutcome {
            name: listener.draft.name.clone(),
            accepted: listener.accepted.clone(),
            conflicted: listener.draft.conflicted.clone(),
            resolved,
            kinds: listener.draft.kinds.clone(),
            attached: attached.get(place).map_or(0, |at| at.count),
            resources: Vec::new(),
        });
    }
    for address in &addresses {
        for (port, served) in &chains {
            let mut at = At {
                gateway,
                name: format!("http/{}/{address}/{port}", context.tenant).into(),
                http3: false,
            };
            let is_tls = served.iter().any(|(place, _)| at.speaks(*place) == Some(Speaks::Https));
            // Envoy does not ask for certificates over QUIC; without one, nobody may come in there.
            let asks = served.iter().any(|(place, _)| at.clients(*place).is_some());
            at.http3 = is_tls && context.settings.http3 && !asks;
            let quic: Option<Arc<str>> = at.http3.then(|| format!("{}/quic", at.name).into());
            let chains = if is_tls {
                at.tls(served, attached, http)
            } else {
                at.plain(served, attached, http)
            };
            for (place, certificates) in served {
                let table = at.table(*place, is_tls);
                if let Some(outcome) = outcomes.get_mut(*place) {
                    outcome.resources.extend([Arc::clone(&at.name), Arc::clone(&table)]);
                    let authorities = at.clients(*place).map(|(clients, _)| &clients.authorities);
                    let more = certificates.iter().chain(&quic).chain(authorities);
                    outcome.resources.extend(more.cloned());
                }
                if let Some(at) = attached.get_mut(*place) {
                    at.tables.push(table);
                }
            }
            let listener = HttpListener {
                address: *address,
                port: *port,
                is_quic: false,
                chains,
                settings: context.settings,
            };
            if let Some(name) = quic {
                let quic = HttpListener {
                    is_quic: true,
                    ..listener.clone()
                };
                http.listeners.insert(name, Arc::new(quic));
            }
            http.listeners.insert(Arc::clone(&at.name), Arc::new(listener));
        }
    }
    for outcome in &mut outcomes {
        outcome.resources.sort();
        outcome.resources.dedup();
    }
    GatewayOutcome {
        generation: gateway.draft.generation,
        addresses: addresses.into_iter().collect(),
        accepted: gateway.draft.accepted.clone(),
        insecure_fallback: gateway.draft.insecure_fallback,
        listeners: outcomes,
    }
}

/// The certificates of a listener that can be shown, and whether that is all of them.
fn certificates(listener: &Listener<'_>, context: &Context<'_>, http: &mut Http) -> (Vec<Arc<str>>, Verdict) {
    let mut names = Vec::new();
    let mut resolved = listener.resolved.clone();
    for (namespace, name) in &listener.draft.certificates {
        match (context.certificate)(namespace, name) {
            Ok((object, certificate)) => {
                let resource: Arc<str> = format!("http/{}/{object}", context.tenant).into();
                http.certificates.insert(Arc::clone(&resource), certificate);
                if !names.contains(&resource) {
                    names.push(resource);
                }
            }
            Err(why) if resolved.holds => {
                resolved = Verdict::no("InvalidCertificateRef", format!("Secret {namespace}/{name}: {why}"));
            }
            Err(_) => {}
        }
    }
    (names, resolved)
}

/// One port of one address.
struct At<'a> {
    gateway: &'a Gateway<'a>,
    name: Arc<str>,
    /// Whether its TLS listeners are QUIC's as well.
    http3: bool,
}

type Listeners = [Certified];

impl<'a> At<'a> {
    fn listener(&self, place: usize) -> Option<&'a ListenerDraft> {
        self.gateway.listeners.get(place).map(|listener| listener.draft)
    }

    fn clients(&self, place: usize) -> Option<&'a (Clients, Arc<Authorities>)> {
        self.gateway.listeners.get(place)?.clients.as_ref()
    }

    fn speaks(&self, place: usize) -> Option<Speaks> {
        self.listener(place).and_then(|listener| listener.speaks)
    }

    fn table(&self, place: usize, is_tls: bool) -> Arc<str> {
        match self.listener(place) {
            Some(listener) if is_tls => format!("{}/{}", self.name, listener.name).into(),
            Some(_) | None => Arc::clone(&self.name),
        }
    }

    /// Hosts of one listener: those of its routes, and its own.
    fn hosts(&self, place: usize, attached: &[Attached<'_>]) -> BTreeMap<Arc<str>, VirtualHost> {
        let known = attached.get(place).into_iter().flat_map(|at| &at.hosts);
        let known = known.map(|(host, routes)| {
            let mut sorted = routes.clone();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            let routes = sorted.into_iter().map(|(_, route)| Arc::clone(route)).collect();
            (Arc::clone(host), VirtualHost::Routes(routes))
        });
        let mut hosts: BTreeMap<Arc<str>, VirtualHost> = known.collect();
        if let Some(listener) = self.listener(place) {
            hosts
                .entry(Arc::clone(&listener.hostname))
                .or_insert_with(|| VirtualHost::Routes(Vec::new()));
        }
        hosts
    }

    /// Whether another listener of the port is more specific for a host than this one.
    fn is_others(&self, place: usize, host: &str, served: &Listeners) -> bool {
        let Some(own) = self.listener(place) else { return true };
        served.iter().filter(|(other, _)| *other != place).any(|(other, _)| {
            self.listener(*other).is_some_and(|other| {
                other.hostname != own.hostname
                    && hostname::covers(&other.hostname, host)
                    && hostname::covers(&own.hostname, &other.hostname)
            })
        })
    }

    fn plain(&self, served: &Listeners, attached: &[Attached<'_>], http: &mut Http) -> Chains {
        let mut table = RouteTable::new(self.port(served), false, false);
        for (place, _) in served {
            let own = self.hosts(*place, attached).into_iter();
            table
                .hosts
                .extend(own.filter(|(host, _)| !self.is_others(*place, host, served)));
        }
        http.tables.insert(Arc::clone(&self.name), Arc::new(table));
        Chains::Plain(Arc::clone(&self.name))
    }

    /// A name that is another listener's is asked for on another's connection: RFC 9110, 421.
    fn tls(&self, served: &Listeners, attached: &[Attached<'_>], http: &mut Http) -> Chains {
        let mut chains = Vec::new();
        for (place, certificates) in served {
            let Some(listener) = self.listener(*place) else {
                continue;
            };
            let mut table = RouteTable::new(self.port(served), true, self.http3);
            let own = self.hosts(*place, attached).into_iter();
            table
                .hosts
                .extend(own.filter(|(host, _)| !self.is_others(*place, host, served)));
            for (other, _) in served.iter().filter(|(other, _)| other != place) {
                if let Some(other) = self.listener(*other) {
                    table
                        .hosts
                        .insert(Arc::clone(&other.hostname), VirtualHost::Misdirected);
                }
            }
            let name = self.table(*place, true);
            http.tables.insert(Arc::clone(&name), Arc::new(table));
            let clients = self.clients(*place);
            if let Some((clients, authorities)) = clients {
                let known = http.authorities.entry(Arc::clone(&clients.authorities));
                known.or_insert_with(|| Arc::clone(authorities));
            }
            chains.push(TlsChain {
                server_name: (*listener.hostname != *hostname::ANY).then(|| Arc::clone(&listener.hostname)),
                certificates: certificates.clone(),
                clients: clients.map(|(clients, _)| clients.clone()),
                table: name,
            });
        }
        chains.sort_by(|a, b| a.server_name.cmp(&b.server_name));
        Chains::Tls(chains)
    }

    fn port(&self, served: &Listeners) -> NonZeroU16 {
        let first = served.first().and_then(|(place, _)| self.listener(*place));
        first.map_or(NonZeroU16::MIN, |listener| listener.port)
    }
}

impl RouteTable {
    fn new(port: NonZeroU16, is_tls: bool, http3: bool) -> Self {
        Self {
            port,
            is_tls,
            http3,
            hosts: BTreeMap::new(),
        }
    }
}
