//! Flags.

use std::net::SocketAddr;
use std::path::PathBuf;

use atoll_api::names::{SYSTEM_NAMESPACE, WATCHDOG_KEY_SECRET};
use atoll_runtime::process::CommonArgs;

use crate::entry::EntryArgs;
use crate::join::JoinArgs;

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
    Run(Box<RunArgs>),
    /// Join the hub and keep the identity, for `run` to serve with.
    Join(Box<JoinArgs>),
    /// Ask members to leave this Site, and wait until nothing of Atoll runs here.
    Drain(DrainArgs),
    /// Let no more members come; those that are here stay.
    Pause(SiteArgs),
    /// Let members come again, after a pause or instead of a drain.
    Resume(SiteArgs),
}

/// Flags of what a supplier says to its own Site.
#[derive(Clone, Debug, clap::Args)]
pub struct SiteArgs {
    /// Kubeconfig of the Site; without it $KUBECONFIG, ~/.kube/config or the pod's service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of Atoll's own objects on the Site.
    #[arg(long, value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    pub namespace: String,
}

/// Flags of `drain`.
#[derive(Clone, Debug, clap::Args)]
pub struct DrainArgs {
    /// Which Site.
    #[command(flatten)]
    pub site: SiteArgs,
    /// What is still here after so many seconds is stopped; kept in the `SitePolicy`. Without it: what is there, or 300.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i32).range(0..=86_400))]
    pub seconds: Option<i32>,
    /// Do not wait.
    #[arg(long)]
    pub no_wait: bool,
}

/// Flags of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Flags that every process has.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Which hub, and how the Site joins it.
    #[command(flatten)]
    pub entry: EntryArgs,
    /// Namespace of Atoll's own objects on the Site.
    #[arg(long, value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    pub namespace: String,
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
        let join = |more: &[&'static str]| {
            let words = ["atoll-agent", "join", "--hub", "hub.example:443", "--region", "eu-west"];
            Args::try_parse_from(words.iter().chain(more))
        };
        let pin = atoll_wire::pin::Pin::of_spki(b"hub").to_string();
        let pin: &'static str = pin.leak();
        for (fine, more) in [
            (true, &["--token-file", "f", "--identity-dir", "d"][..]),
            (true, &["--wallet-file", "f", "--hub-pin", pin]),
            (false, &[]),
            (false, &["--wallet-file", "f"]),
            (false, &["--hub-pin", pin, "--token-file", "f"]),
            (false, &["--wallet-file", "f", "--hub-pin", pin, "--token-file", "f"]),
            (false, &["--token-file", "f", "--identity-dir", "d", "--state-secret", "s"]),
        ] {
            assert_eq!(join(more).is_ok(), fine, "{more:?}");
        }
        for own in [&["drain", "--seconds", "0", "--no-wait"][..], &["pause", "--kubeconfig", "k"], &["resume"]] {
            assert!(Args::try_parse_from(["atoll-agent"].iter().chain(own)).is_ok(), "{own:?}");
        }
        assert!(Args::try_parse_from(["atoll-agent", "drain", "--seconds", "-1"]).is_err());
    }
}
