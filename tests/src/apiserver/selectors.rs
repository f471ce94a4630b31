//! Label and field selectors: parsed from the query, matched against objects.

use serde_json::Value;

use super::object::{items, text};
use super::resource::Resource;
use super::status::ApiError;

/// A label selector; empty matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Exists,
    Absent,
    In(Vec<String>),
    /// Also when the label is absent.
    NotIn(Vec<String>),
}

impl Labels {
    /// `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let mut rest = Tokens(text);
        let mut requirements = Vec::new();
        if rest.peek().is_empty() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(requirement(&mut rest)?);
            match rest.next() {
                "" => return Ok(Self(requirements)),
                "," => {}
                found => return Err(unexpected(found, "',' or 'end of string'")),
            }
        }
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.0.iter().all(|requirement| {
            let value = labels
                .and_then(|labels| labels.get(&requirement.key))
                .and_then(Value::as_str);
            match (&requirement.operator, value) {
                (Operator::Exists, value) => value.is_some(),
                (Operator::Absent, value) => value.is_none(),
                (Operator::In(values), Some(value)) => values.iter().any(|one| one == value),
                (Operator::In(_), None) => false,
                (Operator::NotIn(values), Some(value)) => !values.iter().any(|one| one == value),
                (Operator::NotIn(_), None) => true,
            }
        })
    }
}

/// Whether the labels of `object` fit a selector as objects hold one (`matchLabels`, `matchExpressions`).
pub(crate) fn matches_selector(selector: &Value, object: &Value) -> bool {
    let label = |key: &str| {
        let labels = object.pointer("/metadata/labels");
        labels.and_then(|labels| labels.get(key)).and_then(Value::as_str)
    };
    let equal = selector.get("matchLabels").and_then(Value::as_object);
    let fits = equal
        .into_iter()
        .flatten()
        .all(|(key, value)| label(key).is_some_and(|found| *value == found));
    fits && items(selector, "/matchExpressions").iter().all(|expression| {
        let found = label(text(expression, "/key"));
        let listed = found.is_some_and(|found| items(expression, "/values").iter().any(|value| *value == found));
        match text(expression, "/operator") {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => false,
        }
    })
}

fn unexpected(found: &str, expected: &str) -> ApiError {
    ApiError::bad_request(format!(
        "unable to parse requirement: found '{found}', expected: {expected}"
    ))
}

fn requirement(rest: &mut Tokens<'_>) -> Result<Requirement, ApiError> {
    let absent = rest.peek() == "!";
    if absent {
        rest.next();
    }
    let key = rest.next();
    if key.is_empty() || !is_word(key) {
        return Err(unexpected(key, "identifier"));
    }
    let key = key.to_owned();
    if absent {
        let operator = Operator::Absent;
        return Ok(Requirement { key, operator });
    }
    let operator = match rest.peek() {
        "" | "," => Operator::Exists,
        "=" | "==" => {
            rest.next();
            Operator::In(vec![value(rest)?])
        }
        "!=" => {
            rest.next();
            Operator::NotIn(vec![value(rest)?])
        }
        "in" => {
            rest.next();
            Operator::In(values(rest)?)
        }
        "notin" => {
            rest.next();
            Operator::NotIn(values(rest)?)
        }
        found => return Err(unexpected(found, "in, notin, =, ==, !=, gt, lt")),
    };
    Ok(Requirement { key, operator })
}

fn value(rest: &mut Tokens<'_>) -> Result<String, ApiError> {
    match rest.peek() {
        "" | "," => Ok(String::new()),
        word if is_word(word) => Ok(rest.next().to_owned()),
        found => Err(unexpected(found, "identifier")),
    }
}

fn values(rest: &mut Tokens<'_>) -> Result<Vec<String>, ApiError> {
    let open = rest.next();
    if open != "(" {
        return Err(unexpected(open, "'('"));
    }
    let mut values = Vec::new();
    loop {
        match rest.next() {
            ")" => return Ok(values),
            "," => {}
            word if !word.is_empty() && is_word(word) => values.push(word.to_owned()),
            found => return Err(unexpected(found, "',', ')' or identifier")),
        }
    }
}

