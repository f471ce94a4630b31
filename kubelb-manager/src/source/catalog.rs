//! Which file has which object.
//!
//! Pure: texts in, differences out. A text that cannot be made out takes no object away: what was in the file before stays until somebody can
//! tell whether it is still meant. Must not know: how files are read and watched.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::manifest::{self, Fault};
use crate::object::ObjectKey;
use crate::store::Seen;

/// Texts by file; a file that cannot be read has the reason.
pub type Files = BTreeMap<PathBuf, Result<Arc<str>, String>>;

/// What a change of files means.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    /// Objects that came or may have changed.
    pub seen: Vec<Seen>,
    /// Objects that are in no file any more.
    pub gone: Vec<ObjectKey>,
    /// Mistakes in the files that changed.
    pub faults: Vec<Mistake>,
}

/// A mistake, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub path: PathBuf,
    /// Where in it; `None`: the file as a whole.
    pub document: Option<usize>,
    /// Line, from 1.
    pub line: Option<usize>,
    /// The field; empty when something as a whole is meant.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(document) = self.document {
            write!(f, " document {document}:")?;
        }
        if !self.field.is_empty() {
            write!(f, " {}:", self.field)?;
        }
        write!(f, " {}", self.reason)
    }
}

/// All files, as they were last read.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    files: BTreeMap<PathBuf, File>,
    /// The file that each object is taken from: the first by name that has it.
    owners: BTreeMap<ObjectKey, PathBuf>,
}

#[derive(Clone, Debug)]
struct File {
    text: Result<Arc<str>, String>,
    objects: BTreeMap<ObjectKey, (usize, Seen)>,
}

impl Catalog {
    /// Takes in all files as they are now.
    pub fn update(&mut self, files: Files) -> Difference {
        let mut difference = Difference::default();
        let mut reread = BTreeSet::new();
        self.files.retain(|path, _| files.contains_key(path));
        for (path, text) in files {
            if self.files.get(&path).is_some_and(|known| known.text == text) {
                continue;
            }
            let before = self.files.remove(&path).map(|file| file.objects).unwrap_or_default();
            let file = read(&path, text, before, &mut difference.faults);
            reread.insert(path.clone());
            self.files.insert(path, file);
        }
        let mut owners: BTreeMap<ObjectKey, PathBuf> = BTreeMap::new();
        for (path, file) in &self.files {
            for (key, (document, seen)) in &file.objects {
                match owners.get(key) {
                    None => {
                        if reread.contains(path) || self.owners.get(key) != Some(path) {
                            difference.seen.push(seen.clone());
                        }
                        owners.insert(key.clone(), path.clone());
                    }
                    Some(owner) if reread.contains(path) || reread.contains(owner) => {
                        difference.faults.push(Mistake {
                            path: path.clone(),
                            document: Some(*document),
                            line: None,
                            field: String::new(),
                            reason: format!("{key} is in {} too, which counts", owner.display()),
                        });
                    }
                    Some(_) => {}
                }
            }
        }
        difference.gone = self
            .owners
            .keys()
            .filter(|key| !owners.contains_key(*key))
            .cloned()
            .collect();
        self.owners = owners;
        difference
    }

    /// Where a field of an object is.
    #[must_use]
    pub fn place(&self, key: &ObjectKey, field: &str) -> Option<(&Path, usize, Option<usize>)> {
        let path = self.owners.get(key)?;
        let file = self.files.get(path)?;
        let (number, _) = file.objects.get(key)?;
        let text = file.text.as_ref().ok()?;
        let document = manifest::documents(text).find(|document| document.number == *number)?;
        Some((path, *number, manifest::place(document, field)))
    }
}

