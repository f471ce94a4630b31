//! YAML text with any number of documents, as objects.
//!
//! One bad document costs itself only. Must not know: files and directories.

use serde_json::Value;

use super::lines::line_of;
use crate::object::{Malformed, Unreadable, decode};
use crate::store::Seen;

/// Most documents of one text; those behind are not read.
const MAX_DOCUMENTS: usize = 100_000;

/// One document: where it starts, and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// Counted from 1.
    pub number: usize,
    /// Line of its first character, from 1.
    pub line: usize,
    /// Without the marks around it.
    pub text: &'a str,
}

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The document, counted from 1.
    pub document: usize,
    /// Line of the text, from 1.
    pub line: Option<usize>,
    /// The field; empty when the document as a whole is meant.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// An object, and the document that it is in.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The document, counted from 1.
    pub document: usize,
    /// The object, read or not.
    pub seen: Seen,
}

/// What a text says.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// Its objects, in their order.
    pub entries: Vec<Entry>,
    /// What could not be read, or is of no use.
    pub faults: Vec<Fault>,
    /// Whether there may be objects in it that nobody can make out.
    pub is_incomplete: bool,
}

/// Reads a text. `adjust` sees each document before it is read as an object.
#[must_use]
pub fn read(text: &str, mut adjust: impl FnMut(&mut Value)) -> Manifest {
    let mut manifest = Manifest::default();
    for document in documents(text) {
        take_all(&mut manifest, document, &mut adjust);
    }
    manifest
}

/// Reads one document of a text.
#[must_use]
pub fn read_document(document: Document<'_>) -> Manifest {
    let mut manifest = Manifest::default();
    take_all(&mut manifest, document, &mut |_| {});
    manifest
}

fn take_all(manifest: &mut Manifest, document: Document<'_>, adjust: &mut impl FnMut(&mut Value)) {
    let values = match serde_saphyr::from_str::<Value>(document.text) {
        Ok(Value::Null) => return,
        Ok(value) => unfold(value),
        Err(error) => {
            let line = error
                .location()
                .and_then(|location| usize::try_from(location.line()).ok());
            manifest.is_incomplete = true;
            manifest.faults.push(Fault {
                document: document.number,
                line: Some(document.line + line.unwrap_or(1).saturating_sub(1)),
                field: String::new(),
                reason: format!("not valid YAML: {}", first_line(&error.to_string())),
            });
            return;
        }
    };
    for mut value in values {
        adjust(&mut value);
        take(manifest, document, value);
    }
}

fn take(manifest: &mut Manifest, document: Document<'_>, value: Value) {
    let fault = |field: &str, reason: String| Fault {
        document: document.number,
        line: place(document, field),
        field: field.to_owned(),
        reason,
    };
    let seen = match decode(value) {
        Ok(object) => Ok(object),
        Err(Unreadable::Malformed(malformed)) => {
            let Malformed { field, reason, .. } = &malformed;
            manifest.faults.push(fault(field, reason.clone()));
            Err(malformed)
        }
        Err(Unreadable::Nameless { field, reason }) => {
            manifest.is_incomplete = true;
            manifest.faults.push(fault(field, reason));
            return;
        }
        Err(error @ Unreadable::Foreign { .. }) => {
            manifest.faults.push(fault("kind", error.to_string()));
            return;
        }
    };
    manifest.entries.push(Entry {
        document: document.number,
        seen,
    });
}

/// Line of the text on which a field of a document is.
#[must_use]
pub fn place(document: Document<'_>, field: &str) -> Option<usize> {
    line_of(document.text, field).map(|line| document.line + line - 1)
}

/// The documents of a text. A line that starts with `---` ends one wherever it is (YAML 1.2.2 §9.1), so that a mistake in one does not
/// hide the next.
pub fn documents(text: &str) -> impl Iterator<Item = Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut starts = vec![(1, 0, 0)];
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let end = offset + line.len();
        let mark = line.trim_end();
        if mark == "---" || mark.starts_with("--- ") {
            // What follows the mark on its line belongs to the document.
            let skipped = if mark == "---" { line.len() } else { "---".len() };
            let line = if mark == "---" { index + 2 } else { index + 1 };
            starts.push((line, offset + skipped, offset));
        }
        offset = end;
    }
    let ends: Vec<usize> = starts
        .iter()
        .skip(1)
        .map(|(_, _, mark)| *mark)
        .chain([text.len()])
        .collect();
    let parts = starts.into_iter().zip(ends);
    let parts = parts.map(move |((line, start, _), end)| (line, text.get(start..end).unwrap_or_default()));
    let filled = parts.filter(|(_, text)| {
        text.lines()
            .any(|line| !line.trim().is_empty() && !line.starts_with('#'))
    });
    filled
        .take(MAX_DOCUMENTS)
        .enumerate()
        .map(|(index, (line, text))| Document {
            number: index + 1,
            line,
            text,
        })
}

/// A List is the objects in it.
fn unfold(mut value: Value) -> Vec<Value> {
    let is_list = value
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => items,
        Some(items) => {
            if let Some(object) = value.as_object_mut() {
                object.insert("items".to_owned(), items);
            }
            vec![value]
        }
        None => vec![value],
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "apiVersion: kubelb.k8c.io/v1alpha1\nkind: Tenant\nmetadata:\n  name: ";

    #[test]
    fn one_bad_document_costs_itself_only() {
        let text = format!(
            "# first\n{TENANT}a\n---\nkind: [\n---\n{TENANT}b\nspec:\n  loadBalancer:\n    disable: maybe\n---\n\n---\n{TENANT}c\n"
        );
        let manifest = read(&text, |_| {});
        let names: Vec<String> = manifest
            .entries
            .iter()
            .map(|entry| match &entry.seen {
                Ok(object) => object.key().to_string(),
                Err(malformed) => format!("{} malformed", malformed.key),
            })
            .collect();
        assert_eq!(names, ["Tenant a", "Tenant b malformed", "Tenant c"]);
        let places: Vec<(usize, Option<usize>)> = manifest
            .faults
            .iter()
            .map(|fault| (fault.document, fault.line))
            .collect();
        assert_eq!(places[0].0, 2);
        assert_eq!(places[1], (3, Some(15)), "{:?}", manifest.faults);
        assert!(manifest.is_incomplete);
    }

    #[test]
    fn a_list_is_its_items() {
        let text = format!(
            "apiVersion: v1\nkind: List\nitems:\n- {}a\n",
            TENANT.replace('\n', "\n  ")
        );
        let manifest = read(&text, |_| {});
        assert_eq!(
            (manifest.entries.len(), manifest.faults.len()),
            (1, 0),
            "{:?}",
            manifest.faults
        );
    }
}
