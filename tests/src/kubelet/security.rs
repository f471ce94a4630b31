//! Security contexts: whom a container's process runs as and what it may. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext};

/// capabilities(7), by number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What container engines leave to a container that asks for nothing.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Whom a process runs as and what it may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) capabilities: Vec<u8>,
    pub(super) privileged: bool,
    pub(super) read_only_root: bool,
    pub(super) no_new_privileges: bool,
}

/// The container's own settings before the Pod's, before the image's user. The error is what a user sees in the container's
/// state.
pub(super) fn identity(pod: &PodSpec, container: &Container, image_user: u32) -> Result<Identity, String> {
    let empty = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&empty);
    let shared = pod.security_context.clone().unwrap_or_default();
    let uid = id(own.run_as_user.or(shared.run_as_user))?;
    let must_not_be_root = own.run_as_non_root.or(shared.run_as_non_root).unwrap_or(false);
    if must_not_be_root && uid.unwrap_or(image_user) == 0 {
        return Err(match uid {
            Some(_) => "container's runAsUser breaks non-root policy".to_owned(),
            None => "container has runAsNonRoot and image will run as root".to_owned(),
        });
    }
    let mut groups = BTreeSet::new();
    for group in shared.supplemental_groups.iter().flatten().chain(&shared.fs_group) {
        groups.extend(id(Some(*group))?);
    }
    let privileged = own.privileged.unwrap_or(false);
    Ok(Identity {
        uid: uid.unwrap_or(image_user),
        gid: id(own.run_as_group.or(shared.run_as_group))?.unwrap_or(0),
        groups: groups.into_iter().collect(),
        capabilities: capabilities(own, privileged)?,
        privileged,
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
    })
}

fn id(value: Option<i64>) -> Result<Option<u32>, String> {
    value
        .map(|value| u32::try_from(value).map_err(|_error| format!("{value} is no user or group")))
        .transpose()
}

fn capabilities(own: &SecurityContext, privileged: bool) -> Result<Vec<u8>, String> {
    let all = || NAMES.iter().copied().collect::<BTreeSet<&str>>();
    let asked = own.capabilities.clone().unwrap_or_default();
    let names = |list: Option<Vec<String>>| -> Vec<String> {
        let plain = |name: String| name.trim_start_matches("CAP_").to_owned();
        list.unwrap_or_default().into_iter().map(plain).collect()
    };
    let (add, drop) = (names(asked.add), names(asked.drop));
    let mut kept: BTreeSet<&str> = if privileged {
        all()
    } else {
        DEFAULT.into_iter().collect()
    };
    let has_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    if has_all(&drop) && !privileged {
        kept.clear();
    }
    if has_all(&add) {
        kept = all();
    }
    for name in add.iter().filter(|name| *name != "ALL") {
        let known = NAMES.iter().find(|known| *known == name);
        kept.insert(known.ok_or_else(|| format!("unknown capability \"CAP_{name}\""))?);
    }
    for name in drop.iter().filter(|_| !privileged) {
        kept.remove(name.as_str());
    }
    Ok((0_u8..)
        .zip(NAMES)
        .filter(|(_, name)| kept.contains(name))
        .map(|(number, _)| number)
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(pod: Value, container: Value, image_user: u32) -> Result<Identity, String> {
        let pod: PodSpec = serde_json::from_value(json!({"containers": [], "securityContext": pod})).unwrap();
        let container = serde_json::from_value(json!({"name": "c", "securityContext": container})).unwrap();
        identity(&pod, &container, image_user)
    }

    fn names(identity: &Identity) -> Vec<&str> {
        identity
            .capabilities
            .iter()
            .map(|number| NAMES[usize::from(*number)])
            .collect()
    }

    #[test]
    fn the_containers_settings_win_over_the_pods_and_those_over_the_image() {
        let pod = json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [9, 4]});
        let identity = of(pod, json!({"runAsUser": 5}), 7).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.groups), (5, 2, vec![3, 4, 9]));
        assert_eq!(of(json!({}), json!({}), 7).unwrap().uid, 7);
    }

    #[test]
    fn capabilities_are_dropped_and_added() {
        let some = of(
            json!({}),
            json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "CAP_BPF"]}}),
            0,
        )
        .unwrap();
        assert_eq!(names(&some), ["NET_ADMIN", "BPF"]);
        let plain = of(json!({}), json!({"capabilities": {"drop": ["KILL"]}}), 0).unwrap();
        assert_eq!(plain.capabilities.len(), DEFAULT.len() - 1);
        let privileged = of(
            json!({}),
            json!({"privileged": true, "capabilities": {"drop": ["ALL"]}}),
            0,
        )
        .unwrap();
        assert_eq!(privileged.capabilities.len(), NAMES.len());
        assert!(of(json!({}), json!({"capabilities": {"add": ["FLY"]}}), 0).is_err());
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let forgot = of(json!({"runAsNonRoot": true}), json!({}), 0).unwrap_err();
        assert_eq!(forgot, "container has runAsNonRoot and image will run as root");
        assert!(of(json!({"runAsNonRoot": true}), json!({"runAsUser": 0}), 65532).is_err());
        assert!(of(json!({"runAsNonRoot": true}), json!({}), 65532).is_ok());
    }
}
