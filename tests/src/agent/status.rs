//! What `kubelb-agent status --output json` says, by the names that the documentation gives its fields.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::Value;

/// A status report. Displays as indented JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Status(Value);

impl Status {
    /// Reads the report's text.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        serde_json::from_str(text)
            .map(Self)
            .with_context(|| format!("the status is no JSON: {text}"))
    }

    /// The value at a JSON pointer (RFC 6901).
    #[must_use]
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    /// How an interface is attached, and why.
    ///
    /// # Errors
    /// When it isn't.
    pub fn mode(&self, interface: &str) -> anyhow::Result<(&str, &str)> {
        let found = self.find("interfaces", |candidate| text(candidate, "name") == Some(interface));
        let found = found.with_context(|| format!("interface {interface} is not in the status: {self}"))?;
        Ok((
            text(found, "mode").unwrap_or_default(),
            text(found, "reason").unwrap_or_default(),
        ))
    }

    /// A frontend by name.
    ///
    /// # Errors
    /// When it isn't there.
    pub fn frontend(&self, name: &str) -> anyhow::Result<Frontend<'_>> {
        let found = self.find("frontends", |candidate| text(candidate, "name") == Some(name));
        let found = found.with_context(|| format!("frontend {name} is not in the status: {self}"))?;
        Ok(Frontend(found))
    }

    /// All frontends' names, in the report's order.
    #[must_use]
    pub fn frontend_names(&self) -> Vec<&str> {
        self.list("frontends")
            .filter_map(|frontend| text(frontend, "name"))
            .collect()
    }

    /// Drops, of all frontends and before any frontend was known, by reason; only what did happen.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for holder in std::iter::once(&self.0).chain(self.list("frontends")) {
            for (reason, count) in holder.get("drops").and_then(Value::as_object).into_iter().flatten() {
                *all.entry(reason.clone()).or_insert(0) += count.as_u64().unwrap_or(0);
            }
        }
        all.retain(|_, count| *count > 0);
        all
    }

    fn list(&self, name: &str) -> impl Iterator<Item = &Value> {
        self.0.get(name).and_then(Value::as_array).into_iter().flatten()
    }

    fn find(&self, list: &str, wanted: impl Fn(&Value) -> bool) -> Option<&Value> {
        self.list(list).find(|candidate| wanted(candidate))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// A frontend in a report.
#[derive(Clone, Copy, Debug)]
pub struct Frontend<'a>(&'a Value);

impl Frontend<'_> {
    /// `ok`, `degraded`, `fail-open` or `no-backends`.
    #[must_use]
    pub fn condition(self) -> String {
        text(self.0, "condition").unwrap_or_default().to_owned()
    }

    /// Flows that were opened.
    #[must_use]
    pub fn flows(self) -> u64 {
        number(self.0, "flows_total")
    }

    /// A counter of the frontend itself, by its name in the report.
    #[must_use]
    pub fn counter(self, name: &str) -> u64 {
        number(self.0, name)
    }

    /// Packets dropped for this reason.
    #[must_use]
    pub fn dropped(self, reason: &str) -> u64 {
        self.0.get("drops").map_or(0, |drops| number(drops, reason))
    }

    /// `unknown`, `healthy`, `unhealthy` or `unchecked`, by backend.
    #[must_use]
    pub fn healths(self) -> BTreeMap<SocketAddr, String> {
        self.by_backend(|backend| text(backend, "health").unwrap_or_default().to_owned())
    }

    /// `active` or `draining`, by backend.
    #[must_use]
    pub fn states(self) -> BTreeMap<SocketAddr, String> {
        self.by_backend(|backend| text(backend, "state").unwrap_or_default().to_owned())
    }

    /// Flows that were opened, by backend.
    #[must_use]
    pub fn flows_by_backend(self) -> BTreeMap<SocketAddr, u64> {
        self.by_backend(|backend| number(backend, "flows_total"))
    }

    fn by_backend<T>(self, take: impl Fn(&Value) -> T) -> BTreeMap<SocketAddr, T> {
        let backends = self.0.get("backends").and_then(Value::as_array).into_iter().flatten();
        backends
            .filter_map(|backend| Some((address(backend)?, take(backend))))
            .collect()
    }
}

fn address(backend: &Value) -> Option<SocketAddr> {
    let port = u16::try_from(backend.get("port")?.as_u64()?).ok()?;
    Some(SocketAddr::new(text(backend, "address")?.parse().ok()?, port))
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str()
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}
