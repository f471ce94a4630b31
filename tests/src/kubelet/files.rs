//! A Pod's volumes on the disk: made, filled, and kept as the objects are.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};

use super::downward::Facts;
use super::volumes::{self, File, Files, Part, Source};
use super::{Kubelet, payload};

/// Seconds that a token holds when the Pod does not say.
const TOKEN_SECONDS: i64 = 3600;

/// A token and when to get another.
#[derive(Clone)]
struct Token {
    text: String,
    renew: Timestamp,
}

/// A Pod's volumes.
pub(super) struct Volumes {
    directory: PathBuf,
    /// What each volume is on the machine.
    pub(super) paths: BTreeMap<String, PathBuf>,
    /// Directories to be memory, with their limits.
    pub(super) memory: Vec<(PathBuf, Option<u64>)>,
    written: BTreeMap<String, Files>,
    tokens: BTreeMap<String, Token>,
    version: u64,
}

impl Volumes {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            paths: BTreeMap::new(),
            memory: Vec::new(),
            written: BTreeMap::new(),
            tokens: BTreeMap::new(),
            version: 0,
        }
    }

    /// When a token is to be renewed.
    pub(super) fn renew_at(&self) -> Option<Timestamp> {
        self.tokens.values().map(|token| token.renew).min()
    }

    /// Makes all volumes, and brings those that come from objects up to date. The error is for the Pod's events.
    pub(super) async fn set_up(
        &mut self,
        kubelet: &Arc<Kubelet>,
        pod: &Pod,
        facts: &Facts,
        now: Timestamp,
    ) -> Result<(), String> {
        let spec = pod.spec.clone().unwrap_or_default();
        let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
        let group = group.and_then(|group| u32::try_from(group).ok());
        for volume in spec.volumes.iter().flatten() {
            let name = &volume.name;
            let failed = |error: String| format!("MountVolume.SetUp failed for volume {name:?} : {error}");
            let path = self.directory.join(name);
            match volumes::source(volume).map_err(failed)? {
                Source::Host { path, kind } => {
                    host_path(Path::new(&path), &kind).map_err(failed)?;
                    self.paths.insert(name.clone(), PathBuf::from(path));
                }
                Source::Empty { memory, limit } => {
                    if self.paths.contains_key(name) {
                        continue;
                    }
                    empty(&path, group).map_err(|error| failed(error.to_string()))?;
                    if memory {
                        self.memory.push((path.clone(), limit));
                    }
                    self.paths.insert(name.clone(), path);
                }
                Source::Files(parts) => {
                    let files = self
                        .files(kubelet, pod, facts, name, &parts, now)
                        .await
                        .map_err(failed)?;
                    if self.written.get(name) != Some(&files) {
                        self.version += 1;
                        let version = format!("{}_{}", now.as_nanosecond(), self.version);
                        payload::write(&path, &files, group, &version).map_err(|error| failed(error.to_string()))?;
                        self.written.insert(name.clone(), files);
                    }
                    self.paths.insert(name.clone(), path);
                }
            }
        }
        Ok(())
    }

    async fn files(
        &mut self,
        kubelet: &Arc<Kubelet>,
        pod: &Pod,
        facts: &Facts,
        volume: &str,
        parts: &[Part],
        now: Timestamp,
    ) -> Result<Files, String> {
        let namespace = pod.namespace().unwrap_or_default();
        let failed = |error: kube::Error| error.to_string();
        let mut files = Files::new();
        for part in parts {
            files.extend(match part {
                Part::ConfigMap(part) => {
                    let api: Api<ConfigMap> = Api::namespaced(kubelet.client.clone(), &namespace);
                    volumes::config_map_files(
                        part,
                        &namespace,
                        api.get_opt(&part.name).await.map_err(failed)?.as_ref(),
                    )?
                }
                Part::Secret(part) => {
                    let api: Api<Secret> = Api::namespaced(kubelet.client.clone(), &namespace);
                    volumes::secret_files(
                        part,
                        &namespace,
                        api.get_opt(&part.name).await.map_err(failed)?.as_ref(),
                    )?
                }
                Part::Downward(items, mode) => volumes::downward_files(items, *mode, pod, facts)?,
                Part::Token(projection, mode) => {
                    let key = format!("{volume}/{}", projection.path);
                    let known = self.tokens.get(&key).filter(|token| token.renew > now).cloned();
                    let token = match known {
                        Some(token) => token,
                        None => request_token(kubelet, pod, projection, now).await.map_err(failed)?,
                    };
                    self.tokens.insert(key, token.clone());
                    let content = token.text.into_bytes();
                    Files::from([(volumes::relative(&projection.path)?, File { mode: *mode, content })])
                }
            });
        }
        Ok(files)
    }
}

async fn request_token(
    kubelet: &Arc<Kubelet>,
    pod: &Pod,
    projection: &ServiceAccountTokenProjection,
    now: Timestamp,
) -> kube::Result<Token> {
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone())
        .filter(|name| !name.is_empty());
    let seconds = projection.expiration_seconds.unwrap_or(TOKEN_SECONDS);
    let audience = projection.audience.clone().filter(|audience| !audience.is_empty());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|audience| vec![audience]),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(kubelet.client.clone(), &pod.namespace().unwrap_or_default());
    let account = account.as_deref().unwrap_or("default");
    let answer = api
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    let granted = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(seconds);
    let after = Duration::from_secs(u64::try_from(granted).unwrap_or(0)) * 4 / 5;
    Ok(Token {
        text: answer.status.and_then(|status| status.token).unwrap_or_default(),
        renew: now.saturating_add(after).unwrap_or(Timestamp::MAX),
    })
}

fn empty(path: &Path, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if group.is_some() {
        chown(path, None, group)?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Checks what is there, or makes it where the type says so. Nothing is a directory to be, as container engines see it.
fn host_path(path: &Path, kind: &str) -> Result<(), String> {
    let made = |result: io::Result<()>| result.map_err(|error| format!("{}: {error}", path.display()));
    let found = fs::metadata(path).ok().map(|found| found.file_type());
    let is = |wanted: fn(&fs::FileType) -> bool, what: &str| match &found {
        Some(found) if wanted(found) => Ok(()),
        _ => Err(format!("hostPath type check failed: {} is not {what}", path.display())),
    };
    match kind {
        "" if found.is_some() => Ok(()),
        "" | "DirectoryOrCreate" if found.is_none() => made(fs::create_dir_all(path)),
        "FileOrCreate" if found.is_none() => made(fs::File::create(path).map(drop)),
        "Directory" | "DirectoryOrCreate" => is(fs::FileType::is_dir, "a directory"),
        "File" | "FileOrCreate" => is(fs::FileType::is_file, "a file"),
        "Socket" => is(fs::FileType::is_socket, "a socket file"),
        "CharDevice" => is(fs::FileType::is_char_device, "a character device"),
        "BlockDevice" => is(fs::FileType::is_block_device, "a block device"),
        other => Err(format!("{other}: no such hostPath type")),
    }
}
