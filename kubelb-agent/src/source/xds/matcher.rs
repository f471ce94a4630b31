//! A UDP proxy's matcher → the cluster that it leads to, and whose datagrams it lets in. Knows matchers by the source address only.

use ipnet::IpNet;
use kubelb_xds::pb::envoy::extensions::filters::udp::udp_proxy::v3::Route;
use kubelb_xds::pb::envoy::extensions::matching::common_inputs::network::v3::SourceIpInput;
use kubelb_xds::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use kubelb_xds::pb::xds::core::v3::TypedExtensionConfig;
use kubelb_xds::pb::xds::r#type::matcher::v3::Matcher;
use kubelb_xds::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, SinglePredicate, single_predicate,
};
use kubelb_xds::pb::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate};
use kubelb_xds::pb::xds::r#type::matcher::v3::matcher::on_match::OnMatch as Action;
use kubelb_xds::pb::xds::r#type::matcher::v3::matcher::{MatcherType, OnMatch};
use prost::{Message, Name};

use super::refusal::{Refusal, nothing_else, refuse};
use super::wire::{self, typed};

const BY_SOURCE: &str =
    "this agent matches by source_ip and lists of networks only, and all that match go to one cluster";

/// The cluster, and the networks whose datagrams go there; `None`: everybody's do.
///
/// # Errors
/// With the first field that is wrong or cannot be done.
pub(super) fn route(mut matcher: Matcher, path: &str) -> Result<(String, Option<Vec<IpNet>>), Refusal> {
    let otherwise = matcher.on_no_match.take();
    let kind = matcher.matcher_type.take();
    nothing_else(path, &matcher)?;
    let otherwise = match otherwise {
        Some(action) => Some(cluster(*action, &format!("{path}.on_no_match"))?),
        None => None,
    };
    let fields = match kind {
        None => Vec::new(),
        Some(MatcherType::MatcherList(list)) => list.matchers,
        Some(MatcherType::MatcherTree(_)) => return refuse(format!("{path}.matcher_tree"), BY_SOURCE),
    };
    let mut clusters: Vec<String> = otherwise.iter().cloned().collect();
    let mut networks = Vec::new();
    for (index, field) in fields.into_iter().enumerate() {
        let path = format!("{path}.matcher_list.matchers[{index}]");
        let (target, ranges) = field_matcher(field, &path)?;
        clusters.push(target);
        networks.extend(ranges);
    }
    clusters.dedup();
    let Ok([target]) = <[String; 1]>::try_from(clusters) else {
        return refuse(path, "must lead to one cluster, whoever sends");
    };
    Ok((target, otherwise.is_none().then_some(networks)))
}

fn field_matcher(field: FieldMatcher, path: &str) -> Result<(String, Vec<IpNet>), Refusal> {
    let Some(action) = field.on_match else {
        return refuse(format!("{path}.on_match"), "is missing; a route to a cluster is needed");
    };
    let target = cluster(action, &format!("{path}.on_match"))?;
    let path = format!("{path}.predicate");
    let singles = match field.predicate {
        Some(Predicate {
            match_type: Some(MatchType::SinglePredicate(single)),
        }) => vec![(single, format!("{path}.single_predicate"))],
        Some(Predicate {
            match_type: Some(MatchType::OrMatcher(any)),
        }) => {
            let one = |(index, predicate): (usize, Predicate)| match predicate.match_type {
                Some(MatchType::SinglePredicate(single)) => {
                    Ok((single, format!("{path}.or_matcher.predicate[{index}].single_predicate")))
                }
                _ => refuse(format!("{path}.or_matcher.predicate[{index}]"), BY_SOURCE),
            };
            any.predicate
                .into_iter()
                .enumerate()
                .map(one)
                .collect::<Result<_, _>>()?
        }
        _ => return refuse(path, BY_SOURCE),
    };
    let mut networks = Vec::new();
    for (single, path) in singles {
        networks.extend(single_predicate(single, &path)?);
    }
    Ok((target, networks))
}

fn single_predicate(single: SinglePredicate, path: &str) -> Result<Vec<IpNet>, Refusal> {
    let _source: SourceIpInput = extension(single.input, &format!("{path}.input"))?;
    let path = format!("{path}.custom_match");
    let Some(single_predicate::Matcher::CustomMatch(custom)) = single.matcher else {
        return refuse(path, BY_SOURCE);
    };
    let ip: Ip = extension(Some(custom), &path)?;
    wire::networks(&format!("{path}.typed_config.cidr_ranges"), &ip.cidr_ranges)
}

fn cluster(action: OnMatch, path: &str) -> Result<String, Refusal> {
    if action.keep_matching {
        return refuse(format!("{path}.keep_matching"), "the first match decides here");
    }
    match action.on_match {
        Some(Action::Action(route)) => {
            extension::<Route>(Some(route), &format!("{path}.action")).map(|route| route.cluster)
        }
        _ => refuse(format!("{path}.action"), "is missing; a route to a cluster is needed"),
    }
}

fn extension<M: Message + Name + Default>(config: Option<TypedExtensionConfig>, path: &str) -> Result<M, Refusal> {
    let path = format!("{path}.typed_config");
    match config.and_then(|config| config.typed_config) {
        Some(any) => typed(&any, &path),
        None => refuse(path, format!("is missing; a {} is needed", M::full_name())),
    }
}
