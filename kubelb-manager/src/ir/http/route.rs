//! One HTTPRoute or GRPCRoute by itself: the Envoy routes of its rules, as if it were attached to everything.
//!
//! Must not know: Gateways and other routes. Whatever is wrong with a match, a filter or a backend costs its rule and no more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::core::ObjectMeta;
use kubelb_api::gateway_api as api;

use super::cluster::{Found, Services};
use super::filters::{self, ALL, UNSUPPORTED};
use super::matches::{self, Order};
use super::{Action, Filters, HttpRoute, Match, Retry, Rule, Share, Text, Verdict, hostname};

/// Most rules of one route that are served.
const MAX_RULES: usize = 256;
/// Most backends of a rule, so that their shares come to a number.
const MAX_BACKENDS: usize = 256;
/// Most Envoy routes of one route.
const MAX_ROUTES: usize = 4_096;
/// Highest weight, as the schema has it.
const MAX_WEIGHT: i64 = 1_000_000;
/// Most tries.
const MAX_ATTEMPTS: u32 = 100;

/// What routes are attached by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteDraft {
    /// HTTPRoute or GRPCRoute.
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) generation: Option<i64>,
    pub(super) namespace_labels: BTreeMap<String, String>,
    pub(super) parents: Vec<Arc<api::ParentReference>>,
    /// Empty: all.
    pub(super) hostnames: Vec<Arc<str>>,
    pub(super) routes: Vec<(Order, Arc<HttpRoute>)>,
    pub(super) clusters: BTreeMap<Arc<str>, Found>,
    pub(super) accepted: Verdict,
    pub(super) resolved: Verdict,
    pub(super) partial: Option<Verdict>,
}

/// The same of both kinds.
struct Common {
    name: Option<String>,
    matches: Vec<matches::Read>,
    filters: Vec<api::Filter>,
    backends: Vec<api::BackendReference>,
    timeouts: Option<api::Timeouts>,
    retry: Option<api::Retry>,
}

/// Reads an HTTPRoute.
pub(super) fn http(
    object: &api::Viewed<api::HttpRouteSpec>,
    labels: &BTreeMap<String, String>,
    services: Services<'_>,
) -> RouteDraft {
    let common = |rule: &api::HttpRule| Common {
        name: rule.name.clone(),
        matches: or_all(rule.matches.iter().map(matches::http).collect()),
        filters: rule.filters.clone(),
        backends: rule.backend_refs.clone(),
        timeouts: rule.timeouts.clone(),
        retry: rule.retry.clone(),
    };
    let spec = &object.spec;
    let rules = or_default(&spec.rules).iter().map(common).collect();
    let head = Head::new(
        "HTTPRoute",
        &object.metadata,
        &spec.parent_refs,
        &spec.hostnames,
        labels,
    );
    read(head, rules, services)
}

/// Reads a GRPCRoute.
pub(super) fn grpc(
    object: &api::Viewed<api::GrpcRouteSpec>,
    labels: &BTreeMap<String, String>,
    services: Services<'_>,
) -> RouteDraft {
    let common = |rule: &api::GrpcRule| {
        let mut matches: Vec<matches::Read> = rule.matches.iter().map(matches::grpc).collect();
        if matches.is_empty() {
            matches.push(matches::grpc(&api::GrpcMatch::default()));
        }
        Common {
            name: rule.name.clone(),
            matches,
            filters: rule.filters.clone(),
            backends: rule.backend_refs.clone(),
            timeouts: None,
            retry: None,
        }
    };
    let spec = &object.spec;
    let rules = spec.rules.iter().map(common).collect();
    let head = Head::new(
        "GRPCRoute",
        &object.metadata,
        &spec.parent_refs,
        &spec.hostnames,
        labels,
    );
    read(head, rules, services)
}

fn or_all(matches: Vec<matches::Read>) -> Vec<matches::Read> {
    if matches.is_empty() {
        vec![matches::http(&api::HttpMatch::default())]
    } else {
        matches
    }
}

/// As an API server does.
fn or_default(rules: &[api::HttpRule]) -> Vec<api::HttpRule> {
    if rules.is_empty() {
        vec![api::HttpRule::default()]
    } else {
        rules.to_vec()
    }
}

struct Head<'a> {
    kind: &'static str,
    meta: &'a ObjectMeta,
    parents: &'a [api::ParentReference],
    hostnames: &'a [String],
    labels: &'a BTreeMap<String, String>,
}

impl<'a> Head<'a> {
    fn new(
        kind: &'static str,
        meta: &'a ObjectMeta,
        parents: &'a [api::ParentReference],
        hostnames: &'a [String],
        labels: &'a BTreeMap<String, String>,
    ) -> Self {
        Self {
            kind,
            meta,
            parents,
            hostnames,
            labels,
        }
    }
}

