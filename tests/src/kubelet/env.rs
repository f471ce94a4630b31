//! A container's environment and command line. Pure: what is referred to has been fetched before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};

use super::downward::{self, Facts};
use super::images::Image;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Objects of the Pod's namespace by name; `None` for those that don't exist.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub(super) config_maps: BTreeMap<String, Option<ConfigMap>>,
    pub(super) secrets: BTreeMap<String, Option<Secret>>,
    /// Those whose addresses are told in variables.
    pub(super) services: Vec<Service>,
    /// The API server's own Service.
    pub(super) kubernetes: Option<Service>,
}

impl Objects {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.config_maps.get(name).and_then(Option::as_ref)
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name).and_then(Option::as_ref)
    }
}

/// Names of the ConfigMaps and Secrets that a container's environment refers to.
pub(super) fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.as_ref().map(|one| one.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|one| one.name.clone()));
    }
    for source in container
        .env
        .iter()
        .flatten()
        .filter_map(|variable| variable.value_from.as_ref())
    {
        config_maps.extend(source.config_map_key_ref.as_ref().map(|one| one.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|one| one.name.clone()));
    }
    (config_maps, secrets)
}

/// The environment, later entries before earlier ones. The error is what a user sees with CreateContainerConfigError.
pub(super) fn environment(
    pod: &Pod,
    container: &Container,
    image: &Image,
    hostname: &str,
    facts: &Facts,
    objects: &Objects,
) -> Result<Vec<(String, String)>, String> {
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    env.insert("PATH".to_owned(), PATH.to_owned());
    env.insert("HOSTNAME".to_owned(), hostname.to_owned());
    if container.tty == Some(true) {
        env.insert("TERM".to_owned(), "xterm".to_owned());
    }
    env.extend(image.env.clone());
    let service_links = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    let services = service_links.then_some(&objects.services).into_iter().flatten();
    let mut known: BTreeMap<String, String> = objects
        .kubernetes
        .iter()
        .chain(services)
        .flat_map(service_variables)
        .collect();
    env.extend(known.clone());

    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match objects.config_map(&reference.name) {
                Some(map) => env.extend(
                    map.data
                        .iter()
                        .flatten()
                        .map(|(key, value)| (format!("{prefix}{key}"), value.clone())),
                ),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match objects.secret(&reference.name) {
                Some(secret) => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    env.extend(
                        secret
                            .data
                            .iter()
                            .flatten()
                            .map(|(key, value)| (format!("{prefix}{key}"), text(&value.0))),
                    );
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    known.extend(env.clone());

    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &known)),
            Some(source) => {
                if let Some(reference) = &source.field_ref {
                    Some(downward::field(pod, facts, &reference.field_path)?)
                } else if let Some(reference) = &source.resource_field_ref {
                    Some(downward::resource(container, facts, reference)?)
                } else if let Some(reference) = &source.config_map_key_ref {
                    let map = objects.config_map(&reference.name);
                    let value = map.and_then(|map| map.data.as_ref()?.get(&reference.key).cloned());
                    let optional = reference.optional == Some(true);
                    required(
                        value,
                        optional,
                        map.is_some(),
                        "configmap",
                        "ConfigMap",
                        &reference.name,
                        &reference.key,
                        namespace,
                    )?
                } else if let Some(reference) = &source.secret_key_ref {
                    let secret = objects.secret(&reference.name);
                    let value = secret.and_then(|secret| {
                        let bytes = secret.data.as_ref()?.get(&reference.key)?;
                        Some(String::from_utf8_lossy(&bytes.0).into_owned())
                    });
                    let optional = reference.optional == Some(true);
                    required(
                        value,
                        optional,
                        secret.is_some(),
                        "secret",
                        "Secret",
                        &reference.name,
                        &reference.key,
                        namespace,
                    )?
                } else {
                    return Err(format!("variable {} has no source that is known here", variable.name));
                }
            }
        };
        if let Some(value) = value {
            known.insert(variable.name.clone(), value.clone());
            env.insert(variable.name.clone(), value);
        }
    }
    Ok(env.into_iter().collect())
}

#[expect(clippy::too_many_arguments, reason = "all of it is in the message")]
fn required(
    value: Option<String>,
    optional: bool,
    exists: bool,
    resource: &str,
    kind: &str,
    name: &str,
    key: &str,
    namespace: &str,
) -> Result<Option<String>, String> {
    match value {
        Some(value) => Ok(Some(value)),
        None if optional => Ok(None),
        None if exists => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
        None => Err(format!("{resource} {name:?} not found")),
    }
}

/// `$(NAME)` is replaced where the name is known, `$$` stands for one `$`, everything else stays.
pub(super) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let name = after.strip_prefix('(').and_then(|inside| inside.split_once(')'));
        match name {
            Some((name, after)) => {
                match known.get(name) {
                    Some(value) => result.push_str(value),
                    None => result.push_str(&format!("$({name})")),
                }
                rest = after;
            }
            None => {
                result.push('$');
                rest = after;
            }
        }
    }
    result + rest
}

/// What is run: the Pod's `command` replaces the image's entry point and arguments, its `args` only the arguments.
pub(super) fn command(container: &Container, image: &Image, env: &[(String, String)]) -> Vec<String> {
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    let expanded = |list: &[String]| list.iter().map(|word| expand(word, &known)).collect::<Vec<_>>();
    let of = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let (command, args) = (of(&container.command), of(&container.args));
    let own_command = command.is_some();
    let mut words = command.map_or_else(|| image.command.clone(), |list| expanded(&list));
    match args {
        Some(args) => words.extend(expanded(&args)),
        None if own_command => {}
        None => words.extend(image.args.iter().cloned()),
    }
    words
}

/// `NAME_SERVICE_HOST` and its like.
fn service_variables(service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.clone().unwrap_or_default();
    let Some(host) = spec
        .cluster_ip
        .filter(|address| !address.is_empty() && address != "None")
    else {
        return Vec::new();
    };
    let ports = spec.ports.unwrap_or_default();
    let Some(first) = ports.first() else {
        return Vec::new();
    };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let name = upper(service.metadata.name.as_deref().unwrap_or_default());
    let mut variables = vec![
        (format!("{name}_SERVICE_HOST"), host.clone()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    let in_url = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    for port in &ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.push((
                format!("{name}_SERVICE_PORT_{}", upper(port_name)),
                port.port.to_string(),
            ));
        }
        let url = format!("{}://{in_url}:{}", protocol.to_lowercase(), port.port);
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        if std::ptr::eq(port, first) {
            variables.push((format!("{name}_PORT"), url.clone()));
        }
        variables.push((prefix.clone(), url));
        variables.push((format!("{prefix}_PROTO"), protocol.to_lowercase()));
        variables.push((format!("{prefix}_PORT"), port.port.to_string()));
        variables.push((format!("{prefix}_ADDR"), host.clone()));
    }
    variables
}

#[cfg(test)]
mod tests;
