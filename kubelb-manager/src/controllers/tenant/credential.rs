//! The Secret with the kubeconfig of a tenant's CCM.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use kubelb_api::names::{CCM_ACCOUNT, CCM_KUBECONFIG_SECRET, KUBECONFIG_KEY, TenantName};

use super::super::api_servers::{self, ApiServers, Sources, Unknown};
use super::super::failure::{ControllerError, doing};
use super::super::kubeconfig::{self, Renewal};
use super::super::registration;
use super::{Context, exactly};

const OPAQUE: &str = "Opaque";
/// No tenant gets more than one token in this time.
const MIN_AGE: Duration = Duration::from_secs(1);

impl Context {
    /// Has a kubeconfig with a good token, and says until when nothing has to be done about it.
    pub(super) async fn have_kubeconfig(
        &self,
        name: &TenantName,
        account: &ServiceAccount,
    ) -> Result<Result<Timestamp, Unknown>, ControllerError> {
        let servers = match self.api_servers() {
            Ok(servers) => servers,
            Err(unknown) => return Ok(Err(unknown)),
        };
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &name.namespace());
        let present = secrets
            .get_opt(CCM_KUBECONFIG_SECRET)
            .await
            .map_err(doing("reading the kubeconfig"))?;
        let text = present.as_ref().and_then(text_of);
        let uid = account.metadata.uid.as_deref().unwrap_or_default();
        let renewal = Renewal {
            lifetime: self.settings.token_lifetime,
            after: self.settings.renew_after,
        };
        let good_until = |token: &str| kubeconfig::good_until(token, uid, renewal, Timestamp::now());
        let kept = text
            .and_then(kubeconfig::token)
            .and_then(|token| Some((good_until(&token)?, token)));
        let (until, token) = match kept {
            Some(kept) => kept,
            None => {
                // With a clock that is wrong no token would seem good, and each write is a reason to look again.
                self.pauses.wait(name.as_str(), MIN_AGE).await;
                let token = self.token(name).await?;
                tracing::info!(tenant = %name, "has a new token");
                let soon = Timestamp::now().checked_add(MIN_AGE);
                (good_until(&token).or(soon.ok()).unwrap_or_default(), token)
            }
        };
        let wanted = kubeconfig::write(&servers, &name.namespace(), &token)?;
        let secret = secret(name, wanted);
        match present {
            Some(present) if is_right(&present, &secret) => {}
            Some(present) if present.immutable == Some(true) || present.type_.as_deref() != Some(OPAQUE) => {
                let deleted = secrets.delete(CCM_KUBECONFIG_SECRET, &exactly(&present.metadata)).await;
                deleted.map_err(doing("deleting a Secret that cannot be changed"))?;
                create(&secrets, &secret).await?;
            }
            Some(present) => {
                let mut secret = secret;
                secret.metadata.resource_version = present.metadata.resource_version;
                let written = secrets
                    .replace(CCM_KUBECONFIG_SECRET, &PostParams::default(), &secret)
                    .await;
                written.map_err(doing("writing the kubeconfig"))?;
            }
            None => create(&secrets, &secret).await?,
        }
        Ok(Ok(until))
    }

    fn api_servers(&self) -> Result<ApiServers, Unknown> {
        let (info, root) = (self.knowledge.cluster_info.state(), self.knowledge.root_ca.state());
        let sources = Sources {
            urls: &self.settings.api_server_urls,
            authority: self.settings.api_server_ca.as_deref(),
            cluster_info: info.first().map(AsRef::as_ref),
            root_ca: root.first().map(AsRef::as_ref),
        };
        let slices = self.knowledge.slices.state();
        api_servers::choose(&sources, slices.iter().map(AsRef::as_ref))
    }

    async fn token(&self, name: &TenantName) -> Result<String, ControllerError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &name.namespace());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: i64::try_from(self.settings.token_lifetime.as_secs()).ok(),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(CCM_ACCOUNT, &PostParams::default(), &request)
            .await;
        let answer = answer.map_err(doing("getting a token"))?;
        Ok(answer.status.and_then(|status| status.token).unwrap_or_default())
    }
}

async fn create(secrets: &Api<Secret>, secret: &Secret) -> Result<(), ControllerError> {
    let created = secrets.create(&PostParams::default(), secret).await;
    created.map(drop).map_err(doing("creating the kubeconfig"))
}

fn secret(name: &TenantName, kubeconfig: String) -> Secret {
    Secret {
        metadata: registration::inside(name, CCM_KUBECONFIG_SECRET),
        data: Some([(KUBECONFIG_KEY.to_owned(), ByteString(kubeconfig.into_bytes()))].into()),
        type_: Some(OPAQUE.to_owned()),
        ..Secret::default()
    }
}

fn text_of(secret: &Secret) -> Option<&str> {
    let bytes = secret.data.as_ref()?.get(KUBECONFIG_KEY)?;
    std::str::from_utf8(&bytes.0).ok()
}

fn is_right(present: &Secret, wanted: &Secret) -> bool {
    present.data == wanted.data
        && present.type_ == wanted.type_
        && registration::is_labelled(&present.metadata, &wanted.metadata)
}
