//! Filters of rules and of single backends.
//!
//! Must not know: how a backend is found; whoever reads a rule says what a mirror's is.

use std::num::NonZeroU16;
use std::sync::Arc;

use kubelb_api::gateway_api as api;

use super::{Cors, Filters, HeaderChanges, Mirror, Origin, PathChange, Redirect, hostname, text};

/// A million: shares are of it.
pub(super) const ALL: u32 = 1_000_000;
/// As the schema has it.
const MAX_HEADERS: usize = 64;

/// Filters, with what they answer themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Read {
    pub(super) filters: Filters,
    pub(super) redirect: Option<Redirect>,
}

/// Why a rule cannot be served as it is: a word as conditions have it, and a sentence.
pub(super) type Refusal = (&'static str, String);

/// Unknown values, and such as Envoy would not take.
pub(super) const UNSUPPORTED: &str = "UnsupportedValue";
const INCOMPATIBLE: &str = "IncompatibleFilters";

/// Reads the filters of a rule or of one backend. `mirror` finds a backend; one that cannot be had gets no copies.
pub(super) fn read(
    wanted: &[api::Filter],
    mirror: &mut dyn FnMut(&api::BackendReference) -> Option<Arc<str>>,
) -> Result<Read, Refusal> {
    let mut read = Read::default();
    for (index, filter) in wanted.iter().enumerate() {
        one(filter, &mut read, mirror).map_err(|(reason, why)| (reason, format!("filters[{index}]: {why}")))?;
    }
    let rewrites = read.filters.host.is_some() || read.filters.path.is_some();
    if read.redirect.is_some() && rewrites {
        let why = "filters: a request is redirected or rewritten, not both".to_owned();
        return Err((INCOMPATIBLE, why));
    }
    Ok(read)
}

fn one(
    filter: &api::Filter,
    read: &mut Read,
    mirror: &mut dyn FnMut(&api::BackendReference) -> Option<Arc<str>>,
) -> Result<(), Refusal> {
    let unsupported = |why: String| (UNSUPPORTED, why);
    let missing = || (UNSUPPORTED, format!("{} has no content", filter.type_));
    match filter.type_.as_str() {
        "RequestHeaderModifier" => {
            let wanted = filter.request_header_modifier.as_ref().ok_or_else(missing)?;
            let host = headers(wanted, &mut read.filters.request_headers).map_err(unsupported)?;
            read.filters.host = host.or(read.filters.host.take());
        }
        "ResponseHeaderModifier" => {
            let wanted = filter.response_header_modifier.as_ref().ok_or_else(missing)?;
            headers(wanted, &mut read.filters.response_headers).map_err(unsupported)?;
        }
        "RequestMirror" => {
            let wanted = filter.request_mirror.as_ref().ok_or_else(missing)?;
            let millionths = fraction(wanted).map_err(unsupported)?;
            if let Some(cluster) = mirror(&wanted.backend_ref).filter(|_| millionths > 0) {
                read.filters.mirrors.push(Mirror { cluster, millionths });
            }
        }
        "RequestRedirect" => {
            let wanted = filter.request_redirect.as_ref().ok_or_else(missing)?;
            read.redirect = Some(redirect(wanted).map_err(unsupported)?);
        }
        "URLRewrite" => {
            let wanted = filter.url_rewrite.as_ref().ok_or_else(missing)?;
            if let Some(host) = &wanted.hostname {
                read.filters.host = Some(self::host(host).map_err(unsupported)?);
            }
            let path = wanted.path.as_ref().map(path).transpose().map_err(unsupported)?;
            read.filters.path = path.or(read.filters.path.take());
        }
        "CORS" => {
            let wanted = filter.cors.as_ref().ok_or_else(missing)?;
            read.filters.cors = Some(cors(wanted).map_err(unsupported)?);
        }
        "ExtensionRef" => return Err((UNSUPPORTED, "there are no extensions to refer to".to_owned())),
        other => return Err((UNSUPPORTED, format!("the type {other:?} is not known"))),
    }
    Ok(())
}

/// Adds changes; a new host where `Host` is set, which is no header to Envoy.
fn headers(wanted: &api::HeaderModifier, changes: &mut HeaderChanges) -> Result<Option<String>, String> {
    let mut host = None;
    if wanted.set.len() + wanted.add.len() + wanted.remove.len() > 3 * MAX_HEADERS {
        return Err(format!("changes more than {MAX_HEADERS} headers"));
    }
    let checked = |name: &str| {
        let is_header = text::is_token(name);
        is_header
            .then_some(())
            .ok_or_else(|| format!("{name:?} is no name of a header"))
    };
    for (list, is_set) in [(&wanted.set, true), (&wanted.add, false)] {
        for header in list {
            checked(&header.name)?;
            if !text::is_header_value(&header.value) {
                return Err(format!(
                    "the value of {:?} has characters that no header has",
                    header.name
                ));
            }
            if header.name.eq_ignore_ascii_case("host") {
                if !is_set {
                    return Err("Host cannot be added, for there is one; set it".to_owned());
                }
                host = Some(self::host(&header.value)?);
                continue;
            }
            let change = (header.name.clone(), text::format(&header.value));
            if is_set {
                changes.set.push(change);
            } else {
                changes.add.push(change);
            }
        }
    }
    for name in &wanted.remove {
        checked(name)?;
        if name.eq_ignore_ascii_case("host") {
            return Err("Host cannot be removed".to_owned());
        }
        changes.remove.push(name.clone());
    }
    Ok(host)
}

fn host(text: &str) -> Result<String, String> {
    let found = hostname::read(text).filter(|name| !name.starts_with('*'));
    found
        .map(|name| name.to_string())
        .ok_or_else(|| format!("{text:?} is no hostname"))
}

fn fraction(wanted: &api::RequestMirror) -> Result<u32, String> {
    let (above, below) = match (&wanted.percent, &wanted.fraction) {
        (Some(_), Some(_)) => return Err("has percent and fraction; use one".to_owned()),
        (Some(percent), None) => (*percent, 100),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, None) => (1, 1),
    };
    let wrong = || format!("{above} of {below} is no share");
    let above = u64::try_from(above).ok().ok_or_else(wrong)?;
    let below = u64::try_from(below)
        .ok()
        .filter(|below| *below > 0 && above <= *below)
        .ok_or_else(wrong)?;
    above
        .checked_mul(u64::from(ALL))
        .and_then(|millionths| u32::try_from(millionths / below).ok())
        .ok_or_else(wrong)
}

