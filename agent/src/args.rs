//! Flags.

use std::net::SocketAddr;
use std::path::PathBuf;

use atoll_api::names::{SYSTEM_NAMESPACE, WATCHDOG_KEY_SECRET};
use atoll_runtime::process::CommonArgs;
use atoll_wire::token::JoinToken;

use crate::tls::HubAddress;

/// A Site's end of the stream to its hub.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "atoll-agent", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Join the hub if this Site has not yet, then serve it until told to stop.
    Run(RunArgs),
}

/// Flags of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Flags that every process has.
    #[command(flatten)]
    pub common: CommonArgs,
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
    /// Namespace of Atoll's own objects on the Site.
    #[arg(long, value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    pub namespace: String,
    /// Secret that keeps the Site's key and certificate.
    #[arg(long, value_name = "NAME", default_value = "atoll-agent-identity")]
    pub state_secret: String,
    /// Where the watchdogs of the Site's nodes are answered; without it none is, and only the Site's API stops members.
    #[arg(long, value_name = "HOST:PORT")]
    pub watchdog_listen: Option<SocketAddr>,
    /// File that holds the key that the watchdogs have too, instead of the Secret.
    #[arg(long, value_name = "FILE", requires = "watchdog_listen")]
    pub watchdog_key: Option<PathBuf>,
    /// Secret that holds the key; made when there is none.
    #[arg(long, value_name = "NAME", default_value = WATCHDOG_KEY_SECRET)]
    pub watchdog_key_secret: String,
    /// Domain of the Site's cluster DNS.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[test]
    fn flags_are_consistent_and_what_is_needed_is_asked_for() {
        Args::command().debug_assert();
        let run = ["atoll-agent", "run", "--hub", "hub.example:443", "--region", "eu-west"];
        assert!(Args::try_parse_from(run).is_ok());
        assert!(Args::try_parse_from(&run[..4]).is_err(), "no region");
        assert!(Args::try_parse_from(run.into_iter().chain(["--token", "junk"])).is_err());
    }
}
