//! Tables of routes.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::config::route::v3 as pb;
use kubelb_xds::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use kubelb_xds::pb::envoy::r#type::matcher::v3 as matcher;
use kubelb_xds::pb::envoy::r#type::v3 as envoy_type;
use kubelb_xds::pb::google::protobuf::{BoolValue, Duration as PbDuration};
use kubelb_xds::{Audience, EncodedHost, Owner, Reference, Resource, ResourceType};

use super::needs;
use crate::ir::http::{
    Action, Cors, Filters, HeaderChanges, HttpRoute, Match, Origin, Path, PathChange, Redirect, Retry, RouteTable,
    Rule, Share, Text, VirtualHost, quote,
};
use crate::xds::wire::{any, duration, number};

/// A cluster that never exists: requests for it are answered with 500.
const INVALID: &str = "http/invalid";
const CORS: &str = "envoy.filters.http.cors";

/// A table, and the resource that was made of it.
pub(super) type Made<'a> = (&'a RouteTable, &'a Resource);

/// Virtual hosts that are as they were `before` are not translated again.
pub(super) fn resource(name: &str, table: &RouteTable, before: Option<Made<'_>>, owner: &Owner) -> Resource {
    let rest = pb::RouteConfiguration {
        name: name.to_owned(),
        ignore_port_in_host_matching: true,
        response_headers_to_add: table.http3.then(|| alt_svc(table.port)).into_iter().collect(),
        ..pb::RouteConfiguration::default()
    };
    let hosts = hosts(table, before);
    Resource::of_hosts(&rest, &hosts, owner.clone(), Audience::Fleets).needing(needed(table))
}

fn hosts(table: &RouteTable, before: Option<Made<'_>>) -> Vec<EncodedHost> {
    // Redirects depend on both.
    let before = before.filter(|(before, _)| (before.port, before.is_tls) == (table.port, table.is_tls));
    let encoded = before.map(|(_, made)| made.hosts()).unwrap_or_default();
    let known = before.into_iter().flat_map(|(before, _)| &before.hosts);
    // Both are in the order of the hostnames.
    let mut known = known.zip(encoded).peekable();
    let translated = table.hosts.iter().map(|(host, what)| {
        while known.next_if(|((known, _), _)| *known < host).is_some() {}
        match known.next_if(|((known, _), _)| *known == host) {
            Some(((_, known), encoded)) if known == what => encoded,
            Some(_) | None => EncodedHost::new(&virtual_host(table, host, what)),
        }
    });
    translated.collect()
}

fn virtual_host(table: &RouteTable, host: &str, what: &VirtualHost) -> pb::VirtualHost {
    pb::VirtualHost {
        name: host.to_owned(),
        domains: vec![host.to_owned()],
        routes: match what {
            VirtualHost::Misdirected => vec![misdirected()],
            VirtualHost::Routes(routes) => routes.iter().map(|one| route(table, one)).collect(),
        },
        ..pb::VirtualHost::default()
    }
}

/// Clusters that requests go to.
fn needed(table: &RouteTable) -> impl Iterator<Item = Reference> {
    let routes = table.hosts.values().flat_map(|host| match host {
        VirtualHost::Misdirected => &[],
        VirtualHost::Routes(routes) => routes.as_slice(),
    });
    let clusters = routes.flat_map(|route| {
        let shares = match &route.rule.action {
            Action::Forward(shares) => shares.as_slice(),
            Action::Respond(_) | Action::Redirect(_) => &[],
        };
        let mirrors = route.rule.filters.mirrors.iter().filter(|_| !shares.is_empty());
        let shares = shares.iter().filter_map(|share| share.cluster.as_ref());
        shares.chain(mirrors.map(|mirror| &mirror.cluster))
    });
    // Of thousands of routes most go to the same.
    let clusters: BTreeSet<&Arc<str>> = clusters.collect();
    clusters
        .into_iter()
        .map(|cluster| needs(ResourceType::Cluster, cluster))
}

