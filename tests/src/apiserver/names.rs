//! Which names and labels the API takes.

use serde_json::{Value, json};

use super::resource::Resource;
use super::status::Cause;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                         and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
                         validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                     and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SERVICE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                       alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', \
                       regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                           and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or \
                           '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Whether an object of `resource` may have this name; the error says why not.
pub(crate) fn check(resource: &Resource, name: &str) -> Result<(), String> {
    if matches!(
        resource.group.as_str(),
        "rbac.authorization.k8s.io" | "apiregistration.k8s.io"
    ) {
        let path = !matches!(name, "." | "..") && !name.contains(['/', '%']);
        return if path {
            Ok(())
        } else {
            Err("may not contain '/' or '%'".to_owned())
        };
    }
    let (valid, longest, why) = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "services") => (
            is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase()),
            63,
            SERVICE,
        ),
        ("", "namespaces") => (is_label(name), 63, LABEL),
        _ => (name.split('.').all(is_label), 253, SUBDOMAIN),
    };
    if name.len() > longest {
        return Err(format!("must be no more than {longest} bytes"));
    }
    if valid { Ok(()) } else { Err(why.to_owned()) }
}

pub(crate) fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(inner) && text.ends_with(inner) && text.chars().all(|c| inner(c) || c == '-')
}

/// Labels of an object.
pub(crate) fn check_labels(object: &Value, causes: &mut Vec<Cause>) {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        let bare = key.rsplit_once('/').map_or(key.as_str(), |(_, bare)| bare);
        if bare.is_empty() || !is_value(bare) {
            let why = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
                       an alphanumeric character";
            causes.push(Cause::invalid("metadata.labels", &json!(key), why));
        }
        let text = value.as_str().unwrap_or_default();
        if text.len() > 63 {
            causes.push(Cause::invalid(
                "metadata.labels",
                value,
                "must be no more than 63 bytes",
            ));
        } else if !is_value(text) {
            causes.push(Cause::invalid("metadata.labels", value, LABEL_VALUE));
        }
    }
}

pub(crate) fn is_value(text: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    text.is_empty()
        || (text.starts_with(end)
            && text.ends_with(end)
            && text.chars().all(|c| end(c) || matches!(c, '-' | '_' | '.')))
}
