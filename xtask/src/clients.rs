//! Which kubectl, helm and Envoy the tests run: found on the machine, never installed here.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;
use crate::workspace::Workspace;

/// A program of others that tests run as users do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// Its name on `PATH`.
    pub(crate) name: &'static str,
    /// The oldest version that serves, major and minor.
    pub(crate) oldest: (u32, u32),
    /// Tells the tests where it is.
    pub(crate) variable: &'static str,
    version: &'static [&'static str],
    /// Directory of the one that setup installs, in the cache.
    kept_in: &'static str,
}

/// Older ones lack `--subresource` of a stable kind, `create token`, and SPDY over WebSocket.
pub(crate) const KUBECTL: Client = Client {
    name: "kubectl",
    oldest: (1, 30),
    variable: "KUBELB_KUBECTL",
    version: &["version", "--client"],
    kept_in: "kubectl-debian13",
};

/// Older ones do not know Kubernetes' versions beyond 1.24.
pub(crate) const HELM: Client = Client {
    name: "helm",
    oldest: (3, 10),
    variable: "KUBELB_HELM",
    version: &["version", "--short"],
    kept_in: "helm-3.10.1",
};

/// What its newest features are tested with.
pub(crate) const ENVOY: Client = Client {
    name: "envoy",
    oldest: (1, 40),
    variable: "KUBELB_ENVOY",
    version: &["--version"],
    kept_in: "envoy-1.40.0",
};

impl Client {
    /// The one that tests run: that of `PATH` when it is new enough, else the one that setup installed.
    ///
    /// # Errors
    /// When there is no cache directory.
    pub(crate) fn find(&self) -> anyhow::Result<Option<PathBuf>> {
        let kept = self.kept()?.join(self.name);
        let on_path = process::find(self.name);
        Ok(on_path.into_iter().chain([kept]).find(|program| self.serves(program)))
    }

    /// Where setup puts it: a directory that holds it by its name.
    ///
    /// # Errors
    /// When there is no cache directory.
    pub(crate) fn kept(&self) -> anyhow::Result<PathBuf> {
        Ok(Workspace::cache()?.join(self.kept_in))
    }

    /// Whether `program` runs and is new enough.
    pub(crate) fn serves(&self, program: &Path) -> bool {
        program.is_file()
            && process::capture(Command::new(program).args(self.version))
                .is_ok_and(|said| version(&said).is_some_and(|version| version >= self.oldest))
    }

    /// What a person is told to install.
    pub(crate) fn wanted(&self) -> String {
        let (major, minor) = self.oldest;
        format!("{} {major}.{minor} or newer", self.name)
    }
}

/// Major and minor of the first `v1.2` or `1.2` in what a program says of itself. The ways of saying differ much over the years.
fn version(said: &str) -> Option<(u32, u32)> {
    // Envoy starts with the path that it was called by, which may hold any number.
    let said = said.rsplit_once("version:").map_or(said, |(_, after)| after);
    said.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '.'))
        .find_map(|word| {
            let mut parts = word.strip_prefix('v').unwrap_or(word).split('.');
            let mut number = || parts.next()?.parse().ok();
            Some((number()?, number()?))
        })
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn every_way_of_telling_the_version_is_read() {
        assert_eq!(
            version("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0\n"),
            Some((1, 32))
        );
        let old = r#"Client Version: version.Info{Major:"1", Minor:"20", GitVersion:"v1.20.2", GitCommit:"faecb1"}"#;
        assert_eq!(version(old), Some((1, 20)));
        assert_eq!(version("v3.10.1+g9f88ccb\n"), Some((3, 10)));
        let envoy = "\n/opt/proxies-2.3/envoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL\n\n";
        assert_eq!(version(envoy), Some((1, 40)));
        assert_eq!(version("no such command"), None);
    }
}
