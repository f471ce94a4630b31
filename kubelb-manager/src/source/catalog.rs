//! Which file has which object.
//!
//! Pure: texts in, differences out. A text that cannot be made out takes no object away: what was in the file before stays until somebody can
//! tell whether it is still meant. Only documents that changed are read again, and many at once on all CPUs. Must not know: how files are read
//! and watched.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::manifest::{self, Document, Fault, Manifest};
use crate::object::ObjectKey;
use crate::store::Seen;

/// Fewer documents than this are read on the thread that asks.
const WORTH_A_THREAD: usize = 64;

/// Texts by file; a file that cannot be read has the reason.
pub type Files = BTreeMap<PathBuf, Text>;

/// A file's text, or why it cannot be read.
pub type Text = Result<Arc<str>, String>;

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
    files: BTreeMap<Arc<Path>, File>,
    /// The files that have each object. It is taken from the first by name.
    owners: BTreeMap<ObjectKey, BTreeSet<Arc<Path>>>,
}

/// A file, less its objects: those are the store's.
#[derive(Clone, Debug)]
struct File {
    text: Text,
    /// By object: the document that it is in.
    objects: BTreeMap<ObjectKey, usize>,
    /// Documents with a mistake: they are read again whenever the file changes, so that it is told again.
    faulty: BTreeSet<usize>,
}

/// Objects that were read, by the file that they are in.
type Fresh = BTreeMap<(ObjectKey, Arc<Path>), Seen>;

/// A file that changed.
struct Reading<'a> {
    path: Arc<Path>,
    text: &'a Arc<str>,
    before: Option<&'a File>,
    /// Documents to read.
    new: Vec<Document<'a>>,
    /// Documents that are as they were: their number, and the one they had.
    same: Vec<(usize, usize)>,
}

impl Catalog {
    /// Takes in all files as they are now.
    pub fn update(&mut self, files: Files) -> Difference {
        let mut difference = Difference::default();
        let mut touched = BTreeSet::new();
        let gone: Vec<Arc<Path>> = self
            .files
            .keys()
            .filter(|path| !files.contains_key(&***path))
            .cloned()
            .collect();
        for path in gone {
            let objects = self.files.remove(&path).map(|file| file.objects).unwrap_or_default();
            touched.extend(objects.into_keys());
        }
        let changed: Vec<(Arc<Path>, Text)> = files
            .into_iter()
            .filter(|(path, text)| self.files.get(&**path).is_none_or(|known| !is_same(&known.text, text)))
            .map(|(path, text)| (Arc::from(path), text))
            .collect();
        let reread: BTreeSet<Arc<Path>> = changed.iter().map(|(path, _)| Arc::clone(path)).collect();
        let (read, fresh) = self.read(&changed, &mut difference.faults);
        for (path, file) in read {
            touched.extend(file.objects.keys().cloned());
            if let Some(before) = self.files.insert(path, file) {
                touched.extend(before.objects.into_keys());
            }
        }
        self.settle(touched, &reread, fresh, &mut difference);
        difference
    }

    /// Reads what changed of files; what is in them now, and the objects that were read.
    fn read(&self, changed: &[(Arc<Path>, Text)], faults: &mut Vec<Mistake>) -> (Vec<(Arc<Path>, File)>, Fresh) {
        let mut files = Vec::new();
        let mut readings = Vec::new();
        for (path, text) in changed {
            let before = self.files.get(path);
            match text {
                Ok(text) => readings.push(Reading::of(path, text, before)),
                Err(reason) => {
                    faults.push(Mistake {
                        path: path.to_path_buf(),
                        document: None,
                        line: None,
                        field: String::new(),
                        reason: format!("{reason}; its objects stay as they were"),
                    });
                    let file = File {
                        text: text.clone(),
                        objects: before.map(|file| file.objects.clone()).unwrap_or_default(),
                        faulty: BTreeSet::new(),
                    };
                    files.push((Arc::clone(path), file));
                }
            }
        }
        let documents: Vec<Document<'_>> = readings
            .iter()
            .flat_map(|reading| reading.new.iter().copied())
            .collect();
        let mut manifests = read_all(&documents).into_iter();
        let mut fresh = BTreeMap::new();
        for reading in readings {
            let manifests = manifests.by_ref().take(reading.new.len()).collect();
            let file = reading.finish(manifests, faults, &mut fresh);
            files.push(file);
        }
        (files, fresh)
    }

