//! Volumes: what a Pod's volumes are made of, and which files those that come from objects hold. Pure.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume,
};

use super::downward::{self, Facts};

const DEFAULT_MODE: u32 = 0o644;

/// Files by their path in the volume.
pub(super) type Files = BTreeMap<String, File>;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) mode: u32,
    pub(super) content: Vec<u8>,
}

/// Where a volume's content comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A directory of the Pod's own; in memory with a size in bytes.
    Empty { memory: bool, limit: Option<u64> },
    /// Something of the node's, checked or made as its type says.
    Host { path: String, kind: String },
    /// Files that are kept as the objects are.
    Files(Vec<Part>),
}

/// One source of files.
#[derive(Clone, Debug)]
pub(super) enum Part {
    ConfigMap(ObjectPart),
    Secret(ObjectPart),
    Downward(Vec<DownwardAPIVolumeFile>, u32),
    Token(ServiceAccountTokenProjection, u32),
}

/// Files from a ConfigMap or a Secret.
#[derive(Clone, Debug)]
pub(super) struct ObjectPart {
    pub(super) name: String,
    items: Option<Vec<KeyToPath>>,
    optional: bool,
    mode: u32,
}

/// What a volume is made of. The error is for the Pod's events.
pub(super) fn source(volume: &Volume) -> Result<Source, String> {
    if let Some(empty) = &volume.empty_dir {
        let limit = empty
            .size_limit
            .as_ref()
            .map(|limit| downward::thousandths(&limit.0))
            .transpose()?;
        return Ok(Source::Empty {
            memory: empty.medium.as_deref() == Some("Memory"),
            limit: limit.and_then(|limit| u64::try_from(limit / 1000).ok()),
        });
    }
    if let Some(host) = &volume.host_path {
        return Ok(Source::Host {
            path: host.path.clone(),
            kind: host.type_.clone().unwrap_or_default(),
        });
    }
    if let Some(map) = &volume.config_map {
        let part = object_part(&map.name, map.items.as_ref(), map.optional, mode(map.default_mode)?);
        return Ok(Source::Files(vec![Part::ConfigMap(part)]));
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let part = object_part(name, secret.items.as_ref(), secret.optional, mode(secret.default_mode)?);
        return Ok(Source::Files(vec![Part::Secret(part)]));
    }
    if let Some(downward) = &volume.downward_api {
        let items = downward.items.clone().unwrap_or_default();
        return Ok(Source::Files(vec![Part::Downward(items, mode(downward.default_mode)?)]));
    }
    let Some(projected) = &volume.projected else {
        return Err(format!(
            "volume {:?}: no kind of volume that this kubelet knows",
            volume.name
        ));
    };
    let mode = mode(projected.default_mode)?;
    let mut parts = Vec::new();
    for one in projected.sources.iter().flatten() {
        if let Some(map) = &one.config_map {
            parts.push(Part::ConfigMap(object_part(
                &map.name,
                map.items.as_ref(),
                map.optional,
                mode,
            )));
        } else if let Some(secret) = &one.secret {
            parts.push(Part::Secret(object_part(
                &secret.name,
                secret.items.as_ref(),
                secret.optional,
                mode,
            )));
        } else if let Some(downward) = &one.downward_api {
            parts.push(Part::Downward(downward.items.clone().unwrap_or_default(), mode));
        } else if let Some(token) = &one.service_account_token {
            parts.push(Part::Token(token.clone(), mode));
        } else {
            return Err(format!(
                "volume {:?}: a projection that this kubelet does not know",
                volume.name
            ));
        }
    }
    Ok(Source::Files(parts))
}

fn object_part(name: &str, items: Option<&Vec<KeyToPath>>, optional: Option<bool>, mode: u32) -> ObjectPart {
    ObjectPart {
        name: name.to_owned(),
        items: items.filter(|items| !items.is_empty()).cloned(),
        optional: optional.unwrap_or(false),
        mode,
    }
}

fn mode(value: Option<i32>) -> Result<u32, String> {
    value.map_or(Ok(DEFAULT_MODE), |mode| {
        u32::try_from(mode).map_err(|_error| format!("{mode} is no file mode"))
    })
}

/// Files of a ConfigMap.
pub(super) fn config_map_files(
    part: &ObjectPart,
    namespace: &str,
    object: Option<&ConfigMap>,
) -> Result<Files, String> {
    let data = object.map(|map| {
        let mut data: BTreeMap<&str, &[u8]> = map
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.as_bytes()))
            .collect();
        data.extend(
            map.binary_data
                .iter()
                .flatten()
                .map(|(key, ByteString(value))| (key.as_str(), value.as_slice())),
        );
        data
    });
    object_files(part, data, "configmap", namespace)
}

