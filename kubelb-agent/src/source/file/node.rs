//! Reading typed values out of the tree, with an error for each way it can fail.
//!
//! Owns the field path, the list of errors and the wording for wrong types, unknown, repeated and missing keys. Every
//! reader returns `None` after it has recorded why. Knows no field by name.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::tree::{Entry, Node, Value};
use super::{ConfigError, MAX_ERRORS};

/// Longest piece of the file that a message repeats, in characters.
const MAX_QUOTED: usize = 64;
/// A key this similar to a known one (Jaro-Winkler, 0 to 1) is taken as a slip of the fingers.
const SIMILAR: f64 = 0.75;

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Errors {
    pub(super) list: Vec<ConfigError>,
    pub(super) left_out: usize,
}

impl Errors {
    pub(super) fn push(&mut self, line: usize, field: &Field<'_>, reason: impl Into<String>) {
        if self.list.len() >= MAX_ERRORS {
            self.left_out += 1;
            return;
        }
        self.list.push(ConfigError {
            line: Some(line),
            field: field.to_string(),
            reason: reason.into(),
        });
    }
}

/// Path of a field; a list on the stack, so that the good case allocates nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field<'a> {
    Root,
    Key(&'a Field<'a>, &'a str),
    Index(&'a Field<'a>, usize),
}

impl Field<'_> {
    pub(super) fn key<'a>(&'a self, key: &'a str) -> Field<'a> {
        Field::Key(self, key)
    }

    pub(super) fn index(&self, index: usize) -> Field<'_> {
        Field::Index(self, index)
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Root => Ok(()),
            Field::Key(Field::Root, key) => write!(f, "{}", shown(key)),
            Field::Key(parent, key) => write!(f, "{parent}.{}", shown(key)),
            Field::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Text from the file, safe and short enough for one line of a message.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_QUOTED).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        short.push('…');
    }
    short
}

/// The entries of a map, each key once.
pub(super) struct Map<'n> {
    line: usize,
    entries: BTreeMap<&'n str, &'n Node>,
}

/// Reads a map whose keys are all in `known`.
pub(super) fn map<'n>(node: &'n Node, field: &Field<'_>, known: &[&str], errors: &mut Errors) -> Option<Map<'n>> {
    let Value::Map(list) = &node.value else {
        errors.push(
            node.line,
            field,
            format!(
                "{} where a map is expected; its keys are {}",
                kind(node),
                known.join(", ")
            ),
        );
        return None;
    };
    let mut entries = BTreeMap::new();
    let mut first_lines = BTreeMap::new();
    for Entry { key, line, node } in list {
        if !known.contains(&key.as_str()) {
            errors.push(*line, &field.key(key), unknown(key, known));
        } else if let Some(first) = first_lines.insert(key.as_str(), *line) {
            errors.push(
                *line,
                &field.key(key),
                format!("given twice, first on line {first}; keep one"),
            );
        } else {
            entries.insert(key.as_str(), node);
        }
    }
    Some(Map {
        line: node.line,
        entries,
    })
}

impl<'n> Map<'n> {
    /// The value of a key that may be missing. A key without value is an error: it is more likely a slip than a wish.
    pub(super) fn optional(&self, key: &str, field: &Field<'_>, errors: &mut Errors) -> Option<&'n Node> {
        let node = *self.entries.get(key)?;
        if is_null(node) {
            errors.push(node.line, &field.key(key), "has no value; give one or remove the key");
            return None;
        }
        Some(node)
    }

    /// The value of a key that must be there; `expected` says what to write.
    pub(super) fn required(
        &self,
        key: &str,
        expected: &str,
        field: &Field<'_>,
        errors: &mut Errors,
    ) -> Option<&'n Node> {
        if !self.has(key) {
            errors.push(
                self.line,
                &field.key(key),
                format!("is missing; add `{key}: {expected}`"),
            );
        }
        self.optional(key, field, errors)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Line on which the map starts.
    pub(super) fn line(&self) -> usize {
        self.line
    }
}

/// Reads a list of at most `limit` nodes.
pub(super) fn list<'n>(node: &'n Node, field: &Field<'_>, limit: usize, errors: &mut Errors) -> Option<&'n [Node]> {
    let Value::List(nodes) = &node.value else {
        errors.push(
            node.line,
            field,
            format!("{} where a list is expected; start each element with `- `", kind(node)),
        );
        return None;
    };
    if nodes.len() > limit {
        errors.push(
            node.line,
            field,
            format!("{} elements; at most {limit} are allowed", nodes.len()),
        );
        return None;
    }
    Some(nodes)
}

/// Reads a value that is written in text whatever YAML makes of it (`TCP`, `10.0.0.1`, `5s`).
pub(super) fn word<'n>(node: &'n Node, field: &Field<'_>, expected: &str, errors: &mut Errors) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, .. } if !is_null(node) => Some(text),
        Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
            errors.push(node.line, field, format!("{} where {expected} is expected", kind(node)));
            None
        }
    }
}

