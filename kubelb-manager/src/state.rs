//! The state directory of a manager without an API server: claims of addresses, who announces them, and the status of objects, one readable file
//! each.
//!
//! Owns names and formats of the files; writing one is atomic. Must not know: what claims and statuses mean.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use kubelb_api::API_VERSION;
use kubelb_api::names::AddressName;
use kubelb_api::v1alpha1::{AddressClaim, VirtualAddressOwner};
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempPath};

use crate::object::{Kind, Object, ObjectKey, decode};

const CLAIMS: &str = "claims";
const OWNERS: &str = "owners";
const STATUS: &str = "status";
const LOCK: &str = "lock";
/// So many claims are brought to the disk one by one; for more it is cheaper to bring all of the file system there at once.
const SYNCED_ALONE: usize = 16;

/// Why state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or directory cannot be read, made or written.
    #[error("{path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process uses the directory.
    #[error("{0} is in use by another kubelb-manager; give each a directory of its own")]
    Locked(PathBuf),
    /// A file does not hold what it should: to go on would give an address away that belongs to somebody.
    #[error("{path}: {reason}; put it right, or remove it if nobody uses the address any more")]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A value cannot be written as YAML.
    #[error("{path}: cannot be written as YAML: {reason}")]
    Encode {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What was written before.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Claims.
    pub claims: Vec<AddressClaim>,
    /// Which node announces which address.
    pub owners: Vec<VirtualAddressOwner>,
    /// Statuses by object.
    pub statuses: BTreeMap<ObjectKey, Value>,
}

/// The directory, held for as long as this lives.
#[derive(Debug)]
pub struct StateDirectory {
    root: PathBuf,
    _lock: File,
}

impl StateDirectory {
    /// Makes the directory where it is missing, and keeps other managers out.
    ///
    /// # Errors
    /// When that is not possible, or another manager has it.
    pub fn open(root: &Path) -> Result<Self, StateError> {
        for directory in [root.join(CLAIMS), root.join(OWNERS), root.join(STATUS)] {
            fs::create_dir_all(&directory).map_err(at(&directory))?;
        }
        let path = root.join(LOCK);
        let lock = File::create(&path).map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                root: root.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked(root.to_owned())),
            Err(TryLockError::Error(error)) => Err(at(&path)(error)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Reads everything. A status that cannot be read is left out, for it is computed anew.
    ///
    /// # Errors
    /// When a claim cannot be read.
    pub fn load(&self) -> Result<State, StateError> {
        let mut state = State::default();
        for part in [CLAIMS, OWNERS] {
            for path in self.files(part)? {
                let content = |reason: String| StateError::Content {
                    path: path.clone(),
                    reason,
                };
                let text = fs::read_to_string(&path).map_err(at(&path))?;
                let value = serde_saphyr::from_str::<Value>(&text).map_err(|error| content(error.to_string()))?;
                match decode(value) {
                    Ok(Object::AddressClaim(claim)) => state.claims.push(AddressClaim::clone(&claim)),
                    Ok(Object::VirtualAddressOwner(owner)) => state.owners.push(VirtualAddressOwner::clone(&owner)),
                    Ok(other) => return Err(content(format!("is a {}", other.kind().as_str()))),
                    Err(error) => return Err(content(error.to_string())),
                }
            }
        }
        for path in self.files(STATUS)? {
            let read = fs::read_to_string(&path)
                .ok()
                .and_then(|text| serde_saphyr::from_str::<Value>(&text).ok());
            match read.and_then(|value| Some((key_of(&value)?, value.get("status")?.clone()))) {
                Some((key, status)) => {
                    state.statuses.insert(key, status);
                }
                None => tracing::warn!(path = %path.display(), "not a status; it is passed over"),
            }
        }
        Ok(state)
    }

    /// Writes claims and waits until they are on the disk: many cost hardly more time than one.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write_claims(&self, claims: &[AddressClaim]) -> Result<(), StateError> {
        self.write_objects(CLAIMS, claims)
    }

