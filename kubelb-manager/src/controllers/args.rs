//! Flags of the controllers.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::Settings;

/// Shortest life of a token that API servers give.
const SHORTEST_LIFE: Duration = Duration::from_secs(600);

/// How tenants are registered.
#[derive(Args, Clone, Debug)]
pub struct ControllersArgs {
    /// URL by which tenants reach the API server of the management cluster; may be repeated, and a CCM uses the next when one does not answer.
    /// Left out: the one in the ConfigMap kube-public/cluster-info, else every address of the Service default/kubernetes.
    #[arg(long = "api-server-url", value_name = "URL", value_parser = url)]
    pub api_server_urls: Vec<String>,
    /// Authority of those API servers, PEM. Left out: the one in kube-public/cluster-info, else in the ConfigMap kube-root-ca.crt.
    #[arg(long, value_name = "FILE")]
    pub api_server_ca: Option<PathBuf>,
    /// For how long the token of a tenant's CCM is good. It is renewed when half of that is over. In Go's notation: 24h.
    #[arg(long, value_name = "DURATION", default_value = "720h", value_parser = lifetime)]
    pub tenant_token_lifetime: Duration,
}

impl Default for ControllersArgs {
    /// As without any flag.
    fn default() -> Self {
        Self {
            api_server_urls: Vec::new(),
            api_server_ca: None,
            tenant_token_lifetime: Duration::from_secs(720 * 60 * 60),
        }
    }
}

impl ControllersArgs {
    /// What the controllers work with. `namespace` is the manager's, `instance` the name of this replica.
    ///
    /// # Errors
    /// When the authority cannot be read.
    pub fn settings(&self, namespace: &str, instance: &str) -> anyhow::Result<Settings> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("--api-server-ca {}", path.display()))
        };
        Ok(Settings {
            namespace: namespace.to_owned(),
            instance: instance.to_owned(),
            api_server_urls: self.api_server_urls.clone(),
            api_server_ca: self.api_server_ca.as_ref().map(read).transpose()?,
            token_lifetime: self.tenant_token_lifetime,
            renew_after: None,
        })
    }
}

fn url(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").unwrap_or_default();
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(format!("{text:?} is no URL of an API server; use https://HOST:PORT"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let parsed: Result<kube::core::Duration, _> = text.parse();
    let span = parsed
        .ok()
        .filter(|span| !span.is_negative())
        .map(Duration::from)
        .ok_or_else(|| format!("{text:?} is no time such as 24h or 90m"))?;
    if span < SHORTEST_LIFE {
        return Err(format!("{text} is too short; API servers give tokens for 10m at least"));
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ControllersArgs,
    }

    #[test]
    fn what_cannot_be_is_explained() {
        for (flag, said) in [
            ("--api-server-url=http://a", "https://HOST:PORT"),
            ("--tenant-token-lifetime=1m", "10m at least"),
            ("--tenant-token-lifetime=soon", "24h"),
        ] {
            let error = Cli::try_parse_from(["x", flag]).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
        let cli = Cli::try_parse_from(["x", "--api-server-url=https://a/", "--api-server-url=https://b:6443"]).unwrap();
        let settings = cli.args.settings("kubelb", "m-0").unwrap();
        assert_eq!(settings.api_server_urls, ["https://a", "https://b:6443"]);
        assert_eq!(settings.token_lifetime, Duration::from_secs(30 * 24 * 3600));
    }
}
