//! How a Site comes to its identity, as flags say: which hub, by what token, kept where.

use std::path::PathBuf;

use anyhow::Context as _;
use atoll_wire::token::JoinToken;
use kube::Api;

use crate::identity::{IdentityStore, Join, Proof};
use crate::tls::HubAddress;

/// Flags of whatever needs the Site's identity.
#[derive(Clone, Debug, clap::Args)]
pub struct EntryArgs {
    /// Where the hub's gateways are reached.
    #[arg(long, value_name = "HOST:PORT", env = "ATOLL_HUB")]
    pub hub: HubAddress,
    /// Token to join with; needed until the Site has joined. Whoever may see this process sees it: prefer the file.
    #[arg(long, value_name = "TOKEN", env = "ATOLL_JOIN_TOKEN", hide_env_values = true)]
    pub token: Option<JoinToken>,
    /// File that holds the token.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Region of the Site, such as `eu-west`; taken over by the hub when the Site joins.
    #[arg(long, value_name = "REGION", env = "ATOLL_REGION")]
    pub region: String,
    /// Name of the Site for people; taken over by the hub when the Site joins.
    #[arg(long, value_name = "NAME", env = "ATOLL_DISPLAY_NAME", default_value = "")]
    pub display_name: String,
    /// Secret that keeps the Site's key and certificate.
    #[arg(long, value_name = "NAME", default_value = "atoll-agent-identity")]
    pub state_secret: String,
    /// Directory that keeps the Site's key and certificate, in place of a Secret.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "state_secret")]
    pub identity_dir: Option<PathBuf>,
}

impl EntryArgs {
    /// Where the identity is kept; `client` is asked for where that is a Secret.
    pub async fn store<C>(&self, namespace: &str, client: C) -> anyhow::Result<IdentityStore>
    where
        C: AsyncFnOnce() -> anyhow::Result<kube::Client>,
    {
        Ok(match &self.identity_dir {
            Some(directory) => IdentityStore::Directory(directory.clone()),
            None => {
                IdentityStore::Secret(Box::new(Api::namespaced(client().await?, namespace)), self.state_secret.clone())
            }
        })
    }

    /// What the Site says of itself when it joins, with the token that was given.
    pub async fn join(&self) -> anyhow::Result<Join> {
        Ok(self.join_with(self.token().await?.map_or(Proof::None, Proof::Token)))
    }

    /// The same with something else to show.
    #[must_use]
    pub fn join_with(&self, proof: Proof) -> Join {
        Join { proof, display_name: self.display_name.clone(), region: self.region.clone() }
    }

    async fn token(&self) -> anyhow::Result<Option<JoinToken>> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        match tokio::fs::read_to_string(path).await {
            Ok(text) => Ok(Some(text.parse().with_context(|| path.display().to_string())?)),
            // The file is taken away once the Site has joined.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }
}