fn is_word(token: &str) -> bool {
    token
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
}

struct Tokens<'a>(&'a str);

impl<'a> Tokens<'a> {
    fn split(&self) -> (&'a str, &'a str) {
        let text = self.0.trim_start();
        for symbol in ["==", "!=", "=", "!", "(", ")", ","] {
            if text.starts_with(symbol) {
                return text.split_at(symbol.len());
            }
        }
        let end = text
            .find(|c: char| c.is_whitespace() || "=!(),".contains(c))
            .unwrap_or(text.len());
        text.split_at(end)
    }

    fn peek(&self) -> &'a str {
        self.split().0
    }

    fn next(&mut self) -> &'a str {
        let (token, rest) = self.split();
        self.0 = rest;
        token
    }
}

/// A field selector: (path, value, must be equal).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(Vec<(String, String, bool)>);

impl Fields {
    /// `metadata.name=a,status.phase!=Running`.
    ///
    /// # Errors
    /// When it is none, or `resource` can't be selected by a field of it.
    pub(crate) fn parse(text: &str, resource: &Resource) -> Result<Self, ApiError> {
        let mut fields = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, value, true)
            } else {
                let message = format!("invalid selector: '{text}'; can't understand '{part}'");
                return Err(ApiError::bad_request(message));
            };
            let known = selectable(resource);
            if !known.iter().any(|one| one == path) {
                let known: Vec<String> = known.iter().map(|one| format!("\"{one}\"")).collect();
                let message = format!("\"{path}\" is not a known field selector: only {}", known.join(", "));
                return Err(ApiError::bad_request(message));
            }
            fields.push((path.to_owned(), value.to_owned(), equal));
        }
        Ok(Self(fields))
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, wanted, equal)| {
            let found = object.pointer(&format!("/{}", path.replace('.', "/")));
            let found = match found {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            (found == *wanted) == *equal
        })
    }

    /// The name that the object must have.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0
            .iter()
            .find(|(path, _, equal)| *equal && path == "metadata.name")
            .map(|(_, value, _)| value.as_str())
    }
}

fn selectable(resource: &Resource) -> Vec<String> {
    let more: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("" | "events.k8s.io", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("", "namespaces") => &["status.phase"],
        ("", "secrets") => &["type"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("", "nodes") => &["spec.unschedulable"],
        ("batch", "jobs") => &["status.successful"],
        ("apps", "replicasets") => &["status.replicas"],
        _ => &[],
    };
    let custom = resource
        .custom
        .iter()
        .flat_map(|custom| custom.selectable.iter().cloned());
    let mut known = vec!["metadata.name".to_owned(), "metadata.namespace".to_owned()];
    known.extend(more.iter().map(|path| (*path).to_owned()));
    known.extend(custom);
    known
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_of_objects_match_by_value_and_by_expression() {
        let pod = json!({"metadata": {"labels": {"app": "a"}}});
        let matches = |selector: Value| matches_selector(&selector, &pod);
        assert!(matches(json!({})) && matches(json!({"matchLabels": {"app": "a"}})));
        assert!(!matches(json!({"matchLabels": {"app": "a", "tier": "x"}})));
        let by = |key: &str, operator: &str| {
            matches(json!({"matchExpressions": [{"key": key, "operator": operator, "values": ["a"]}]}))
        };
        assert!(by("app", "In") && !by("app", "NotIn") && by("app", "Exists") && by("tier", "DoesNotExist"));
    }

    #[test]
    fn labels_match_by_value_set_and_presence() {
        let object = json!({"metadata": {"labels": {"app": "a", "tier": "x"}}});
        for (selector, matches) in [
            ("", true),
            ("app=a", true),
            ("app==b", false),
            ("app in (a,b),tier!=y", true),
            ("app notin (a)", false),
            ("other notin (a)", true),
            ("tier", true),
            ("!tier", false),
            ("app=a,other", false),
        ] {
            assert_eq!(Labels::parse(selector).unwrap().matches(&object), matches, "{selector}");
        }
        assert!(
            Labels::parse("!!")
                .unwrap_err()
                .message
                .ends_with("found '!', expected: identifier")
        );
        assert!(Labels::parse("a b").is_err());
    }
}
