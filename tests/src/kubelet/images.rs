//! The image table: which local program stands for which image. Pulls nothing.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// What an image brings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Image {
    /// Entry point. A first word with a slash names a file of the machine's, which the container sees in `/usr/local/bin`.
    pub command: Vec<String>,
    /// What the entry point gets when the Pod names no `args`.
    pub args: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Further files of the machine's: path in the container to path on the machine.
    pub files: BTreeMap<String, String>,
    /// Numeric user that the image runs as.
    pub user: u32,
    /// Working directory; `/` when empty.
    pub working_dir: String,
}

impl Image {
    fn of(command: &[&str]) -> Self {
        Self {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            ..Self::default()
        }
    }
}

/// Images by name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    #[serde(default)]
    images: BTreeMap<String, Image>,
}

/// Why a table can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// Reading the file.
    #[error("cannot read the image table {path}")]
    Read {
        /// Its path.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its text.
    #[error("cannot understand the image table: {0}")]
    Parse(String),
}

impl Images {
    /// Reads a table and adds what is built in: programs of the machine's, and `echo-server` from the directory
    /// `programs`. Built-in ones give way to those of the file.
    ///
    /// # Errors
    /// When the file can't be read or understood.
    pub fn read(path: Option<&Path>, programs: &Path) -> Result<Self, ImagesError> {
        let text = match path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|source| ImagesError::Read {
                path: path.display().to_string(),
                source,
            })?,
        };
        Self::parse(&text, programs)
    }

    fn parse(text: &str, programs: &Path) -> Result<Self, ImagesError> {
        let mut table = if text.trim().is_empty() {
            Self::default()
        } else {
            serde_saphyr::from_str(text).map_err(|error| ImagesError::Parse(error.to_string()))?
        };
        for name in ["alpine", "busybox", "debian"] {
            table
                .images
                .entry(name.to_owned())
                .or_insert_with(|| Image::of(&["sh"]));
        }
        table
            .images
            .entry("curl".to_owned())
            .or_insert_with(|| Image::of(&["curl"]));
        // Nothing to do but to be there.
        table
            .images
            .entry("pause".to_owned())
            .or_insert_with(|| Image::of(&["sleep", "infinity"]));
        let echo = programs.join("echo-server").display().to_string();
        for name in ["agnhost", "echo-server"] {
            table
                .images
                .entry(name.to_owned())
                .or_insert_with(|| Image::of(&[&echo]));
        }
        Ok(table)
    }

    /// The image of this name: as it is, else without digest and tag, else only the last part of its path.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Image> {
        let bare = without_tag(name);
        let last = bare.rsplit('/').next().unwrap_or(bare);
        [name, bare, last].into_iter().find_map(|name| self.images.get(name))
    }
}

/// A colon before the last slash belongs to the registry's port.
fn without_tag(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    match name.get(path..).and_then(|last| last.find(':')) {
        Some(colon) => name.get(..path + colon).unwrap_or(name),
        None => name,
    }
}

/// The name with a tag, as container engines show it.
pub(super) fn normalized(name: &str) -> String {
    if name.contains('@') || without_tag(name) != name {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_less_and_less_of_them() {
        let text =
            "images: {manager: {command: [/m]}, 'reg:5000/x/manager': {command: [/n]}, 'busybox:1.36': {command: [b]}}";
        let table = Images::parse(text, Path::new("/p")).unwrap();
        let command = |name: &str| table.find(name).map(|image| image.command.join(" "));
        assert_eq!(command("manager:v1").as_deref(), Some("/m"));
        assert_eq!(command("quay.io/kubermatic/manager@sha256:00").as_deref(), Some("/m"));
        assert_eq!(command("reg:5000/x/manager:v2").as_deref(), Some("/n"));
        assert_eq!(command("busybox:1.36").as_deref(), Some("b"));
        assert_eq!(command("docker.io/library/busybox").as_deref(), Some("sh"));
        assert_eq!(
            command("registry.k8s.io/e2e-test-images/agnhost:2.40").as_deref(),
            Some("/p/echo-server")
        );
        assert_eq!(command("nginx"), None);
        assert!(Images::parse("image: {}", Path::new("/p")).is_err());
    }

    #[test]
    fn a_name_without_a_tag_is_the_latest() {
        assert_eq!(normalized("reg:5000/a"), "reg:5000/a:latest");
        assert_eq!(normalized("a:1"), "a:1");
        assert_eq!(normalized("a@sha256:0"), "a@sha256:0");
    }
}
