//! Tokens of service accounts, issued and reviewed by an API server: the testbed's, or `kube-apiserver` where there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use kubelb_manager::identity::review::ApiServer;
use kubelb_manager::identity::token::AUDIENCE;
use kubelb_manager::identity::{ServiceAccounts, TokenReviewer};
use kubelb_manager::xds::server::Count;
use kubelb_tests::apiserver::Config;
use kubelb_tests::control_plane::{ControlPlane, Host};
use kubelb_tests::scratch::Scratch;
use kubelb_tests::wait;
use kubelb_xds::{Resource, ResourceType, Scope};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

use crate::bootstrap::issue_with;
use crate::hub::{Hub, Setup};
use crate::peer::{Credential, DeltaPeer, SotwPeer};
use crate::world::{SOON, World, port, web};

const NAMESPACE: &str = "kubelb";
const ACCOUNTS: [&str; 3] = ["agent", "envoy-a", "tenant-a-ccm"];

/// An API server with service accounts.
struct Issuer {
    // Before the directory, which must outlive it; and both after what uses them.
    server: ControlPlane,
    client: Client,
    runtime: Runtime,
    _directory: Scratch,
}

impl Issuer {
    fn start() -> Self {
        let directory = Scratch::new().unwrap();
        let config = Config::new(&directory.path().join("server"));
        let server = ControlPlane::launch(config, Host::Here).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
        let client = runtime.block_on(async {
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            Client::try_from(config.unwrap()).unwrap()
        });
        let issuer = Self {
            server,
            client,
            runtime,
            _directory: directory,
        };
        let namespace = Namespace {
            metadata: named(NAMESPACE),
            ..Namespace::default()
        };
        let namespaces: Api<Namespace> = Api::all(issuer.client.clone());
        issuer
            .runtime
            .block_on(namespaces.create(&PostParams::default(), &namespace))
            .unwrap();
        ACCOUNTS.iter().for_each(|name| issuer.create(name));
        issuer
    }

    fn accounts(&self) -> Api<ServiceAccount> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn create(&self, name: &str) {
        let account = ServiceAccount {
            metadata: named(name),
            ..ServiceAccount::default()
        };
        let create = async { self.accounts().create(&PostParams::default(), &account).await };
        self.runtime.block_on(create).unwrap();
    }

    fn delete(&self, name: &str) {
        let delete = async { self.accounts().delete(name, &DeleteParams::default()).await };
        self.runtime.block_on(delete).unwrap();
    }

    /// A token of this account, for this audience.
    fn token(&self, name: &str, audience: Option<&str>) -> String {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|audience| vec![audience.to_owned()]),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let issue = async {
            let accounts = self.accounts();
            accounts
                .create_token_request(name, &PostParams::default(), &request)
                .await
        };
        self.runtime.block_on(issue).unwrap().status.unwrap().token.unwrap()
    }

    fn setup(&self) -> Setup {
        let kubeconfig = self.server.kubeconfig();
        let reviewer = self.runtime.block_on(ApiServer::new(Some(&kubeconfig))).unwrap();
        let agents = [format!("{NAMESPACE}/agent")];
        let fleets = [format!("{NAMESPACE}/envoy-a=a")];
        let accounts = ServiceAccounts::parse(&agents, &fleets).unwrap();
        Setup {
            tokens: Some((Arc::new(reviewer) as Arc<dyn TokenReviewer>, accounts)),
            ..Setup::default()
        }
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

fn resources() -> Vec<Resource> {
    web("a-cluster", &[("a-cluster", port(9))])
}

fn bearer(token: &str) -> Credential<'_> {
    Credential {
        certificate: None,
        token: Some(token),
    }
}

/// What a delta stream with this token is sent of clusters.
fn clusters(hub: &Hub<'_>, token: &str) -> Result<Vec<String>, Status> {
    let mut peer = DeltaPeer::open(hub, &bearer(token))?;
    peer.ask(ResourceType::Cluster, &[]);
    let response = peer.next()?;
    Ok(response.resources.into_iter().map(|each| each.name).collect())
}

fn refused(hub: &Hub<'_>, token: &str, code: Code, reason: &'static str) {
    let before = hub.count(Count::Refused, reason);
    let status = clusters(hub, token).expect_err("it is served");
    assert_eq!(status.code(), code, "{status}");
    assert_eq!(hub.count(Count::Refused, reason), before + 1);
    hub.assert_logged(&format!("reason=\"{reason}\""));
    let status = SotwPeer::open(hub, &bearer(token)).err().expect("it is served");
    assert_eq!(status.code(), code, "{status}");
}

