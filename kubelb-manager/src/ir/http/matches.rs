//! Which requests a rule is for, and which of two rules comes first.
//!
//! The order is Gateway API's: exact path, regular expression, longest prefix, method, number of headers, number of query parameters, age, name.

use std::cmp::Reverse;

use jiff::Timestamp;
use kubelb_api::gateway_api::{GrpcMatch, HttpMatch, NamedMatch};

use super::{Match, Path, Text, regex, text};

/// What comes first in a table; the least of all does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    path: Reverse<(u8, usize, usize)>,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    age: (bool, Option<Timestamp>),
    /// Namespace and name of the route, and place of the rule, of the match and of its share.
    place: (String, String, usize, usize, usize),
}

impl Order {
    pub(super) fn new(
        matches: &Match,
        specific: (u8, usize, usize),
        age: (bool, Option<Timestamp>),
        place: (String, String, usize, usize, usize),
    ) -> Self {
        Self {
            path: Reverse(specific),
            method: Reverse(matches.method.is_some()),
            headers: Reverse(matches.headers.len()),
            query: Reverse(matches.query.len()),
            age,
            place,
        }
    }
}

/// A match, and how specific its path is: kind and lengths.
pub(super) type Read = Result<(Match, (u8, usize, usize)), String>;

const PREFIX: u8 = 1;
const REGEX: u8 = 2;
const EXACT: u8 = 3;

/// Reads one of an HTTPRoute.
pub(super) fn http(wanted: &HttpMatch) -> Read {
    let value = wanted
        .path
        .as_ref()
        .and_then(|path| path.value.as_deref())
        .unwrap_or("/");
    let kind = wanted.path.as_ref().and_then(|path| path.type_.as_deref());
    let (path, specific) = match kind.unwrap_or("PathPrefix") {
        "Exact" => (Path::Exact(checked_path(value)?), (EXACT, value.len(), 0)),
        "PathPrefix" => {
            let prefix = checked_path(value)?.trim_end_matches('/').to_owned();
            let length = prefix.len();
            (Path::Prefix(prefix), (PREFIX, length, 0))
        }
        "RegularExpression" => {
            regex::check(value).map_err(|why| format!("path.value {why}"))?;
            (Path::Regex(value.to_owned()), (REGEX, value.len(), 0))
        }
        other => return Err(format!("path.type {other:?} is not known")),
    };
    let method = wanted.method.as_deref().map(|method| {
        let is_method = text::is_token(method) && method.len() <= 32;
        is_method
            .then(|| method.to_owned())
            .ok_or_else(|| format!("method {method:?} is none"))
    });
    let matches = Match {
        path,
        method: method.transpose()?,
        headers: headers(&wanted.headers)?,
        query: query(&wanted.query_params)?,
        grpc: false,
    };
    Ok((matches, specific))
}

/// Reads one of a GRPCRoute.
pub(super) fn grpc(wanted: &GrpcMatch) -> Read {
    let method = wanted.method.clone().unwrap_or_default();
    let is_regex = match method.type_.as_deref().unwrap_or("Exact") {
        "Exact" => false,
        "RegularExpression" => true,
        other => return Err(format!("method.type {other:?} is not known")),
    };
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, name) = (said(&method.service), said(&method.method));
    let lengths = (
        service.as_ref().map_or(0, String::len),
        name.as_ref().map_or(0, String::len),
    );
    let is_name = |text: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        text.len() <= 1_024 && text.bytes().all(is_part)
    };
    if !is_regex && ![&service, &name].into_iter().flatten().all(|text| is_name(text)) {
        return Err("method has a name that is none of gRPC's".to_owned());
    }
    let any = || "[^/]+".to_owned();
    let (path, kind) = match (service, name) {
        (None, None) => (Path::default(), 0),
        (Some(service), Some(name)) if !is_regex => (Path::Exact(format!("/{service}/{name}")), EXACT),
        (Some(service), None) if !is_regex => (Path::Start(format!("/{service}/")), PREFIX),
        (None, Some(name)) if !is_regex => (Path::Regex(format!("/{}/{}", any(), regex::quote(&name))), PREFIX),
        (service, name) => {
            for text in [&service, &name].into_iter().flatten() {
                regex::check(text).map_err(|why| format!("method {why}"))?;
            }
            let group = |text: Option<String>| text.map_or_else(any, |text| format!("(?:{text})"));
            let whole = format!("/{}/{}", group(service), group(name));
            regex::check(&whole).map_err(|why| format!("method {why}"))?;
            (Path::Regex(whole), PREFIX)
        }
    };
    let matches = Match {
        path,
        method: None,
        headers: headers(&wanted.headers)?,
        query: Vec::new(),
        grpc: true,
    };
    Ok((matches, (kind, lengths.0, lengths.1)))
}

fn checked_path(value: &str) -> Result<String, String> {
    let is_path = text::is_path(value);
    is_path
        .then(|| value.to_owned())
        .ok_or_else(|| format!("path.value {value:?} is no path"))
}

