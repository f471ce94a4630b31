//! Which line of a YAML document a field is on.
//!
//! Looked up only when something is wrong with the field, so that nothing has to be kept for the many that are right.

use saphyr_parser::{Event, Parser};

/// One step of a field's path.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Where a node is while a document is read.
enum Frame {
    Map { key: Option<String> },
    List { index: usize },
}

/// The line, from 1, of a field such as `spec.ports[0].port` or `metadata.annotations[a.b/c]`, or of the innermost part of its path that
/// is there. `None` when the document is not YAML, or empty.
#[must_use]
pub fn line_of(document: &str, path: &str) -> Option<usize> {
    let wanted = steps(path);
    let mut frames: Vec<Frame> = Vec::new();
    let mut best: Option<(usize, usize)> = None;
    for event in Parser::new_from_str(document) {
        let (event, span) = event.ok()?;
        let line = span.start.line();
        let mut see = |frames: &[Frame]| {
            if let Some(depth) = depth_on_way(frames, &wanted)
                && best.is_none_or(|(known, _)| depth > known)
            {
                best = Some((depth, line));
            }
        };
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
            Event::Scalar(text, ..) => {
                if let Some(Frame::Map { key: key @ None }) = frames.last_mut() {
                    *key = Some(text.into_owned());
                    see(&frames);
                } else {
                    see(&frames);
                    step_on(&mut frames);
                }
            }
            Event::Alias(_) => {
                see(&frames);
                step_on(&mut frames);
            }
            Event::MappingStart(..) => {
                see(&frames);
                frames.push(Frame::Map { key: None });
            }
            Event::SequenceStart(..) => {
                see(&frames);
                frames.push(Frame::List { index: 0 });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                frames.pop();
                step_on(&mut frames);
            }
        }
    }
    best.map(|(_, line)| line)
}

/// A value is over: the next one of a list, or the next key of a map, follows.
fn step_on(frames: &mut [Frame]) {
    match frames.last_mut() {
        Some(Frame::Map { key }) => *key = None,
        Some(Frame::List { index }) => *index += 1,
        None => {}
    }
}

/// How deep we are, when that is on the way to what is wanted.
fn depth_on_way(frames: &[Frame], wanted: &[Step<'_>]) -> Option<usize> {
    if frames.len() > wanted.len() {
        return None;
    }
    let matches = frames.iter().zip(wanted).all(|(frame, step)| match (frame, step) {
        (Frame::Map { key: Some(key) }, Step::Key(wanted)) => key == wanted,
        (Frame::List { index }, Step::Index(wanted)) => index == wanted,
        (Frame::Map { .. }, _) | (Frame::List { .. }, Step::Key(_)) => false,
    });
    matches.then_some(frames.len())
}

fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some((inside, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            steps.push(inside.parse().map_or(Step::Key(inside), Step::Index));
            rest = after.strip_prefix('.').unwrap_or(after);
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            if !key.is_empty() {
                steps.push(Step::Key(key));
            }
            rest = after.strip_prefix('.').unwrap_or(after);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let document = "a: 1\nspec:\n  ports:\n    - name: x\n      port: 80\n    - {name: y,\n       port: 81}\n  c: [1, 2]\n\
                        metadata:\n  annotations:\n    a.b/c: d\n";
        for (path, line) in [
            ("", 1),
            ("a", 1),
            ("spec", 2),
            ("spec.ports", 3),
            ("spec.ports[0]", 4),
            ("spec.ports[0].port", 5),
            ("spec.ports[1].port", 7),
            ("spec.ports[1].protocol", 6),
            ("spec.ports[9]", 3),
            ("spec.c[1]", 8),
            ("spec.missing", 2),
            ("metadata.annotations[a.b/c]", 11),
        ] {
            assert_eq!(line_of(document, path), Some(line), "{path}");
        }
        assert_eq!(line_of("", "a"), None);
    }
}