/// RFC 9114, 3.1.1: the same host and port number, for a day.
fn alt_svc(port: NonZeroU16) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: "alt-svc".to_owned(),
            value: format!("h3=\":{port}\"; ma=86400"),
            ..core::HeaderValue::default()
        }),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..core::HeaderValueOption::default()
    }
}

fn misdirected() -> pb::Route {
    pb::Route {
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(pb::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..pb::RouteMatch::default()
        }),
        action: Some(respond(421)),
        ..pb::Route::default()
    }
}

fn route(table: &RouteTable, route: &HttpRoute) -> pb::Route {
    let rule = &route.rule;
    let filters = &rule.filters;
    let action = match &rule.action {
        Action::Respond(status) => respond((*status).into()),
        Action::Redirect(wanted) => pb::route::Action::Redirect(redirect(table, &route.matches, wanted)),
        Action::Forward(shares) => pb::route::Action::Route(forward(route, rule, shares)),
    };
    let mut message = pb::Route {
        name: route.name.to_string(),
        r#match: Some(matches(&route.matches, route.millionths)),
        action: Some(action),
        request_headers_to_add: added(&filters.request_headers),
        request_headers_to_remove: filters.request_headers.remove.clone(),
        response_headers_to_add: added(&filters.response_headers),
        response_headers_to_remove: filters.response_headers.remove.clone(),
        ..pb::Route::default()
    };
    if let Some(wanted) = &filters.cors {
        message
            .typed_per_filter_config
            .insert(CORS.to_owned(), any(&cors(wanted)));
    }
    message
}

fn respond(status: u32) -> pb::route::Action {
    pb::route::Action::DirectResponse(pb::DirectResponseAction {
        status,
        ..pb::DirectResponseAction::default()
    })
}

fn matches(wanted: &Match, part: Option<u32>) -> pb::RouteMatch {
    use pb::route_match::PathSpecifier;
    let path = match &wanted.path {
        Path::Exact(path) => PathSpecifier::Path(path.clone()),
        Path::Prefix(prefix) if prefix.is_empty() => PathSpecifier::Prefix("/".to_owned()),
        Path::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
        Path::Start(start) => PathSpecifier::Prefix(start.clone()),
        Path::Regex(text) => PathSpecifier::SafeRegex(regex(text)),
    };
    let header = |name: &str, value: matcher::StringMatcher| pb::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(pb::header_matcher::HeaderMatchSpecifier::StringMatch(value)),
        ..pb::HeaderMatcher::default()
    };
    let method = wanted.method.iter().map(|method| header(":method", exact(method)));
    let headers = wanted.headers.iter().map(|(name, value)| header(name, string(value)));
    let query = wanted.query.iter().map(|(name, value)| pb::QueryParameterMatcher {
        name: name.clone(),
        query_parameter_match_specifier: Some(pb::query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch(
            string(value),
        )),
    });
    pb::RouteMatch {
        path_specifier: Some(path),
        headers: method.chain(headers).collect(),
        query_parameters: query.collect(),
        grpc: wanted.grpc.then(pb::route_match::GrpcRouteMatchOptions::default),
        runtime_fraction: part.map(millionths),
        ..pb::RouteMatch::default()
    }
}

fn millionths(numerator: u32) -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent {
        default_value: Some(envoy_type::FractionalPercent {
            numerator,
            denominator: envoy_type::fractional_percent::DenominatorType::Million.into(),
        }),
        ..core::RuntimeFractionalPercent::default()
    }
}

fn exact(text: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(text.to_owned())),
        ..matcher::StringMatcher::default()
    }
}

fn string(text: &Text) -> matcher::StringMatcher {
    match text {
        Text::Exact(text) => exact(text),
        Text::Regex(text) => matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(regex(text))),
            ..matcher::StringMatcher::default()
        },
    }
}

fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: text.to_owned(),
        ..matcher::RegexMatcher::default()
    }
}