    /// Finds out what became of objects of files that changed.
    fn settle(
        &mut self,
        touched: BTreeSet<ObjectKey>,
        reread: &BTreeSet<Arc<Path>>,
        mut fresh: Fresh,
        difference: &mut Difference,
    ) {
        for key in touched {
            let before = self.owners.get(&key).and_then(|paths| paths.first()).cloned();
            let has = |path: &&Arc<Path>| {
                self.files
                    .get(*path)
                    .is_some_and(|file| file.objects.contains_key(&key))
            };
            let known = self.owners.get(&key).into_iter().flatten();
            let paths: BTreeSet<Arc<Path>> = known.chain(reread).filter(has).cloned().collect();
            let Some(owner) = paths.first().cloned() else {
                self.owners.remove(&key);
                difference.gone.extend(before.map(|_| key));
                continue;
            };
            let duplicates = paths
                .iter()
                .skip(1)
                .filter(|path| reread.contains(*path) || reread.contains(&owner));
            for path in duplicates {
                let file = self.files.get(path);
                difference.faults.push(Mistake {
                    path: path.to_path_buf(),
                    document: file.and_then(|file| file.objects.get(&key)).copied(),
                    line: None,
                    field: String::new(),
                    reason: format!("{key} is in {} too, which counts", owner.display()),
                });
            }
            let seen = fresh.remove(&(key.clone(), Arc::clone(&owner)));
            let has_moved = before.is_some_and(|before| before != owner);
            // One that another file had until now was not read with this one.
            difference
                .seen
                .extend(seen.or_else(|| has_moved.then(|| self.look_up(&key, &owner)).flatten()));
            self.owners.insert(key, paths);
        }
    }

    fn look_up(&self, key: &ObjectKey, path: &Arc<Path>) -> Option<Seen> {
        let (document, _) = self.document(key, path)?;
        let entries = manifest::read_document(document).entries.into_iter();
        entries.map(|entry| entry.seen).find(|seen| key_of(seen) == *key)
    }

    fn document(&self, key: &ObjectKey, path: &Arc<Path>) -> Option<(Document<'_>, usize)> {
        let file = self.files.get(path)?;
        let number = *file.objects.get(key)?;
        let text = file.text.as_ref().ok()?;
        let document = manifest::documents(text).find(|document| document.number == number)?;
        Some((document, number))
    }

    /// Where a field of an object is.
    #[must_use]
    pub fn place(&self, key: &ObjectKey, field: &str) -> Option<(&Path, usize, Option<usize>)> {
        let path = self.owners.get(key)?.first()?;
        let (document, number) = self.document(key, path)?;
        Some((path, number, manifest::place(document, field)))
    }
}

impl<'a> Reading<'a> {
    fn of(path: &Arc<Path>, text: &'a Arc<str>, before: Option<&'a File>) -> Self {
        let mut reading = Self {
            path: Arc::clone(path),
            text,
            before,
            new: Vec::new(),
            same: Vec::new(),
        };
        let old_text = before.and_then(|file| file.text.as_deref().ok()).unwrap_or_default();
        let old: BTreeMap<&str, usize> = manifest::documents(old_text)
            .map(|document| (document.text, document.number))
            .collect();
        let is_good = |number: &&usize| before.is_some_and(|file| !file.faulty.contains(*number));
        for document in manifest::documents(text) {
            match old.get(document.text).filter(is_good) {
                Some(number) => reading.same.push((document.number, *number)),
                None => reading.new.push(document),
            }
        }
        reading
    }

