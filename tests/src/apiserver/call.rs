//! A request, taken apart: what it is about, what it asks for, and in which form it wants the answer.

use std::sync::Arc;

use hyper::body::Bytes;

use super::identity::User;
use super::rbac::Attributes;
use super::resource::{Registry, Resource};
use super::status::ApiError;

/// The parameters of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (unescape(key), unescape(value))
                })
                .collect(),
        )
    }

    /// Empty when absent.
    pub(crate) fn get(&self, key: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// Every value of a parameter that may come more than once.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// As it goes into a URL.
    pub(crate) fn encoded(&self) -> String {
        let pairs = self.0.iter();
        let pairs: Vec<String> = pairs
            .map(|(key, value)| format!("{}={}", escape(key), escape(value)))
            .collect();
        pairs.join("&")
    }

    pub(crate) fn is_true(&self, key: &str) -> bool {
        matches!(self.get(key), "true" | "1")
    }
}

/// `%2F` and `+`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                let value = std::str::from_utf8(&hex)
                    .ok()
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok());
                bytes.push(value.unwrap_or(b'%'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// For a query: everything but letters, digits and a few marks.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Full,
    Table,
    Metadata,
}

/// Everything that a request said beside its path.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// In capitals.
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Query,
    pub(crate) accept: String,
    pub(crate) content_type: String,
    pub(crate) user_agent: String,
    pub(crate) if_none_match: String,
    pub(crate) user: User,
    pub(crate) body: Bytes,
}

impl Request {
    /// The first form of `Accept` that can be served.
    pub(crate) fn form(&self) -> Form {
        for part in self.accept.split(',') {
            let mut parameters = part.split(';').map(str::trim);
            if !matches!(parameters.next(), Some("application/json" | "*/*" | "")) {
                continue;
            }
            let form = parameters.find_map(|parameter| parameter.strip_prefix("as="));
            return match form {
                Some("Table") => Form::Table,
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Form::Metadata,
                _ => Form::Full,
            };
        }
        Form::Full
    }

    /// Content type without parameters.
    pub(crate) fn media_type(&self) -> &str {
        self.content_type.split(';').next().unwrap_or_default().trim()
    }

    /// Who owns the fields that this request writes.
    pub(crate) fn manager(&self) -> String {
        match self.query.get("fieldManager") {
            "" => {
                let agent = self.user_agent.split('/').next().unwrap_or_default();
                if agent.is_empty() {
                    "unknown".to_owned()
                } else {
                    agent.to_owned()
                }
            }
            manager => manager.to_owned(),
        }
    }

    /// # Errors
    /// When `dryRun` has a value that there is not.
    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.query.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(ApiError::bad_request(format!("invalid dryRun value \"{other}\""))),
        }
    }
}

/// What a path is about.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    /// Empty at the cluster's scope or for all namespaces.
    pub(crate) namespace: String,
    /// Empty for the collection.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    /// `get`, `list`, …
    pub(crate) verb: &'static str,
}