/// Of two with the same name, whatever its letters, the first counts.
fn headers(wanted: &[NamedMatch]) -> Result<Vec<(String, Text)>, String> {
    let mut found: Vec<(String, Text)> = Vec::new();
    for one in wanted {
        let mut name = one.name.to_ascii_lowercase();
        if !text::is_token(&name) {
            return Err(format!("headers: {:?} is no name of a header", one.name));
        }
        // Where Envoy has it.
        if name == "host" {
            ":authority".clone_into(&mut name);
        }
        if !found.iter().any(|(known, _)| *known == name) {
            found.push((name, value(one, "headers")?));
        }
    }
    Ok(found)
}

fn query(wanted: &[NamedMatch]) -> Result<Vec<(String, Text)>, String> {
    let mut found: Vec<(String, Text)> = Vec::new();
    for one in wanted {
        let is_name = (1..=256).contains(&one.name.len()) && text::is_header_value(&one.name);
        if !is_name {
            return Err(format!("queryParams: {:?} is no name", one.name));
        }
        if !found.iter().any(|(known, _)| *known == one.name) {
            found.push((one.name.clone(), value(one, "queryParams")?));
        }
    }
    Ok(found)
}

fn value(wanted: &NamedMatch, field: &str) -> Result<Text, String> {
    match wanted.type_.as_deref().unwrap_or("Exact") {
        "Exact" if text::is_header_value(&wanted.value) => Ok(Text::Exact(wanted.value.clone())),
        "Exact" => Err(format!(
            "{field}: the value of {:?} has characters that none has",
            wanted.name
        )),
        "RegularExpression" => {
            regex::check(&wanted.value).map_err(|why| format!("{field}: the value of {:?} {why}", wanted.name))?;
            Ok(Text::Regex(wanted.value.clone()))
        }
        other => Err(format!("{field}: type {other:?} is not known")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn order(wanted: Value) -> Order {
        let (matches, specific) = http(&from_value(wanted).unwrap()).unwrap();
        Order::new(
            &matches,
            specific,
            (true, None),
            (String::new(), String::new(), 0, 0, 0),
        )
    }

    #[test]
    fn the_method_counts_before_headers_and_after_the_path() {
        let path = |kind: &str, value: &str| json!({"type": kind, "value": value});
        let two = json!([{"name": "a", "value": "1"}, {"name": "b", "value": "1"}]);
        let sorted = [
            json!({"path": path("Exact", "/a")}),
            json!({"path": path("RegularExpression", "/a.*")}),
            json!({"path": path("PathPrefix", "/a/b")}),
            json!({"path": path("PathPrefix", "/a"), "method": "GET"}),
            json!({"path": path("PathPrefix", "/a"), "headers": two, "queryParams": two}),
            json!({"path": path("PathPrefix", "/a"), "headers": two}),
            json!({"path": path("PathPrefix", "/a"), "queryParams": two}),
            json!({"method": "GET"}),
            json!({"headers": two}),
            json!({}),
        ];
        let orders: Vec<Order> = sorted.into_iter().map(order).collect();
        assert!(orders.is_sorted(), "{orders:#?}");
        assert!(orders.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_call_is_a_path() {
        let read = |wanted: Value| grpc(&from_value(json!({"method": wanted})).unwrap());
        let path = |wanted: Value| read(wanted).unwrap().0.path;
        assert_eq!(
            path(json!({"service": "a.B", "method": "C"})),
            Path::Exact("/a.B/C".to_owned())
        );
        assert_eq!(path(json!({"service": "a.B"})), Path::Start("/a.B/".to_owned()));
        assert_eq!(path(json!({"method": "C"})), Path::Regex("/[^/]+/C".to_owned()));
        let both = json!({"type": "RegularExpression", "service": "a|b", "method": "C.*"});
        assert_eq!(path(both), Path::Regex("/(?:a|b)/(?:C.*)".to_owned()));
        assert!(read(json!({"service": "a/b"})).is_err());
        assert!(read(json!({"type": "RegularExpression", "service": "("})).is_err());
    }

    #[test]
    fn the_first_of_two_headers_of_one_name_counts() {
        let wanted = json!({"headers": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}, {"name": "Host", "value": "h"}]});
        let (matches, _) = http(&from_value(wanted).unwrap()).unwrap();
        let exact = |name: &str, value: &str| (name.to_owned(), Text::Exact(value.to_owned()));
        assert_eq!(matches.headers, [exact("x-a", "1"), exact(":authority", "h")]);
    }

    #[test]
    fn what_envoy_would_not_take_is_refused() {
        for wanted in [
            json!({"path": {"value": "no-slash"}}),
            json!({"path": {"type": "Later", "value": "/"}}),
            json!({"path": {"type": "RegularExpression", "value": "("}}),
            json!({"method": "A B"}),
            json!({"headers": [{"name": ":path", "value": "/"}]}),
            json!({"headers": [{"name": "a", "value": "\n"}]}),
            json!({"queryParams": [{"name": "", "value": "1"}]}),
        ] {
            assert!(http(&from_value(wanted.clone()).unwrap()).is_err(), "{wanted}");
        }
    }
}