fn forward(route: &HttpRoute, rule: &Rule, shares: &[Share]) -> pb::RouteAction {
    use pb::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier};
    let filters = &rule.filters;
    let specifier = match shares {
        [
            Share {
                cluster: Some(cluster),
                filters,
                ..
            },
        ] if *filters == Filters::default() => ClusterSpecifier::Cluster(cluster.to_string()),
        several => ClusterSpecifier::WeightedClusters(pb::WeightedCluster {
            clusters: several.iter().map(share).collect(),
            ..pb::WeightedCluster::default()
        }),
    };
    let not_found = if shares.iter().all(|share| share.cluster.is_some()) {
        ClusterNotFoundResponseCode::ServiceUnavailable
    } else {
        ClusterNotFoundResponseCode::InternalServerError
    };
    let mirrors = filters
        .mirrors
        .iter()
        .map(|mirror| pb::route_action::RequestMirrorPolicy {
            cluster: mirror.cluster.to_string(),
            runtime_fraction: Some(millionths(mirror.millionths)),
            disable_shadow_host_suffix_append: true,
            ..pb::route_action::RequestMirrorPolicy::default()
        });
    let mut action = pb::RouteAction {
        cluster_specifier: Some(specifier),
        cluster_not_found_response_code: not_found.into(),
        request_mirror_policies: mirrors.collect(),
        // Nothing said is no limit: Envoy's own would cut streams off.
        timeout: Some(rule.timeout.map_or(PbDuration::default(), duration)),
        retry_policy: rule.retry.as_ref().map(retry),
        host_rewrite_specifier: filters.host.clone().map(HostRewriteSpecifier::HostRewriteLiteral),
        ..pb::RouteAction::default()
    };
    match filters
        .path
        .as_ref()
        .and_then(|change| rewrite(change, &route.matches.path))
    {
        Some(Rewrite::Prefix(text)) => action.prefix_rewrite = text,
        Some(Rewrite::Regex(rewrite)) => action.regex_rewrite = Some(rewrite),
        None => {}
    }
    action
}

fn share(share: &Share) -> pb::weighted_cluster::ClusterWeight {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let filters = &share.filters;
    pb::weighted_cluster::ClusterWeight {
        name: share
            .cluster
            .as_ref()
            .map_or_else(|| INVALID.to_owned(), Arc::<str>::to_string),
        weight: Some(number(share.weight)),
        request_headers_to_add: added(&filters.request_headers),
        request_headers_to_remove: filters.request_headers.remove.clone(),
        response_headers_to_add: added(&filters.response_headers),
        response_headers_to_remove: filters.response_headers.remove.clone(),
        host_rewrite_specifier: filters.host.clone().map(HostRewriteSpecifier::HostRewriteLiteral),
        ..pb::weighted_cluster::ClusterWeight::default()
    }
}

fn added(changes: &HeaderChanges) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction;
    let set = changes
        .set
        .iter()
        .map(|header| (header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = changes
        .add
        .iter()
        .map(|header| (header, HeaderAppendAction::AppendIfExistsOrAdd));
    let option = |((key, value), action): (&(String, String), HeaderAppendAction)| core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: key.clone(),
            value: value.clone(),
            ..core::HeaderValue::default()
        }),
        append_action: action.into(),
        keep_empty_value: true,
        ..core::HeaderValueOption::default()
    };
    set.chain(add).map(option).collect()
}

enum Rewrite {
    Prefix(String),
    Regex(matcher::RegexMatchAndSubstitute),
}

