//! A Pod's namespaces: made and ended.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::sync::PoisonError;

use anyhow::Context as _;
use kube::ResourceExt as _;
use tokio::process::Child;

use super::super::launch::{SANDBOX, SandboxSpec};
use super::super::launcher::{self, Started, Stdio3};
use super::super::{name_files, network};
use super::Worker;

/// What a Pod's network namespace has before its first link: addresses usable at once, and what engines allow Pods.
const SETTINGS: [(&str, &str); 6] = [
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];

/// The process that holds them.
pub(super) struct Sandbox {
    child: Child,
    pub(super) pid: i32,
    addresses: Vec<IpAddr>,
}

impl Worker {
    pub(super) async fn start_sandbox(&mut self) -> anyhow::Result<()> {
        let options = &self.kubelet.options;
        let spec = self.pod.spec.clone().unwrap_or_default();
        let run = self.directory.join("run");
        fs::create_dir_all(&run).with_context(|| format!("cannot make {}", run.display()))?;
        let mut sandbox = SandboxSpec {
            hostname: self.hostname.clone(),
            run,
            memory: self.volumes.memory.clone(),
            ..SandboxSpec::default()
        };
        let mut taken = Vec::new();
        if spec.host_network == Some(true) {
            self.facts.pod_ips = options.addresses.clone();
        } else {
            let mut addresses = self.kubelet.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            taken = addresses.take().context("no address is left for Pods")?;
            self.facts.pod_ips = taken.clone();
            let uid = self.pod.uid().unwrap_or_default().replace('-', "");
            let interface = format!("veth{}", uid.get(..11).unwrap_or("pod"));
            sandbox.network = Some(network::wiring(
                &interface,
                &taken,
                &options.addresses,
                std::process::id(),
            ));
            sandbox.sysctls = SETTINGS.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
            let own = spec
                .security_context
                .as_ref()
                .and_then(|context| context.sysctls.clone())
                .unwrap_or_default();
            sandbox.sysctls.extend(
                own.into_iter()
                    .map(|sysctl| (sysctl.name.replace('.', "/"), sysctl.value)),
            );
        }
        match self.launch(&sandbox).await {
            Ok(Started { child, inside }) => {
                self.sandbox = Some(Sandbox {
                    child,
                    pid: inside,
                    addresses: taken,
                });
                self.state.sandbox = true;
                self.register();
                Ok(())
            }
            Err(error) => {
                self.give_back(&taken);
                Err(error)
            }
        }
    }

    async fn launch(&self, sandbox: &SandboxSpec) -> anyhow::Result<Started> {
        let etc = self.directory.join("etc");
        fs::create_dir_all(&etc).with_context(|| format!("cannot make {}", etc.display()))?;
        let spec = self.pod.spec.clone().unwrap_or_default();
        let namespace = self.pod.namespace().unwrap_or_default();
        let machine = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let dns = &self.kubelet.options.cluster_dns;
        let texts = [
            (
                "hosts",
                name_files::hosts(&spec, &self.hostname, &self.facts.pod_ips, &machine("/etc/hosts")),
            ),
            ("hostname", format!("{}\n", self.hostname)),
            (
                "resolv.conf",
                name_files::resolv_conf(&spec, &namespace, dns, &machine("/etc/resolv.conf")),
            ),
        ];
        for (name, text) in texts {
            fs::write(etc.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        let file = self.directory.join("sandbox.json");
        fs::write(&file, serde_json::to_vec(sandbox)?).with_context(|| format!("cannot write {}", file.display()))?;
        let arguments: [OsString; 1] = [file.into_os_string()];
        Ok(launcher::start(SANDBOX, &arguments, Stdio3::null()).await?)
    }

    pub(super) async fn end_sandbox(&mut self) {
        if let Some(sandbox) = self.sandbox.take() {
            launcher::end(sandbox.child).await;
            self.give_back(&sandbox.addresses);
            self.state.sandbox = false;
            self.register();
        }
    }

    fn give_back(&self, addresses: &[IpAddr]) {
        self.kubelet
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .give_back(addresses);
    }
}