/// Files of a Secret.
pub(super) fn secret_files(part: &ObjectPart, namespace: &str, object: Option<&Secret>) -> Result<Files, String> {
    let data = object.map(|secret| {
        let data = secret.data.iter().flatten();
        data.map(|(key, ByteString(value))| (key.as_str(), value.as_slice()))
            .collect()
    });
    object_files(part, data, "secret", namespace)
}

fn object_files(
    part: &ObjectPart,
    data: Option<BTreeMap<&str, &[u8]>>,
    kind: &str,
    namespace: &str,
) -> Result<Files, String> {
    let data = match data {
        Some(data) => data,
        None if part.optional => BTreeMap::new(),
        None => return Err(format!("{kind} {:?} not found", part.name)),
    };
    let file = |mode: u32, content: &[u8]| File {
        mode,
        content: content.to_vec(),
    };
    let Some(items) = &part.items else {
        return Ok(data
            .into_iter()
            .map(|(key, content)| (key.to_owned(), file(part.mode, content)))
            .collect());
    };
    let mut files = Files::new();
    for item in items {
        let mode = item.mode.map_or(Ok(part.mode), |mode| self::mode(Some(mode)))?;
        match data.get(item.key.as_str()) {
            Some(content) => drop(files.insert(relative(&item.path)?, file(mode, content))),
            None if part.optional => {}
            None => {
                let name = &part.name;
                return Err(format!(
                    "references non-existent {kind} key: {} ({namespace}/{name})",
                    item.key
                ));
            }
        }
    }
    Ok(files)
}

/// Files of the downward API.
pub(super) fn downward_files(
    items: &[DownwardAPIVolumeFile],
    mode: u32,
    pod: &Pod,
    facts: &Facts,
) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items {
        let text = if let Some(reference) = &item.field_ref {
            downward::field(pod, facts, &reference.field_path)?
        } else if let Some(reference) = &item.resource_field_ref {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let name = reference.container_name.as_deref().unwrap_or_default();
            let container = containers.into_iter().find(|container| container.name == name);
            downward::resource(
                container.ok_or_else(|| format!("container {name:?} not found"))?,
                facts,
                reference,
            )?
        } else {
            return Err(format!("{}: neither fieldRef nor resourceFieldRef", item.path));
        };
        let mode = item.mode.map_or(Ok(mode), |mode| self::mode(Some(mode)))?;
        files.insert(
            relative(&item.path)?,
            File {
                mode,
                content: text.into_bytes(),
            },
        );
    }
    Ok(files)
}

/// `path` when it stays inside the volume.
pub(super) fn relative(path: &str) -> Result<String, String> {
    if path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!("{path:?} does not stay inside its volume"));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn part(volume: Value) -> ObjectPart {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let Source::Files(parts) = source(&volume).unwrap() else {
            panic!("not made of files")
        };
        let Some(Part::ConfigMap(part) | Part::Secret(part)) = parts.into_iter().next() else {
            panic!("not of an object")
        };
        part
    }

    #[test]
    fn items_choose_keys_paths_and_modes() {
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "/w=="}})).unwrap();
        let all = part(json!({"name": "v", "configMap": {"name": "m", "defaultMode": 0o600}}));
        let files = config_map_files(&all, "n", Some(&map)).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(
            files["c"],
            File {
                mode: 0o600,
                content: vec![0xff]
            }
        );
        let items = json!([{"key": "b", "path": "x/y", "mode": 0o400}]);
        let some = part(json!({"name": "v", "configMap": {"name": "m", "items": items}}));
        let files = config_map_files(&some, "n", Some(&map)).unwrap();
        assert_eq!(
            files,
            [(
                "x/y".to_owned(),
                File {
                    mode: 0o400,
                    content: b"2".to_vec()
                }
            )]
            .into()
        );
    }

    #[test]
    fn what_is_missing_is_an_error_unless_optional() {
        let wanted = json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "k"}]}});
        assert_eq!(
            secret_files(&part(wanted.clone()), "n", None).unwrap_err(),
            "secret \"s\" not found"
        );
        let empty = Secret::default();
        assert_eq!(
            secret_files(&part(wanted), "n", Some(&empty)).unwrap_err(),
            "references non-existent secret key: k (n/s)"
        );
        let optional = part(json!({"name": "v", "secret": {"secretName": "s", "optional": true}}));
        assert_eq!(secret_files(&optional, "n", None).unwrap(), Files::new());
    }

    #[test]
    fn paths_stay_inside() {
        for path in ["", "/etc/passwd", "a/../../b"] {
            assert!(relative(path).is_err(), "{path}");
        }
    }
}