/// Reads free text: what YAML takes for a number or a truth value wants quotes.
pub(super) fn text<'n>(node: &'n Node, field: &Field<'_>, errors: &mut Errors) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, plain: true } if is_number(text) || is_bool(text) => {
            let kind = kind(node);
            errors.push(
                node.line,
                field,
                format!("{kind} where text is expected; write it as \"{}\"", shown(text)),
            );
            None
        }
        Value::Scalar { .. } | Value::List(_) | Value::Map(_) => word(node, field, "text", errors),
    }
}

/// Reads a whole number from `min` to `max`; `what` names it in the error (`a port`).
pub(super) fn number(
    node: &Node,
    field: &Field<'_>,
    what: &str,
    (min, max): (u32, u32),
    errors: &mut Errors,
) -> Option<u32> {
    let Value::Scalar { text, plain } = &node.value else {
        errors.push(
            node.line,
            field,
            format!("{} where a number from {min} to {max} is expected", kind(node)),
        );
        return None;
    };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let reason = if digits && !plain {
        format!(
            "\"{}\" is text where a number is expected; remove the quotes",
            shown(text)
        )
    } else if let Some(number) = text
        .parse::<u32>()
        .ok()
        .filter(|number| digits && (min..=max).contains(number))
    {
        return Some(number);
    } else {
        format!("{} is not {what}; use {min} to {max}", shown_or_empty(text))
    };
    errors.push(node.line, field, reason);
    None
}

/// Reads a length of time such as `5s`, `1m30s` or `500ms`, from `min` to `max`.
pub(super) fn duration(
    node: &Node,
    field: &Field<'_>,
    (min, max): (Duration, Duration),
    errors: &mut Errors,
) -> Option<Duration> {
    let text = word(node, field, "a length of time such as 5s", errors)?;
    let range = || format!("use {} to {}", format_duration(min), format_duration(max));
    let reason = match parse_duration(text) {
        Some(duration) if (min..=max).contains(&duration) => return Some(duration),
        Some(duration) if duration < min => format!("{} is too short; {}", shown(text), range()),
        Some(_) => format!("{} is too long; {}", shown(text), range()),
        None if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{0} has no unit; write {0}s or {0}ms", shown(text))
        }
        None => format!(
            "{} is not a length of time; write it like 5s, 1m30s or 500ms",
            shown_or_empty(text)
        ),
    };
    errors.push(node.line, field, reason);
    None
}

/// Numbers with the units h, m, s, ms, largest first, each at most once.
fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (digits, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let (_, millis) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(digits.parse::<u64>().ok()?.checked_mul(*millis)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// Writes a duration the way it is read, to the millisecond.
pub(super) fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= millis {
            text.push_str(&format!("{}{unit}", rest / millis));
            rest %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn unknown(key: &str, known: &[&str]) -> String {
    let best = known
        .iter()
        .map(|name| (strsim::jaro_winkler(&key.to_lowercase(), &name.to_lowercase()), name));
    match best
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
    {
        Some((_, name)) => format!("is not a known key; did you mean {name}?"),
        None => format!("is not a known key; use {}", known.join(", ")),
    }
}

fn shown_or_empty(text: &str) -> String {
    if text.is_empty() {
        "an empty text".to_owned()
    } else {
        shown(text)
    }
}

fn kind(node: &Node) -> String {
    match &node.value {
        _ if is_null(node) => "nothing".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
        Value::Scalar { text, plain: true } if is_number(text) => format!("the number {}", shown(text)),
        Value::Scalar { text, plain: true } if is_bool(text) => format!("the truth value {}", shown(text)),
        Value::Scalar { text, .. } => format!("the text \"{}\"", shown(text)),
    }
}

/// YAML 1.2.2 §10.3.2, core schema.
fn is_null(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
}

fn is_bool(text: &str) -> bool {
    matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = |prefix: &str, radix: u32| {
        text.strip_prefix(prefix)
            .is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)))
    };
    let decimal = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && unsigned.parse::<f64>().is_ok();
    decimal
        || radix("0x", 16)
        || radix("0o", 8)
        || matches!(unsigned, ".inf" | ".Inf" | ".INF")
        || matches!(text, ".nan" | ".NaN" | ".NAN")
}