/// What becomes of so many of a million requests; of all that are left when nothing is said.
type Part = (Option<u32>, Arc<Rule>);

/// What is found on the way.
struct Reader<'a> {
    services: Services<'a>,
    is_grpc: bool,
    unresolved: Option<(&'static str, String)>,
    dropped: Vec<(&'static str, String)>,
}

fn read(head: Head<'_>, rules: Vec<Common>, services: Services<'_>) -> RouteDraft {
    let meta = head.meta;
    let namespace = meta.namespace.clone().unwrap_or_default();
    let name = meta.name.clone().unwrap_or_default();
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    let age: (bool, Option<Timestamp>) = (created.is_none(), created);
    let mut reader = Reader {
        services,
        is_grpc: head.kind == "GRPCRoute",
        unresolved: None,
        dropped: Vec::new(),
    };
    let mut hostnames = Vec::new();
    for (index, text) in head.hostnames.iter().enumerate() {
        match hostname::read(text) {
            Some(found) => hostnames.push(found),
            None => reader.drop(UNSUPPORTED, format!("hostnames[{index}]: {text:?} is no hostname")),
        }
    }
    hostnames.sort();
    hostnames.dedup();
    let mut routes = Vec::new();
    let mut served_rules = 0_usize;
    let count = rules.len();
    for (index, common) in rules.into_iter().enumerate() {
        if index >= MAX_RULES || routes.len() >= MAX_ROUTES {
            reader.drop(
                UNSUPPORTED,
                format!("rules[{index}]: a route has {MAX_RULES} rules and {MAX_ROUTES} matches at most"),
            );
            break;
        }
        let (actions, is_refused) = reader.rule(index, &common, meta);
        let route_name: Arc<str> = match &common.name {
            Some(rule) => format!("{namespace}/{name}/{index}/{rule}").into(),
            None => format!("{namespace}/{name}/{index}").into(),
        };
        let mut served = false;
        for (place, found) in common.matches.into_iter().enumerate() {
            let (wanted, specific) = match found {
                Ok(found) => found,
                Err(why) => {
                    reader.drop(UNSUPPORTED, format!("rules[{index}].matches[{place}].{why}"));
                    continue;
                }
            };
            served = true;
            for (share, (millionths, rule)) in actions.iter().enumerate() {
                let mut variants = vec![wanted.clone()];
                variants.extend(preflight(&wanted, rule));
                for (variant, matches) in variants.into_iter().enumerate() {
                    let place = (namespace.clone(), name.clone(), index, place, share * 2 + variant);
                    let order = Order::new(&matches, specific, age, place);
                    let route = HttpRoute {
                        name: Arc::clone(&route_name),
                        matches,
                        millionths: *millionths,
                        rule: Arc::clone(rule),
                    };
                    routes.push((order, Arc::new(route)));
                }
            }
        }
        served_rules += usize::from(served && !is_refused);
    }
    let nothing = (served_rules == 0 && count > 0) || (hostnames.is_empty() && !head.hostnames.is_empty());
    let said = |dropped: &[(&'static str, String)]| {
        let texts: Vec<&str> = dropped.iter().take(8).map(|(_, text)| text.as_str()).collect();
        let more = dropped.len().saturating_sub(texts.len());
        let mut text = texts.join("; ");
        if more > 0 {
            text.push_str(&format!("; and {more} more"));
        }
        text
    };
    let first = reader.dropped.first().map(|(reason, _)| *reason);
    let accepted = match first {
        Some(reason) if nothing => Verdict::no(reason, said(&reader.dropped)),
        Some(_) | None => Verdict::yes("Accepted"),
    };
    let partial = first.filter(|_| !nothing).map(|reason| Verdict {
        holds: true,
        reason,
        message: format!("Dropped Rule: {}", said(&reader.dropped)),
    });
    RouteDraft {
        kind: head.kind,
        namespace,
        generation: meta.generation,
        namespace_labels: head.labels.clone(),
        parents: head.parents.iter().cloned().map(Arc::new).collect(),
        hostnames,
        routes,
        clusters: reader.services.clusters,
        accepted,
        resolved: match reader.unresolved {
            Some((reason, message)) => Verdict::no(reason, message),
            None => Verdict::yes("ResolvedRefs"),
        },
        partial,
    }
}

/// A browser asks with OPTIONS whether it may use the method that the rule is for.
fn preflight(wanted: &Match, rule: &Rule) -> Option<Match> {
    let method = wanted.method.as_ref().filter(|method| *method != "OPTIONS")?;
    rule.filters.cors.as_ref()?;
    let mut matches = wanted.clone();
    let asked = ("access-control-request-method".to_owned(), Text::Exact(method.clone()));
    matches.method = Some("OPTIONS".to_owned());
    matches.headers.push(asked);
    Some(matches)
}

impl Reader<'_> {
    fn drop(&mut self, reason: &'static str, message: String) {
        self.dropped.push((reason, message));
    }

    fn backend(&mut self, at: &str, reference: &api::BackendReference) -> Option<Arc<str>> {
        match self.services.resolve(reference, self.is_grpc) {
            Ok(cluster) => Some(cluster),
            Err((reason, message)) => {
                self.unresolved.get_or_insert((reason, format!("{at}: {message}")));
                None
            }
        }
    }

    fn filters(&mut self, at: &str, wanted: &[api::Filter]) -> Result<filters::Read, filters::Refusal> {
        let at = at.to_owned();
        filters::read(wanted, &mut |reference| {
            self.backend(&format!("{at}.filters"), reference)
        })
    }

    /// What becomes of the requests of a rule, by shares of a million, and whether it is refused.
    fn rule(&mut self, index: usize, common: &Common, meta: &ObjectMeta) -> (Vec<Part>, bool) {
        let at = format!("rules[{index}]");
        let refuse = |reader: &mut Self, (reason, why): filters::Refusal| {
            reader.drop(reason, format!("{at}.{why}"));
            (vec![(None, Arc::new(Rule::respond(500)))], true)
        };
        let read = match self.filters(&at, &common.filters) {
            Ok(read) => read,
            Err(refusal) => return refuse(self, refusal),
        };
        let (timeout, retry) = match patience(common, meta) {
            Ok(found) => found,
            Err(why) => return refuse(self, (UNSUPPORTED, why)),
        };
        let rule = |filters: Filters, action: Action| {
            Arc::new(Rule {
                filters,
                action,
                timeout,
                retry: retry.clone(),
            })
        };
        if let Some(redirect) = read.redirect {
            return (vec![(None, rule(read.filters, Action::Redirect(redirect)))], false);
        }
        if common.backends.len() > MAX_BACKENDS {
            return refuse(
                self,
                (UNSUPPORTED, format!("backendRefs: a rule has {MAX_BACKENDS} at most")),
            );
        }
        let mut shares: Vec<(Share, Option<super::Redirect>)> = Vec::new();
        for (place, reference) in common.backends.iter().enumerate() {
            let at = format!("{at}.backendRefs[{place}]");
            let weight = reference.weight.unwrap_or(1);
            let Some(weight) = u32::try_from(weight).ok().filter(|_| weight <= MAX_WEIGHT) else {
                return refuse(
                    self,
                    (
                        UNSUPPORTED,
                        format!("backendRefs[{place}].weight: must be 0 to {MAX_WEIGHT}"),
                    ),
                );
            };
            let own = match self.filters(&at, &reference.filters) {
                Ok(own) => own,
                Err((reason, why)) => return refuse(self, (reason, format!("backendRefs[{place}].{why}"))),
            };
            let is_answered = own.redirect.is_some();
            let cluster = if is_answered {
                None
            } else {
                self.backend(&at, reference)
            };
            if weight > 0 {
                let share = Share {
                    cluster,
                    weight,
                    filters: own.filters,
                };
                shares.push((share, own.redirect));
            }
        }
        (divide(read.filters, shares, &rule), false)
    }
}

/// One Envoy route for all backends where that can be, else one for each.
fn divide(
    filters: Filters,
    shares: Vec<(Share, Option<super::Redirect>)>,
    rule: &dyn Fn(Filters, Action) -> Arc<Rule>,
) -> Vec<Part> {
    if !shares
        .iter()
        .any(|(share, redirect)| share.cluster.is_some() || redirect.is_some())
    {
        return vec![(None, rule(filters, Action::Respond(500)))];
    }
    let is_special = shares
        .iter()
        .any(|(share, redirect)| redirect.is_some() || share.filters.need_route());
    if !is_special {
        let shares = shares.into_iter().map(|(share, _)| share).collect();
        return vec![(None, rule(filters, Action::Forward(shares)))];
    }
    let total: u64 = shares.iter().map(|(share, _)| u64::from(share.weight)).sum();
    let mut sum = 0_u64;
    let mut routes = Vec::new();
    let last = shares.len().saturating_sub(1);
    for (place, (mut share, redirect)) in shares.into_iter().enumerate() {
        sum += u64::from(share.weight);
        let millionths = u32::try_from(sum.saturating_mul(u64::from(ALL)) / total.max(1)).unwrap_or(ALL);
        let mut own = filters.clone();
        let theirs = std::mem::take(&mut share.filters);
        own.path = theirs.path.or(own.path);
        own.host = theirs.host.or(own.host);
        own.cors = theirs.cors.or(own.cors);
        own.mirrors.extend(theirs.mirrors);
        for (own, theirs) in [
            (&mut own.request_headers, theirs.request_headers),
            (&mut own.response_headers, theirs.response_headers),
        ] {
            own.set.extend(theirs.set);
            own.add.extend(theirs.add);
            own.remove.extend(theirs.remove);
        }
        share.weight = 1;
        let action = match (redirect, &share.cluster) {
            (Some(redirect), _) => Action::Redirect(redirect),
            (None, Some(_)) => Action::Forward(vec![share]),
            (None, None) => Action::Respond(500),
        };
        routes.push(((place < last).then_some(millionths), rule(own, action)));
    }
    routes
}

impl Rule {
    pub(super) fn respond(status: u16) -> Self {
        Self {
            filters: Filters::default(),
            action: Action::Respond(status),
            timeout: None,
            retry: None,
        }
    }
}

/// How long requests may take, and when they are tried again.
fn patience(common: &Common, meta: &ObjectMeta) -> Result<(Option<Duration>, Option<Retry>), String> {
    let timeouts = common.timeouts.clone().unwrap_or_default();
    let read = |text: &Option<String>, field: &str| match text {
        None => Ok(None),
        Some(text) => duration(text)
            .map(|time| Some(time).filter(|time| !time.is_zero()))
            .ok_or_else(|| format!("timeouts.{field}: {text:?} is no duration such as 1m30s or 500ms")),
    };
    let request = read(&timeouts.request, "request")?;
    let backend = read(&timeouts.backend_request, "backendRequest")?;
    let retry = match &common.retry {
        Some(retry) => Some(retries(retry, backend)?),
        None => annotated(meta, backend),
    };
    let timeout = match (&retry, request, backend) {
        (None, Some(request), Some(backend)) => Some(request.min(backend)),
        (None, None, backend) => backend,
        (_, request, _) => request,
    };
    Ok((timeout, retry.filter(|retry| retry.attempts > 0)))
}

fn retries(wanted: &api::Retry, per_try: Option<Duration>) -> Result<Retry, String> {
    let mut codes = Vec::new();
    for code in &wanted.codes {
        let code = u32::try_from(*code).ok().filter(|code| (400..=599).contains(code));
        codes.push(code.ok_or_else(|| "retry.codes: must be 400 to 599".to_owned())?);
    }
    codes.sort_unstable();
    codes.dedup();
    let attempts = u32::try_from(wanted.attempts.unwrap_or(1))
        .ok()
        .filter(|attempts| *attempts <= MAX_ATTEMPTS);
    let back_off = match &wanted.backoff {
        None => None,
        Some(text) => {
            let time = duration(text).filter(|time| *time <= Duration::from_secs(3_600));
            Some(time.ok_or_else(|| format!("retry.backoff: {text:?} is no duration of an hour at most"))?)
        }
    };
    let mut on = "connect-failure,refused-stream,reset".to_owned();
    if !codes.is_empty() {
        on.push_str(",retriable-status-codes");
    }
    Ok(Retry {
        on,
        codes,
        attempts: attempts.ok_or_else(|| format!("retry.attempts: must be 0 to {MAX_ATTEMPTS}"))?,
        back_off: back_off.filter(|time| !time.is_zero()),
        per_try,
    })
}

/// As Envoy Gateway's documents have it. What is not known of it is not done.
fn annotated(meta: &ObjectMeta, per_try: Option<Duration>) -> Option<Retry> {
    const KNOWN: &[&str] = &[
        "5xx",
        "cancelled",
        "connect-failure",
        "deadline-exceeded",
        "envoy-ratelimited",
        "gateway-error",
        "internal",
        "refused-stream",
        "reset",
        "reset-before-request",
        "resource-exhausted",
        "retriable-4xx",
        "unavailable",
    ];
    let annotations = meta.annotations.as_ref()?;
    let on = annotations.get("gateway.envoyproxy.io/retry-on")?;
    let words: Vec<&str> = on
        .split(',')
        .map(str::trim)
        .filter(|word| KNOWN.contains(word))
        .collect();
    let times = annotations.get("gateway.envoyproxy.io/num-retries");
    let attempts = times.map_or(Some(1), |times| times.trim().parse::<u32>().ok())?;
    (!words.is_empty()).then(|| Retry {
        on: words.join(","),
        codes: Vec::new(),
        attempts: attempts.min(MAX_ATTEMPTS),
        back_off: None,
        per_try,
    })
}

/// Up to four numbers with a unit (GEP-2257).
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at_checked(digits)?;
        let number: u64 = number.parse().ok().filter(|_| (1..=5).contains(&digits))?;
        let letters = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, behind) = behind.split_at_checked(letters)?;
        total += match unit {
            "h" => Duration::from_secs(number * 3_600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = behind;
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

#[cfg(test)]
mod tests;