fn read(
    path: &Path,
    text: Result<Arc<str>, String>,
    before: BTreeMap<ObjectKey, (usize, Seen)>,
    faults: &mut Vec<Mistake>,
) -> File {
    let mistake = |document, line, field: String, reason: String| Mistake {
        path: path.to_owned(),
        document,
        line,
        field,
        reason,
    };
    let content = match &text {
        Ok(content) => content,
        Err(reason) => {
            faults.push(mistake(
                None,
                None,
                String::new(),
                format!("{reason}; its objects stay as they were"),
            ));
            return File { text, objects: before };
        }
    };
    let manifest = manifest::read(content, |_| {});
    for Fault {
        document,
        line,
        field,
        reason,
    } in manifest.faults
    {
        faults.push(mistake(Some(document), line, field, reason));
    }
    let mut objects = BTreeMap::new();
    for entry in manifest.entries {
        let key = match &entry.seen {
            Ok(object) => object.key(),
            Err(malformed) => malformed.key.clone(),
        };
        match objects.entry(key) {
            Entry::Vacant(place) => {
                place.insert((entry.document, entry.seen));
            }
            Entry::Occupied(place) => {
                let reason = format!("{} is in this file twice; the first counts", place.key());
                faults.push(mistake(Some(entry.document), None, String::new(), reason));
            }
        }
    }
    if manifest.is_incomplete {
        for (key, known) in before {
            objects.entry(key).or_insert(known);
        }
    }
    File { text, objects }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> String {
        format!("apiVersion: kubelb.k8c.io/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\n")
    }

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, text)| (PathBuf::from(path), Ok(Arc::from(*text))))
            .collect()
    }

    fn gone(difference: &Difference) -> Vec<String> {
        difference.gone.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_files_that_change_are_read_again() {
        let mut catalog = Catalog::default();
        let (a, b) = (tenant("a"), tenant("b"));
        assert_eq!(catalog.update(files(&[("1.yaml", &a), ("2.yaml", &b)])).seen.len(), 2);
        let same = catalog.update(files(&[("1.yaml", &a), ("2.yaml", &b)]));
        assert!(same.seen.is_empty() && same.gone.is_empty());
        let removed = catalog.update(files(&[("1.yaml", &a)]));
        assert_eq!(gone(&removed), ["Tenant b"]);
    }

    #[test]
    fn a_file_that_cannot_be_made_out_takes_nothing_away() {
        let mut catalog = Catalog::default();
        let text = format!("{}---\n{}", tenant("a"), tenant("b"));
        catalog.update(files(&[("1.yaml", &text)]));
        let broken = format!("{}---\nkind: [\n", tenant("a"));
        let difference = catalog.update(files(&[("1.yaml", &broken)]));
        assert!(difference.gone.is_empty());
        let shown = difference.faults[0].to_string();
        assert!(
            shown.starts_with("1.yaml:") && shown.contains("document 2: not valid YAML"),
            "{shown}"
        );
        let unreadable = Files::from([("1.yaml".into(), Err("permission denied".to_owned()))]);
        assert!(catalog.update(unreadable).gone.is_empty());
        let mended = catalog.update(files(&[("1.yaml", &tenant("a"))]));
        assert_eq!(gone(&mended), ["Tenant b"]);
    }

    #[test]
    fn of_two_files_with_one_object_the_first_counts() {
        let mut catalog = Catalog::default();
        let a = tenant("a");
        let difference = catalog.update(files(&[("1.yaml", &a), ("2.yaml", &a)]));
        assert_eq!(difference.seen.len(), 1);
        assert!(
            difference.faults[0]
                .to_string()
                .contains("2.yaml: document 1: Tenant a is in 1.yaml too")
        );
        let moved = catalog.update(files(&[("2.yaml", &a)]));
        assert_eq!(
            (moved.seen.len(), moved.gone.len()),
            (1, 0),
            "the other takes its place"
        );
        let key = moved.seen[0].as_ref().unwrap().key();
        assert_eq!(
            catalog.place(&key, "metadata.name"),
            Some((Path::new("2.yaml"), 1, Some(3)))
        );
    }
}
