//! How clients of a listener show who they are (GEP-91): the authorities that their certificates are of.
//!
//! What is not understood or not there keeps clients out; it never lets them in.

use std::sync::Arc;

use kubelb_api::gateway_api as api;
use kubelb_api::v1alpha1::KubernetesSource;

use super::{Authorities, Clients, Verdict, cluster};

/// Most ConfigMaps of one listener, as the schema has it.
const MAX_REFERENCES: usize = 16;
/// Longest bundle of one listener, in bytes.
const MAX_BUNDLE: usize = 256 << 10;

/// What a listener asks of clients.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ClientsDraft {
    /// Namespaces and names of ConfigMaps.
    authorities: Vec<(String, String)>,
    /// The first reference that cannot be followed.
    refused: Option<Verdict>,
    /// Who shows none that can be verified is let in as well.
    pub(super) insecure_fallback: bool,
}

/// Authorities of a ConfigMap, by namespace and name, with the SyncSecret's name.
pub(super) type Find<'a> = dyn Fn(&str, &str) -> Result<(Arc<str>, Arc<Authorities>), String> + 'a;

/// Reads what is wanted; the error says why the listener cannot be served.
pub(super) fn read(
    namespace: &str,
    wanted: &api::FrontendValidation,
    source: &KubernetesSource,
) -> Result<ClientsDraft, Verdict> {
    let insecure_fallback = match wanted.mode.as_deref().unwrap_or("AllowValidOnly") {
        "AllowValidOnly" => false,
        "AllowInsecureFallback" => true,
        other => {
            let message =
                format!("tls.frontend: mode {other:?} is not known; use AllowValidOnly or AllowInsecureFallback");
            return Err(Verdict::no("UnsupportedValue", message));
        }
    };
    let mut draft = ClientsDraft {
        authorities: Vec::new(),
        refused: None,
        insecure_fallback,
    };
    for (index, reference) in wanted.ca_certificate_refs.iter().enumerate().take(MAX_REFERENCES) {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or_default();
        let of = reference
            .namespace
            .as_deref()
            .filter(|text| !text.is_empty())
            .unwrap_or(namespace);
        let at = format!("caCertificateRefs[{index}]");
        let refused = if (group, kind) == ("", "ConfigMap") {
            cluster::refused(source, (group, kind, of, &reference.name))
        } else {
            let message = format!("{kind}.{group} cannot have authorities; put them into a ConfigMap, key ca.crt");
            Some(("InvalidCACertificateKind", message))
        };
        match refused {
            Some((reason, message)) => {
                let verdict = || Verdict::no(reason, format!("{at}: {message}"));
                draft.refused.get_or_insert_with(verdict);
            }
            None => draft.authorities.push((of.to_owned(), reference.name.clone())),
        }
    }
    Ok(draft)
}

/// What clients are held against.
pub(super) struct Resolved {
    /// `None`: there is nothing that they could be held against, so nobody may come in.
    pub(super) clients: Option<(Clients, Arc<Authorities>)>,
    /// The first reference that leads nowhere.
    pub(super) refused: Option<Verdict>,
}

impl ClientsDraft {
    /// With the authorities that there are. `prefix`: of names of resources.
    pub(super) fn resolve(&self, prefix: &str, find: &Find<'_>) -> Resolved {
        let mut refused = self.refused.clone();
        let mut found: Vec<(Arc<str>, Arc<Authorities>)> = Vec::new();
        let mut length = 0_usize;
        for (namespace, name) in &self.authorities {
            let answer = find(namespace, name).and_then(|(object, authorities)| {
                length = length.saturating_add(authorities.bundle.len());
                if length > MAX_BUNDLE {
                    return Err(format!("all authorities together are longer than {MAX_BUNDLE} bytes"));
                }
                Ok((object, authorities))
            });
            match answer {
                Ok(known) if found.contains(&known) => {}
                Ok(known) => found.push(known),
                Err(why) => {
                    let message = format!("ConfigMap {namespace}/{name}: {why}");
                    refused.get_or_insert_with(|| Verdict::no("InvalidCACertificateRef", message));
                }
            }
        }
        let names: Vec<&str> = found.iter().map(|(object, _)| &**object).collect();
        let name = format!("{prefix}/{}/ca", names.join("+"));
        let together = match found.as_slice() {
            [] => None,
            [(_, only)] => Some(Arc::clone(only)),
            all => Some(Arc::new(Authorities {
                bundle: all.iter().map(|(_, one)| one.bundle.as_str()).collect(),
            })),
        };
        let clients = together.map(|together| {
            let clients = Clients {
                authorities: name.into(),
                insecure_fallback: self.insecure_fallback,
            };
            (clients, together)
        });
        Resolved { clients, refused }
    }
}

#[cfg(test)]
mod tests;