    /// Writes who announces which address, as [`Self::write_claims`] does.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write_owners(&self, owners: &[VirtualAddressOwner]) -> Result<(), StateError> {
        self.write_objects(OWNERS, owners)
    }

    fn write_objects<K: kube::Resource + Serialize>(&self, part: &str, objects: &[K]) -> Result<(), StateError> {
        let directory = self.root.join(part);
        let each = objects.len() <= SYNCED_ALONE;
        let mut written = Vec::new();
        for object in objects {
            let path = self.object_path(part, object.meta().name.as_deref().unwrap_or_default());
            written.push((self.write_beside(&path, object, each)?, path));
        }
        // Before one takes the place of an older one, which would be gone if the machine lost its power now.
        if !each {
            let opened = File::open(&directory).map_err(at(&directory))?;
            nix::unistd::syncfs(&opened).map_err(|errno| at(&directory)(errno.into()))?;
        }
        let any = !written.is_empty();
        for (file, path) in written {
            file.persist(&path).map_err(|error| at(&path)(error.error))?;
        }
        if any {
            let opened = File::open(&directory);
            opened
                .and_then(|directory| directory.sync_all())
                .map_err(at(&directory))?;
        }
        Ok(())
    }

    /// Removes a claim; it may be gone already.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_claim(&self, name: AddressName) -> Result<(), StateError> {
        remove(&self.object_path(CLAIMS, &name.to_string()))
    }

    /// Removes what says who announces an address; it may be gone already.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_owner(&self, name: AddressName) -> Result<(), StateError> {
        remove(&self.object_path(OWNERS, &name.to_string()))
    }

    /// Writes the status of an object.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_status(&self, key: &ObjectKey, status: &Value) -> Result<(), StateError> {
        let mut metadata = json!({"name": key.name.name});
        if let (false, Some(fields)) = (key.name.namespace.is_empty(), metadata.as_object_mut()) {
            fields.insert("namespace".to_owned(), Value::from(&*key.name.namespace));
        }
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": key.kind.as_str(),
            "metadata": metadata,
            "status": status,
        });
        let path = self.status_path(key);
        let file = self.write_beside(&path, &object, false)?;
        file.persist(&path).map_err(|error| at(&path)(error.error))?;
        Ok(())
    }

    /// Removes the status of an object; it may be gone already.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_status(&self, key: &ObjectKey) -> Result<(), StateError> {
        remove(&self.status_path(key))
    }

    fn object_path(&self, part: &str, name: &str) -> PathBuf {
        self.root.join(part).join(format!("{name}.yaml"))
    }

    /// Neither namespaces nor kinds have a dot, so that no two objects share a file.
    fn status_path(&self, key: &ObjectKey) -> PathBuf {
        let namespace = &key.name.namespace;
        let name = format!("{}.{namespace}.{}.yaml", key.kind.as_str(), key.name.name);
        self.root.join(STATUS).join(name)
    }

    fn files(&self, part: &str) -> Result<Vec<PathBuf>, StateError> {
        let directory = self.root.join(part);
        let entries = fs::read_dir(&directory).map_err(at(&directory))?;
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(at(&directory))?.path();
            if path.extension().is_some_and(|ending| ending == "yaml") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// A file that is to take the place of `path`.
    fn write_beside(&self, path: &Path, value: &impl Serialize, sync: bool) -> Result<TempPath, StateError> {
        let encode = |reason: String| StateError::Encode {
            path: path.to_owned(),
            reason,
        };
        let tree = serde_json::to_value(value).map_err(|error| encode(error.to_string()))?;
        let text = serde_saphyr::to_string(&tree).map_err(|error| encode(error.to_string()))?;
        let directory = path.parent().unwrap_or(&self.root);
        let mut file = NamedTempFile::new_in(directory).map_err(at(path))?;
        file.write_all(text.as_bytes()).map_err(at(path))?;
        if sync {
            file.as_file().sync_all().map_err(at(path))?;
        }
        Ok(file.into_temp_path())
    }
}

fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        path: path.clone(),
        source,
    }
}

fn key_of(value: &Value) -> Option<ObjectKey> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let kind = Kind::from_name(text("/kind")?)?;
    Some(ObjectKey::new(
        kind,
        text("/metadata/namespace").unwrap_or_default(),
        text("/metadata/name")?,
    ))
}

#[cfg(test)]
mod tests {
    use kubelb_api::v1alpha1::AddressClaimSpec;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let spec = AddressClaimSpec {
            address: "203.0.113.10".to_owned(),
            tenant: "x".to_owned(),
            holders: Vec::new(),
        };
        let claim = AddressClaim::new("v4-203-0-113-10", spec);
        state.write_claims(std::slice::from_ref(&claim)).unwrap();
        let key = ObjectKey::new(Kind::LoadBalancer, "tenant-x", "a.b");
        state.write_status(&key, &json!({"conditions": []})).unwrap();
        let read = state.load().unwrap();
        assert_eq!(read.claims, [claim]);
        assert_eq!(
            read.statuses,
            BTreeMap::from([(key.clone(), json!({"conditions": []}))])
        );
        state.remove_claim("v4-203-0-113-10".parse().unwrap()).unwrap();
        state.remove_status(&key).unwrap();
        state.remove_status(&key).unwrap();
        let read = state.load().unwrap();
        assert!(read.claims.is_empty() && read.statuses.is_empty());
    }

    #[test]
    fn many_claims_are_written_as_one() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let claim = |number: usize, tenant: &str| {
            let spec = AddressClaimSpec {
                address: format!("203.0.113.{number}"),
                tenant: tenant.to_owned(),
                holders: Vec::new(),
            };
            AddressClaim::new(&format!("v4-203-0-113-{number}"), spec)
        };
        for tenant in ["x", "y"] {
            let claims: Vec<AddressClaim> = (1..=SYNCED_ALONE + 1).map(|number| claim(number, tenant)).collect();
            state.write_claims(&claims).unwrap();
            let read = state.load().unwrap().claims;
            assert_eq!(read.len(), claims.len());
            assert!(read.iter().all(|claim| claim.spec.tenant == tenant));
        }
        state.write_claims(&[]).unwrap();
        let files = fs::read_dir(directory.path().join(CLAIMS)).unwrap().count();
        assert_eq!(files, SYNCED_ALONE + 1, "nothing else is left");
    }

    #[test]
    fn one_manager_at_a_time_and_no_claim_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        assert!(matches!(
            StateDirectory::open(directory.path()),
            Err(StateError::Locked(_))
        ));
        fs::write(directory.path().join("claims/v4-1-1-1-1.yaml"), "kind: [").unwrap();
        assert!(matches!(state.load(), Err(StateError::Content { .. })));
        drop(state);
        StateDirectory::open(directory.path()).unwrap();
    }
}
