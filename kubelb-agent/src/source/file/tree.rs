//! YAML text as a tree whose every node knows its line.
//!
//! Owns the subset of YAML that a configuration may use: one document, no anchors, aliases or tags (so that nothing can
//! expand), text keys, bounded depth. Knows nothing of the schema.

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::node::{Errors, Field};

/// Deepest nesting; the schema needs five.
const MAX_DEPTH: usize = 16;

/// A value and where it starts.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Line, from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Scalar {
        text: String,
        /// Not in quotes: may stand for a number, a truth value or nothing.
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value; keys may repeat here.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Line of the key, from 1.
    pub(super) line: usize,
    pub(super) node: Node,
}

/// `None` when the text is not in the subset; then one error says why.
pub(super) fn load(text: &str, errors: &mut Errors) -> Option<Node> {
    // A byte order mark is legal at the start (YAML 1.2.2 §5.2) and of no interest.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match build(text) {
        Ok(node) => Some(node),
        Err(Refusal { line, reason }) => {
            errors.push(line, &Field::Root, reason);
            None
        }
    }
}

struct Refusal {
    line: usize,
    reason: String,
}

enum Open {
    List {
        line: usize,
        nodes: Vec<Node>,
    },
    Map {
        line: usize,
        entries: Vec<Entry>,
        key: Option<(String, usize)>,
    },
}

fn build(text: &str) -> Result<Node, Refusal> {
    let mut open: Vec<Open> = Vec::new();
    let mut root: Option<Node> = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Refusal {
            line: error.marker().line(),
            reason: format!("not valid YAML: {}", error.info()),
        })?;
        let line = span.start.line();
        let refuse = |reason: &str| {
            Err(Refusal {
                line,
                reason: reason.to_owned(),
            })
        };
        let finished = match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
            Event::DocumentStart(_) if root.is_some() => {
                return refuse("a second document starts here; keep one document per file");
            }
            Event::DocumentStart(_) => continue,
            Event::Alias(_) => return refuse("aliases (*name) are not supported; write the value out"),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_decoration(anchor, tag.as_deref(), span)?;
                let plain = style == ScalarStyle::Plain;
                let text = text.into_owned();
                Node {
                    line,
                    value: Value::Scalar { text, plain },
                }
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_decoration(anchor, tag.as_deref(), span)?;
                push(
                    &mut open,
                    Open::List {
                        line,
                        nodes: Vec::new(),
                    },
                )?;
                continue;
            }
            Event::MappingStart(anchor, tag) => {
                refuse_decoration(anchor, tag.as_deref(), span)?;
                push(
                    &mut open,
                    Open::Map {
                        line,
                        entries: Vec::new(),
                        key: None,
                    },
                )?;
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List { line, nodes }) => Node {
                    line,
                    value: Value::List(nodes),
                },
                Some(Open::Map { line, entries, .. }) => Node {
                    line,
                    value: Value::Map(entries),
                },
                None => continue,
            },
        };
        match open.last_mut() {
            None => root = Some(finished),
            Some(Open::List { nodes, .. }) => nodes.push(finished),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                Some((key, line)) => entries.push(Entry {
                    key,
                    line,
                    node: finished,
                }),
                None => match finished {
                    Node {
                        line,
                        value: Value::Scalar { text, .. },
                    } => *key = Some((text, line)),
                    Node {
                        line,
                        value: Value::List(_) | Value::Map(_),
                    } => {
                        return Err(Refusal {
                            line,
                            reason: "a key is a list or a map; keys are plain words".to_owned(),
                        });
                    }
                },
            },
        }
    }
    root.ok_or_else(|| Refusal {
        line: 1,
        reason: "the file is empty; write at least `frontends: []`".to_owned(),
    })
}

fn push(open: &mut Vec<Open>, one: Open) -> Result<(), Refusal> {
    let (Open::List { line, .. } | Open::Map { line, .. }) = one;
    if open.len() >= MAX_DEPTH {
        return Err(Refusal {
            line,
            reason: format!("nested deeper than {MAX_DEPTH} levels; no field is that deep"),
        });
    }
    open.push(one);
    Ok(())
}

fn refuse_decoration(anchor: usize, tag: Option<&Tag>, span: Span) -> Result<(), Refusal> {
    let line = span.start.line();
    if anchor != 0 {
        let reason = "anchors (&name) are not supported; write the value out where it is used".to_owned();
        return Err(Refusal { line, reason });
    }
    if tag.is_some() {
        let reason = "tags (!name) are not supported; remove it, values are told apart by their field".to_owned();
        return Err(Refusal { line, reason });
    }
    Ok(())
}
