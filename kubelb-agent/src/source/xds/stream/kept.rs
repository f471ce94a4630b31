//! The last good configuration as a file, so that an agent that starts while no manager answers repairs and checks what the kernel forwards.
//!
//! Owns the file's form: the messages of a delta response, one after the other, length-delimited. Written whole, beside and renamed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kubelb_xds::ResourceType;
use kubelb_xds::pb::envoy::service::discovery::v3::Resource;
use kubelb_xds::pb::google::protobuf::Any;
use prost::Message;

const FILE: &str = "xds-resources.pb";

type Key = (ResourceType, String);

/// What is to be kept.
#[derive(Debug)]
pub(super) struct Kept {
    directory: Option<PathBuf>,
    /// Version and contents.
    resources: BTreeMap<Key, (String, Vec<u8>)>,
    is_written: bool,
}

impl Kept {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            resources: BTreeMap::new(),
            is_written: true,
        }
    }

    pub(super) fn set(&mut self, kind: ResourceType, name: &str, version: String, value: Vec<u8>) {
        if self.directory.is_some() {
            self.resources.insert((kind, name.to_owned()), (version, value));
            self.is_written = false;
        }
    }

    pub(super) fn remove(&mut self, kind: ResourceType, name: &str) {
        if self.resources.remove(&(kind, name.to_owned())).is_some() {
            self.is_written = false;
        }
    }

    /// When the file was written; `None` when there is none.
    pub(super) fn written_at(&self) -> Option<SystemTime> {
        let path = self.directory.as_ref()?.join(FILE);
        std::fs::metadata(path).ok()?.modified().ok()
    }

    /// What is in the file: type, name, version, contents. A file that cannot be read is as none, which the log says.
    pub(super) fn read(&mut self) -> Vec<(ResourceType, String, String, Vec<u8>)> {
        let Some(path) = self.directory.as_ref().map(|directory| directory.join(FILE)) else {
            return Vec::new();
        };
        match read(&path) {
            Ok(resources) => {
                self.resources = resources;
                self.is_written = true;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("{}: {error}; starting without it", path.display()),
        }
        let all = self.resources.iter();
        all.map(|((kind, name), (version, value))| (*kind, name.clone(), version.clone(), value.clone()))
            .collect()
    }

    /// Writes what has changed since the last time.
    ///
    /// # Errors
    /// When the directory can't be written to; the file of before is there still.
    pub(super) async fn write(&mut self) -> io::Result<()> {
        let Some(directory) = self.directory.clone().filter(|_| !self.is_written) else {
            return Ok(());
        };
        let bytes = self.encode();
        tokio::task::spawn_blocking(move || write(&directory, &bytes))
            .await
            .map_err(io::Error::other)??;
        self.is_written = true;
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ((kind, name), (version, value)) in &self.resources {
            let resource = Resource {
                name: name.clone(),
                version: version.clone(),
                resource: Some(Any {
                    type_url: kind.type_url().to_owned(),
                    value: value.clone(),
                }),
                ..Resource::default()
            };
            bytes.extend(resource.encode_length_delimited_to_vec());
        }
        bytes
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Key, (String, Vec<u8>)>> {
    let bytes = std::fs::read(path)?;
    let mut rest = bytes.as_slice();
    let mut resources = BTreeMap::new();
    while !rest.is_empty() {
        let resource = Resource::decode_length_delimited(&mut rest).map_err(io::Error::other)?;
        let any = resource.resource.unwrap_or_default();
        if let Some(kind) = ResourceType::from_type_url(&any.type_url) {
            resources.insert((kind, resource.name), (resource.version, any.value));
        }
    }
    Ok(resources)
}

fn write(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let next = directory.join(format!("{FILE}.next"));
    let mut file = std::fs::File::create(&next)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    std::fs::rename(&next, directory.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut kept = Kept::new(Some(directory.path().to_owned()));
        assert!(kept.read().is_empty());
        kept.set(ResourceType::Cluster, "c", "1".to_owned(), vec![1, 2]);
        kept.set(ResourceType::Listener, "l", "2".to_owned(), Vec::new());
        kept.set(ResourceType::Listener, "gone", "3".to_owned(), Vec::new());
        kept.remove(ResourceType::Listener, "gone");
        kept.write().await.unwrap();
        let mut again = Kept::new(Some(directory.path().to_owned()));
        let wanted = vec![
            (ResourceType::Cluster, "c".to_owned(), "1".to_owned(), vec![1, 2]),
            (ResourceType::Listener, "l".to_owned(), "2".to_owned(), Vec::new()),
        ];
        assert_eq!(again.read(), wanted);
    }

    #[test]
    fn a_broken_file_is_as_none() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), [200, 1, 1]).unwrap();
        assert!(Kept::new(Some(directory.path().to_owned())).read().is_empty());
    }
}