#[test]
fn a_token_that_an_api_server_issued_opens_its_scope_and_no_other_token_does() {
    let issuer = Issuer::start();
    let world = World::new("xds-sa");
    let hub = Hub::with(&world.namespace, world.state(), resources(), issuer.setup());

    let envoy = issuer.token("envoy-a", Some(AUDIENCE));
    assert_eq!(clusters(&hub, &envoy).unwrap(), ["a-cluster"]);
    let agent = issuer.token("agent", Some(AUDIENCE));
    let peer = DeltaPeer::open(&hub, &bearer(&agent)).unwrap();
    wait::until(SOON, || {
        let peers = hub.server().registry().peers();
        let is_there = peers.iter().any(|peer| peer.identity.scope == Scope::Agent);
        anyhow::ensure!(is_there, "{peers:?}");
        Ok(())
    })
    .unwrap();
    drop(peer);

    // A tenant's CCM, also when it asks for our audience; a token for the API server; one that was tampered with; nonsense.
    let ccm = issuer.token("tenant-a-ccm", Some(AUDIENCE));
    refused(&hub, &ccm, Code::PermissionDenied, "stranger");
    refused(&hub, &issuer.token("agent", None), Code::Unauthenticated, "token");
    refused(
        &hub,
        &issuer.token("agent", Some("other")),
        Code::Unauthenticated,
        "token",
    );
    let (head, signature) = agent.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{head}.{first}{}", &signature[1..]);
    refused(&hub, &forged, Code::Unauthenticated, "token");
    refused(&hub, "nonsense", Code::Unauthenticated, "token");
    refused(&hub, issuer.server.token().unwrap(), Code::Unauthenticated, "token");
    // An account that is gone, and a namesake that came after it.
    let gone = issuer.token("agent", Some(AUDIENCE));
    issuer.delete("agent");
    refused(&hub, &gone, Code::Unauthenticated, "token");
    issuer.create("agent");
    let later = issuer.token("agent", Some(AUDIENCE));
    clusters(&hub, &later).unwrap();
}

#[test]
fn while_the_api_server_is_away_known_tokens_are_good_and_others_are_told_to_come_back() {
    let mut issuer = Issuer::start();
    let world = World::new("xds-sa-away");
    let hub = Hub::with(&world.namespace, world.state(), resources(), issuer.setup());
    let known = issuer.token("envoy-a", Some(AUDIENCE));
    let new = issuer.token("envoy-a", Some(AUDIENCE));
    let other = issuer.token("tenant-a-ccm", Some(AUDIENCE));
    clusters(&hub, &known).unwrap();

    issuer.server.kill().unwrap();
    assert_eq!(clusters(&hub, &known).unwrap(), ["a-cluster"]);
    refused(&hub, &new, Code::Unavailable, "review_failed");
    refused(&hub, &other, Code::Unavailable, "review_failed");

    issuer.server.start(Host::Here).unwrap();
    let (served, _) = wait::until(SOON, || Ok(clusters(&hub, &new)?)).unwrap();
    assert_eq!(served, ["a-cluster"]);
    refused(&hub, &other, Code::PermissionDenied, "stranger");
}

/// As the kubelet does it: a directory that is replaced by a link.
struct Projected {
    directory: Scratch,
    versions: u32,
}

impl Projected {
    fn new(token: &str) -> Self {
        let mut projected = Self {
            directory: Scratch::new().unwrap(),
            versions: 0,
        };
        projected.write(token);
        std::os::unix::fs::symlink("..data/token", projected.file()).unwrap();
        projected
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self) -> PathBuf {
        self.path().join("token")
    }

    fn write(&mut self, token: &str) {
        self.versions += 1;
        let version = format!("..{}", self.versions);
        std::fs::create_dir(self.path().join(&version)).unwrap();
        std::fs::write(self.path().join(&version).join("token"), token).unwrap();
        let next = self.path().join("..data_tmp");
        std::os::unix::fs::symlink(&version, &next).unwrap();
        std::fs::rename(next, self.path().join("..data")).unwrap();
    }
}

#[test]
fn an_envoy_with_a_token_shows_the_newest_one_when_it_comes_back() {
    let issuer = Issuer::start();
    let mut world = World::new("xds-sa-envoy");
    let one = world.backend("one");
    let mut hub = Hub::with(
        &world.namespace,
        world.state(),
        web("one", &[("one", one)]),
        issuer.setup(),
    );
    let mut token = Projected::new(&issuer.token("envoy-a", Some(AUDIENCE)));
    let directory = Scratch::new().unwrap();
    let bootstrap = issue_with(&hub, world.state(), directory.path(), Some(&token.file()));
    assert!(!directory.path().join("client-secret.json").exists(), "no certificate");
    let envoy = world.envoy_at(&bootstrap);
    hub.until_synced();
    envoy.until_serving(SOON).unwrap();
    let peers = hub.server().registry().peers();
    assert_eq!(peers[0].identity.subject, "system:serviceaccount:kubelb:envoy-a");
    let load = world.load();
    load.until_more(20).unwrap();

    for _ in 0..2 {
        // The token that the stream was opened with is worth nothing from now on.
        issuer.delete("envoy-a");
        issuer.create("envoy-a");
        let updates = || envoy.stat("sds.kubelb-xds-token.update_success").unwrap();
        let before = updates();
        token.write(&issuer.token("envoy-a", Some(AUDIENCE)));
        envoy
            .until(SOON, |_| {
                anyhow::ensure!(updates() > before, "the new token was not read");
                Ok(())
            })
            .unwrap();
        hub.kill();
        hub.restart();
        hub.until_synced();
        assert_eq!(hub.total(Count::Refused), 0, "{}", hub.server().render_metrics());
        assert_eq!(hub.total(Count::Resources), 0, "nothing is sent again");
    }
    load.until_more(20).unwrap();
    load.finish().unwrap().all_good().unwrap();
}