/// What becomes of the path; a prefix can only be replaced where one was matched.
fn rewrite(change: &PathChange, matched: &Path) -> Option<Rewrite> {
    let substitute = |pattern: String, text: &str| {
        Rewrite::Regex(matcher::RegexMatchAndSubstitute {
            pattern: Some(regex(&pattern)),
            substitution: text.replace('\\', "\\\\"),
        })
    };
    match (change, matched) {
        (PathChange::Full(path), _) => Some(substitute("^/.*$".to_owned(), path)),
        // Without its slash the rest would be glued to it.
        (PathChange::Prefix(to), Path::Prefix(from)) if from.is_empty() => Some(Rewrite::Prefix(format!("{to}/"))),
        // With a slash there would be two before the rest.
        (PathChange::Prefix(to), Path::Prefix(from)) if to.is_empty() => {
            Some(substitute(format!("^{}/*", quote(from)), "/"))
        }
        (PathChange::Prefix(to), Path::Prefix(_)) => Some(Rewrite::Prefix(to.clone())),
        (PathChange::Prefix(_), Path::Exact(_) | Path::Start(_) | Path::Regex(_)) => None,
    }
}

fn redirect(table: &RouteTable, matched: &Match, wanted: &Redirect) -> pb::RedirectAction {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let code = match wanted.status {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    let path = wanted.path.as_ref().and_then(|change| match change {
        PathChange::Full(path) => Some(PathRewriteSpecifier::PathRedirect(path.clone())),
        PathChange::Prefix(_) => Some(match rewrite(change, &matched.path)? {
            Rewrite::Prefix(text) => PathRewriteSpecifier::PrefixRewrite(text),
            Rewrite::Regex(rewrite) => PathRewriteSpecifier::RegexRewrite(rewrite),
        }),
    });
    pb::RedirectAction {
        host_redirect: wanted.host.clone().unwrap_or_default(),
        port_redirect: port(table, wanted).map_or(0, Into::into),
        response_code: code.into(),
        scheme_rewrite_specifier: wanted.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path,
        ..pb::RedirectAction::default()
    }
}

/// The port that the client is to use, where the request's would be another one.
fn port(table: &RouteTable, wanted: &Redirect) -> Option<u16> {
    let own = if table.is_tls { "https" } else { "http" };
    let default = |scheme: &str| if scheme == "https" { 443 } else { 80 };
    let listener = table.port.get();
    let is_default = |port: u16, scheme: &str| port == default(scheme);
    match (wanted.port.map(NonZeroU16::get), wanted.scheme.as_deref()) {
        (Some(port), scheme) if is_default(port, scheme.unwrap_or(own)) && is_default(listener, own) => None,
        (Some(port), _) => Some(port),
        (None, Some(_)) if is_default(listener, own) => None,
        (None, Some(scheme)) => Some(default(scheme)),
        (None, None) if is_default(listener, own) => None,
        (None, None) => Some(listener),
    }
}

fn retry(wanted: &Retry) -> pb::RetryPolicy {
    let back_off = wanted.back_off.map(|least| pb::retry_policy::RetryBackOff {
        base_interval: Some(duration(least.max(Duration::from_millis(1)))),
        max_interval: Some(duration(least.max(Duration::from_millis(1)).saturating_mul(10))),
    });
    pb::RetryPolicy {
        retry_on: wanted.on.clone(),
        num_retries: Some(number(wanted.attempts)),
        per_try_timeout: wanted.per_try.map(duration),
        retriable_status_codes: wanted.codes.clone(),
        retry_back_off: back_off,
        ..pb::RetryPolicy::default()
    }
}

fn cors(wanted: &Cors) -> CorsPolicy {
    let origin = |origin: &Origin| match origin {
        Origin::Any => string(&Text::Regex(".*".to_owned())),
        Origin::Exact(text) => exact(text),
        Origin::Between(before, after) => string(&Text::Regex(format!(
            "{}[0-9A-Za-z.:-]+{}",
            quote(before),
            quote(after)
        ))),
    };
    CorsPolicy {
        allow_origin_string_match: wanted.origins.iter().map(origin).collect(),
        allow_methods: wanted.methods.clone(),
        allow_headers: wanted.headers.clone(),
        expose_headers: wanted.exposed.clone(),
        max_age: wanted.max_age.to_string(),
        allow_credentials: Some(BoolValue {
            value: wanted.credentials,
        }),
        forward_not_matching_preflights: Some(BoolValue { value: false }),
        ..CorsPolicy::default()
    }
}