impl Target {
    /// Reads a path under `/api/v1` or `/apis/<group>/<version>`.
    ///
    /// # Errors
    /// When nothing is served there, or not by this method.
    pub(crate) fn of(request: &Request, registry: &Registry) -> Result<Self, ApiError> {
        let mut parts: Vec<&str> = request.path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version) = match parts.as_slice() {
            ["api", version, ..] => ("", *version),
            ["apis", group, version, ..] => (*group, *version),
            _ => return Err(ApiError::no_such_path()),
        };
        parts.drain(..if group.is_empty() { 2 } else { 3 });
        let mut namespace = "";
        let own = ["status", "finalize"];
        if let ["namespaces", of, third, ..] = parts.as_slice()
            && !(group.is_empty() && own.contains(third))
        {
            namespace = of;
            parts.drain(..2);
        }
        let (plural, name, subresource) = match parts.as_slice() {
            [plural] => (*plural, "", String::new()),
            [plural, name] => (*plural, *name, String::new()),
            [plural, name, rest @ ..] => (*plural, *name, rest.join("/")),
            [] => return Err(ApiError::no_such_path()),
        };
        let resource = registry
            .get(group, version, plural)
            .ok_or_else(ApiError::no_such_path)?;
        // What comes after `proxy` is another server's path.
        let subresource = match subresource.split_once('/') {
            Some(("proxy", _)) => "proxy".to_owned(),
            _ => subresource,
        };
        if (!subresource.is_empty() && resource.subresource(&subresource).is_none())
            || (!resource.namespaced && !namespace.is_empty())
        {
            return Err(ApiError::no_such_path());
        }
        let target = Self {
            verb: verb(request, name, &subresource)?,
            resource: Arc::clone(resource),
            namespace: unescape(namespace),
            name: unescape(name),
            subresource,
        };
        if target.resource.namespaced && target.namespace.is_empty() && !target.name.is_empty() {
            return Err(ApiError::no_such_path());
        }
        Ok(target)
    }

    pub(crate) fn attributes(&self) -> Attributes {
        // What happens to a Namespace counts as inside it.
        let inside = self.resource.is("", "namespaces") && !self.name.is_empty();
        Attributes {
            verb: self.verb.to_owned(),
            group: self.resource.group.clone(),
            resource: self.resource.plural.clone(),
            subresource: self.subresource.clone(),
            namespace: if inside {
                self.name.clone()
            } else {
                self.namespace.clone()
            },
            name: self.name.clone(),
            path: None,
        }
    }
}

fn verb(request: &Request, name: &str, subresource: &str) -> Result<&'static str, ApiError> {
    Ok(match (request.method.as_str(), name.is_empty()) {
        ("GET" | "HEAD", true) if request.query.is_true("watch") => "watch",
        ("GET" | "HEAD", true) => "list",
        ("GET" | "HEAD", false) if subresource.is_empty() && request.query.is_true("watch") => "watch",
        ("GET" | "HEAD", false) => "get",
        ("POST", _) => "create",
        ("PUT", false) => "update",
        ("PATCH", false) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        _ => return Err(ApiError::method_not_allowed()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_unescaped() {
        let query = Query::parse("labelSelector=app+in+(a%2Cb)&watch=true&flag");
        assert_eq!(query.get("labelSelector"), "app in (a,b)");
        assert!(query.is_true("watch"));
        assert_eq!(query.get("none"), "");
    }

    fn target(method: &str, path: &str) -> Result<Target, ApiError> {
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: Query::default(),
            accept: String::new(),
            content_type: String::new(),
            user_agent: String::new(),
            if_none_match: String::new(),
            user: User::anonymous(),
            body: Bytes::new(),
        };
        Target::of(
            &request,
            &Registry::builtin(Arc::new(super::super::schema::Definitions::builtin())),
        )
    }

    #[test]
    fn paths_name_resources_namespaces_names_and_subresources() {
        let status = target("PATCH", "/api/v1/namespaces/n/services/s/status").unwrap();
        assert_eq!((status.namespace.as_str(), status.name.as_str()), ("n", "s"));
        assert_eq!((status.subresource.as_str(), status.verb), ("status", "patch"));
        let namespace = target("PUT", "/api/v1/namespaces/n/finalize").unwrap();
        assert_eq!(
            (namespace.resource.kind.as_str(), namespace.name.as_str()),
            ("Namespace", "n")
        );
        assert_eq!(target("GET", "/api/v1/pods").unwrap().verb, "list");
        assert_eq!(
            target("DELETE", "/apis/apps/v1/namespaces/n/deployments").unwrap().verb,
            "deletecollection"
        );
        for nowhere in [
            "/api/v1/namespaces/n/widgets/w",
            "/api/v1/namespaces/n/nodes",
            "/apis/x/v1/y",
            "/api/v1/pods/p",
        ] {
            assert_eq!(target("GET", nowhere).unwrap_err().code, 404, "{nowhere}");
        }
    }
}
