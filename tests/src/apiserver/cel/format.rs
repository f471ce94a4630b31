//! Formats of text in rules, as the API's own library for them has it: `format.dns1123Label().validate(text)`, which gives
//! nothing for good text, and what is wrong with it otherwise.

use std::sync::Arc;

use cel::extractors::This;
use cel::objects::{Opaque, OptionalValue};
use cel::{Context, ExecutionError, Value};

use super::super::names::{is_label, is_value};

/// The variable that the formats belong to.
pub(super) const NAMESPACE: &str = "format";

/// Functions that [`add`] brings.
pub(super) const FUNCTIONS: &[&str] = &[
    "byte",
    "date",
    "datetime",
    "dns1035Label",
    "dns1035LabelPrefix",
    "dns1123Label",
    "dns1123LabelPrefix",
    "dns1123Subdomain",
    "dns1123SubdomainPrefix",
    "labelValue",
    "named",
    "qualifiedName",
    "uri",
    "uuid",
    "validate",
];

/// The longest label of a name, and the longest name (bytes).
const LABEL: usize = 63;
const NAME: usize = 253;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Namespace;

impl Opaque for Namespace {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.formats"
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format(&'static str);

impl Opaque for Format {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.NamedFormat"
    }
}

impl Format {
    fn named(name: &str) -> Option<Self> {
        let known = FUNCTIONS
            .iter()
            .filter(|known| !matches!(**known, "named" | "validate"));
        known.copied().find(|known| *known == name).map(Self)
    }

    fn fits(self, text: &str) -> bool {
        let begins_with_letter = text.starts_with(|c: char| c.is_ascii_lowercase());
        match self.0 {
            "dns1123Label" => text.len() <= LABEL && is_label(text),
            "dns1035Label" => text.len() <= LABEL && is_label(text) && begins_with_letter,
            "dns1123Subdomain" => text.len() <= NAME && text.split('.').all(is_label),
            // What a name generated from it would be.
            "dns1123LabelPrefix" => Self("dns1123Label").fits(&completed(text)),
            "dns1035LabelPrefix" => Self("dns1035Label").fits(&completed(text)),
            "dns1123SubdomainPrefix" => Self("dns1123Subdomain").fits(&completed(text)),
            "labelValue" => text.len() <= LABEL && is_value(text),
            "qualifiedName" => match text.split_once('/') {
                Some((prefix, name)) => Self("dns1123Subdomain").fits(prefix) && is_name(name),
                None => is_name(text),
            },
            "uri" => text
                .parse::<hyper::Uri>()
                .is_ok_and(|uri| uri.scheme().is_some() || text.starts_with('/')),
            "uuid" => is_uuid(text),
            "byte" => {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD.decode(text).is_ok()
            }
            "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == "2006-01-02".len(),
            "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
            _ => false,
        }
    }
}

fn completed(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) => format!("{rest}a"),
        None => prefix.to_owned(),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= LABEL && is_value(text)
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// Makes the formats known to a rule. Adding fails only where the language has a function of that name, and it has none.
pub(super) fn add(context: &mut Context<'_, '_>) {
    context.add_variable_from_value(NAMESPACE, Value::Opaque(Arc::new(Namespace)));
    for format in FUNCTIONS.iter().filter_map(|name| Format::named(name)) {
        drop(context.add_function(format.0, move |This(this): This<Value>| {
            opaque::<Namespace>(&this).ok_or_else(|| ExecutionError::function_error(format.0, "no such overload"))?;
            Ok::<Value, ExecutionError>(Value::Opaque(Arc::new(format)))
        }));
    }
    drop(
        context.add_function("named", |This(this): This<Value>, name: Arc<String>| {
            opaque::<Namespace>(&this).ok_or_else(|| ExecutionError::function_error("named", "no such overload"))?;
            Ok::<Value, ExecutionError>(optional(
                Format::named(&name).map(|format| Value::Opaque(Arc::new(format))),
            ))
        }),
    );
    drop(
        context.add_function("validate", |This(this): This<Value>, text: Arc<String>| {
            let format = opaque::<Format>(&this);
            let format = format.ok_or_else(|| ExecutionError::function_error("validate", "no such overload"))?;
            let wrong = (!format.fits(&text)).then(|| {
                let why = format!("must be of format {}", format.0);
                Value::List(Arc::new(vec![Value::String(Arc::new(why))]))
            });
            Ok::<Value, ExecutionError>(optional(wrong))
        }),
    );
}

fn optional(value: Option<Value>) -> Value {
    Value::Opaque(Arc::new(match value {
        Some(value) => OptionalValue::of(value),
        None => OptionalValue::none(),
    }))
}

fn opaque<T: Copy + 'static>(value: &Value) -> Option<T> {
    if let Value::Opaque(opaque) = value {
        opaque.downcast_ref::<T>().copied()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn formats_know_their_texts() {
        let fits = |format: &str, text: &str| Format::named(format).unwrap().fits(text);
        for (format, good, bad) in [
            ("dns1123Label", "web-1", "Web!"),
            ("dns1123Subdomain", "a.b-c", "a..b"),
            ("dns1035Label", "a1", "1a"),
            ("dns1123LabelPrefix", "web-", "-web"),
            ("labelValue", "A_b.c", "-"),
            ("qualifiedName", "example.com/Name", "example.com/"),
            ("uri", "https://a/b", "not a uri"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("byte", "aGk=", "a"),
            ("date", "2026-11-21", "2026-13-01"),
            ("datetime", "2026-11-21T05:00:00Z", "today"),
        ] {
            assert!(fits(format, good), "{format} {good}");
            assert!(!fits(format, bad), "{format} {bad}");
        }
        assert!(Format::named("validate").is_none());
    }
}