fn path(wanted: &api::PathModifier) -> Result<PathChange, String> {
    let checked = |value: &Option<String>| {
        let value = value.clone().unwrap_or_else(|| "/".to_owned());
        let value = if value.is_empty() { "/".to_owned() } else { value };
        let is_path = text::is_path(&value);
        is_path
            .then(|| value.clone())
            .ok_or_else(|| format!("{value:?} is no path"))
    };
    match wanted.type_.as_str() {
        "ReplaceFullPath" => Ok(PathChange::Full(checked(&wanted.replace_full_path)?)),
        "ReplacePrefixMatch" => {
            let value = checked(&wanted.replace_prefix_match)?;
            Ok(PathChange::Prefix(value.trim_end_matches('/').to_owned()))
        }
        other => Err(format!("path.type {other:?} is not known")),
    }
}

fn redirect(wanted: &api::RequestRedirect) -> Result<Redirect, String> {
    let scheme = wanted.scheme.as_deref().map(|scheme| match scheme {
        "http" | "https" => Ok(scheme.to_owned()),
        other => Err(format!("scheme {other:?} is neither http nor https")),
    });
    let port = wanted.port.map(|port| {
        let port = u16::try_from(port).ok().and_then(NonZeroU16::new);
        port.ok_or_else(|| "port must be 1 to 65535".to_owned())
    });
    let status = match wanted.status_code.unwrap_or(302) {
        301 => 301,
        302 => 302,
        303 => 303,
        307 => 307,
        308 => 308,
        other => return Err(format!("statusCode {other} is none of 301, 302, 303, 307 and 308")),
    };
    Ok(Redirect {
        scheme: scheme.transpose()?,
        host: wanted.hostname.as_deref().map(host).transpose()?,
        port: port.transpose()?,
        path: wanted.path.as_ref().map(path).transpose()?,
        status,
    })
}

fn cors(wanted: &api::Cors) -> Result<Cors, String> {
    if wanted.allow_origins.len() > MAX_HEADERS {
        return Err(format!("has more than {MAX_HEADERS} origins"));
    }
    let list = |names: &[String], field: &str| {
        if names.iter().any(|name| name == "*") {
            return Ok("*".to_owned());
        }
        match names.iter().find(|name| !text::is_token(name)) {
            Some(wrong) => Err(format!("{field}: {wrong:?} is no name")),
            None => Ok(names.join(", ")),
        }
    };
    let origins: Result<Vec<Origin>, String> = wanted.allow_origins.iter().map(|text| origin(text)).collect();
    let max_age = u32::try_from(wanted.max_age.unwrap_or(5)).ok();
    Ok(Cors {
        origins: origins?,
        credentials: wanted.allow_credentials == Some(true),
        methods: list(&wanted.allow_methods, "allowMethods")?,
        headers: list(&wanted.allow_headers, "allowHeaders")?,
        exposed: list(&wanted.expose_headers, "exposeHeaders")?,
        max_age: max_age.ok_or_else(|| "maxAge must be 0 or more".to_owned())?,
    })
}

fn origin(text: &str) -> Result<Origin, String> {
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic()) && (1..=253).contains(&text.len());
    match text.split_once('*') {
        Some(("", "")) => Ok(Origin::Any),
        Some((before, after)) if is_visible && !after.contains('*') => {
            Ok(Origin::Between(before.to_owned(), after.to_owned()))
        }
        None if is_visible => Ok(Origin::Exact(text.to_owned())),
        Some(_) | None => Err(format!("allowOrigins: {text:?} is no origin")),
    }
}