    /// Puts together what is the same and what was read.
    fn finish(self, manifests: Vec<Manifest>, faults: &mut Vec<Mistake>, fresh: &mut Fresh) -> (Arc<Path>, File) {
        let mut found: Vec<(usize, ObjectKey, Option<Seen>)> = Vec::new();
        let mut by_document: BTreeMap<usize, Vec<&ObjectKey>> = BTreeMap::new();
        for (key, number) in self.before.iter().flat_map(|file| &file.objects) {
            by_document.entry(*number).or_default().push(key);
        }
        for (number, old) in &self.same {
            let keys = by_document.get(old).into_iter().flatten();
            found.extend(keys.map(|key| (*number, (*key).clone(), None)));
        }
        let mut faulty = BTreeSet::new();
        let mut is_incomplete = false;
        for manifest in manifests {
            is_incomplete |= manifest.is_incomplete;
            for Fault {
                document,
                line,
                field,
                reason,
            } in manifest.faults
            {
                faulty.insert(document);
                faults.push(Mistake {
                    path: self.path.to_path_buf(),
                    document: Some(document),
                    line,
                    field,
                    reason,
                });
            }
            let entries = manifest.entries.into_iter();
            found.extend(entries.map(|entry| (entry.document, key_of(&entry.seen), Some(entry.seen))));
        }
        found.sort_by_key(|(number, ..)| *number);
        let mut objects = BTreeMap::new();
        for (number, key, seen) in found {
            if objects.contains_key(&key) {
                faulty.insert(number);
                faults.push(Mistake {
                    path: self.path.to_path_buf(),
                    document: Some(number),
                    line: None,
                    field: String::new(),
                    reason: format!("{key} is in this file twice; the first counts"),
                });
                continue;
            }
            objects.insert(key.clone(), number);
            if let Some(seen) = seen {
                fresh.insert((key, Arc::clone(&self.path)), seen);
            }
        }
        if is_incomplete {
            for (key, number) in self.before.iter().flat_map(|file| &file.objects) {
                objects.entry(key.clone()).or_insert(*number);
            }
        }
        let file = File {
            text: Ok(Arc::clone(self.text)),
            objects,
            faulty,
        };
        (self.path, file)
    }
}

fn is_same(known: &Text, new: &Text) -> bool {
    match (known, new) {
        (Ok(known), Ok(new)) => Arc::ptr_eq(known, new) || known == new,
        (Err(known), Err(new)) => known == new,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

/// Reads documents, in their order.
fn read_all(documents: &[Document<'_>]) -> Vec<Manifest> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let share = documents.len().div_ceil(threads).max(WORTH_A_THREAD);
    let read = |part: &[Document<'_>]| -> Vec<Manifest> {
        part.iter().map(|document| manifest::read_document(*document)).collect()
    };
    std::thread::scope(|scope| {
        let mut parts = documents.chunks(share);
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts.map(|part| (part, scope.spawn(move || read(part)))).collect();
        let mut manifests = read(first);
        for (part, thread) in others {
            // A thread that died has told nothing; what it was to read is read here.
            manifests.extend(thread.join().unwrap_or_else(|_panic| read(part)));
        }
        manifests
    })
}

fn key_of(seen: &Seen) -> ObjectKey {
    match seen {
        Ok(object) => object.key(),
        Err(malformed) => malformed.key.clone(),
    }
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

    #[test]
    fn only_documents_that_change_are_read_again() {
        let mut catalog = Catalog::default();
        let join = |parts: &[&str]| parts.join("---\n");
        let (a, b, c) = (tenant("a"), tenant("b"), tenant("c"));
        catalog.update(files(&[("1.yaml", &join(&[&a, &b, &c]))]));
        let changed = format!("{b}spec: {{}}\n");
        let difference = catalog.update(files(&[("1.yaml", &join(&[&changed, &a, &c]))]));
        let seen: Vec<String> = difference.seen.iter().map(|seen| key_of(seen).to_string()).collect();
        assert_eq!(seen, ["Tenant b"]);
        assert!(difference.gone.is_empty() && difference.faults.is_empty());
        let key = key_of(&difference.seen[0]);
        assert_eq!(catalog.place(&key, "spec").map(|(_, document, _)| document), Some(1));
        let fewer = catalog.update(files(&[("1.yaml", &join(&[&c, &changed]))]));
        assert_eq!((fewer.seen.len(), gone(&fewer)), (0, vec!["Tenant a".to_owned()]));
    }

    #[test]
    fn a_mistake_is_told_again_with_every_change_of_its_file() {
        let mut catalog = Catalog::default();
        let (a, b) = (tenant("a"), tenant("b"));
        for more in ["", "# a comment\n"] {
            let twice = format!("{a}---\n{a}---\nkind: [\n---\n{b}{more}");
            let faults = catalog.update(files(&[("1.yaml", &twice)])).faults;
            assert_eq!(faults.len(), 2, "{faults:?}");
        }
    }

    #[test]
    fn many_documents_are_read_in_their_order() {
        let text: String = (0..WORTH_A_THREAD * 5)
            .map(|n| format!("---\n{}", tenant(&format!("t{n}"))))
            .collect();
        let difference = Catalog::default().update(files(&[("1.yaml", &text)]));
        assert_eq!(difference.seen.len(), WORTH_A_THREAD * 5);
        let documents: Vec<_> = manifest::documents(&text).collect();
        let numbers: Vec<usize> = read_all(&documents)
            .iter()
            .map(|manifest| manifest.entries[0].document)
            .collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
}
