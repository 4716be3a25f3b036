//! Which hub, and the way to it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::error::Error;

/// Which hub, spelled as kubectl spells it.
#[derive(Debug, clap::Args)]
pub struct Hub {
    /// The kubeconfig file; default: $KUBECONFIG, else ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The namespace; default: the context's.
    #[arg(long, short = 'n', global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

impl Hub {
    /// A client for this hub.
    pub async fn connect(&self) -> Result<Client, Error> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(path) => from_file(path, &options).await,
            None if self.context.is_some() => {
                Config::from_kubeconfig(&options).await.context("cannot load the kubeconfig")
            }
            None => Config::infer().await.context("there is no kubeconfig"),
        };
        let config = config.map_err(Error::Kubeconfig)?;
        Client::try_from(config).context("the kubeconfig cannot be used").map_err(Error::Kubeconfig)
    }
}

async fn from_file(path: &Path, options: &KubeConfigOptions) -> anyhow::Result<Config> {
    let file = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(file, options).await;
    config.with_context(|| format!("{} cannot be used", path.display()))
}
