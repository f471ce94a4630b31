//! `kube-apiserver` and `etcd`, when they are at hand.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tokio::time::{Instant, interval, timeout_at};

use super::client::Client;
use super::world::{TENANT, TENANT_TOKEN};

const START_WITHIN: Duration = Duration::from_secs(90);
const ADMIN_TOKEN: &str = "admintoken";

/// Both processes; killed on drop.
pub(crate) struct Real(Vec<Child>);

impl Drop for Real {
    fn drop(&mut self) {
        for child in self.0.iter_mut().rev() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(program: &Path, arguments: &[String], log: &Path) -> Child {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(log).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()))
}

impl Real {
    pub(crate) async fn start(assets: &Path, directory: &Path) -> (Self, Client) {
        let (client_port, peer_port, port) = (free_port(), free_port(), free_port());
        let at = |name: &str| directory.join(name).display().to_string();
        let etcd = [
            format!("--data-dir={}", at("etcd")),
            format!("--listen-client-urls=http://127.0.0.1:{client_port}"),
            format!("--advertise-client-urls=http://127.0.0.1:{client_port}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
        ];
        let mut running = Self(vec![start(&assets.join("etcd"), &etcd, &directory.join("etcd.log"))]);

        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        fs::write(directory.join("tls.crt"), certificate.pem()).unwrap();
        fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
        let account_key = KeyPair::generate().unwrap();
        fs::write(directory.join("sa.key"), account_key.serialize_pem()).unwrap();
        let tokens = format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n{TENANT_TOKEN},{TENANT},{TENANT}\n");
        fs::write(directory.join("tokens.csv"), tokens).unwrap();
        let server = [
            format!("--etcd-servers=http://127.0.0.1:{client_port}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", at("tls.crt")),
            format!("--tls-private-key-file={}", at("tls.key")),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/108".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", at("sa.key")),
            format!("--service-account-signing-key-file={}", at("sa.key")),
        ];
        running.0.push(start(
            &assets.join("kube-apiserver"),
            &server,
            &directory.join("apiserver.log"),
        ));

        let client = Client::new(&format!("127.0.0.1:{port}"), &certificate.pem(), Some(ADMIN_TOKEN));
        let deadline = Instant::now() + START_WITHIN;
        let mut again = interval(Duration::from_millis(200));
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err()
            || client.get("/readyz").await.status != 200
        {
            let log = || fs::read_to_string(directory.join("apiserver.log")).unwrap_or_default();
            assert!(
                timeout_at(deadline, again.tick()).await.is_ok(),
                "not ready in time: {}",
                log()
            );
        }
        (running, client)
    }
}
