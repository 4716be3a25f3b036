//! The command line, and which command it runs.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use jiff::Timestamp;

use crate::error::Error;
use crate::hub::Hub;
use crate::token::TokenArgs;
use crate::verdict::Verdict;
use crate::{ca, explain, simulate, sites, token};

/// What kubectl alone cannot say about a hub of Atoll.
///
/// Ends with 0 when what was asked about runs or fits, 3 when it does not fit, 1 on errors.
#[derive(Debug, Parser)]
#[command(name = "kubectl-atoll", bin_name = "kubectl atoll", version)]
pub struct Args {
    /// Which hub.
    #[command(flatten)]
    hub: Hub,
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say why a Cluster is where it is, or why it is pending and what would fit.
    Explain {
        /// Name of the Cluster.
        cluster: String,
    },
    /// Say what would happen with a manifest now. Nothing is written.
    Simulate {
        /// The manifest, with one or more Clusters; - for standard input.
        #[arg(long = "filename", short = 'f', value_name = "FILE")]
        file: PathBuf,
    },
    /// Join tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// The hub's CA.
    #[command(subcommand)]
    Ca(CaCommand),
    /// List the Sites that have joined.
    Sites,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Say the pin by which Sites know the hub, and how far a rotation is.
    Show,
    /// Begin to replace the CA. Sites follow by themselves; nobody joins anew.
    Rotate,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token with which one Site can join, once.
    Create(TokenArgs),
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Verdict, Error> {
    let client = args.hub.connect().await?;
    let now = Timestamp::now();
    match args.command {
        Command::Explain { cluster } => explain::run(&client, args.hub.namespace.as_deref(), &cluster, now).await,
        Command::Simulate { file } => simulate::run(&client, args.hub.namespace.as_deref(), &file, now).await,
        Command::Token(TokenCommand::Create(token)) => token::create(&client, &token, rand::random(), now).await,
        Command::Ca(CaCommand::Show) => ca::show(&client, now).await,
        Command::Ca(CaCommand::Rotate) => ca::rotate(&client, now).await,
        Command::Sites => sites::run(&client, now).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_token_needs_the_hub_s_address_unless_only_the_token_is_wanted() {
        let parse = |rest: &[&str]| {
            Args::try_parse_from(["kubectl-atoll", "token", "create", "--supplier", "acme"].iter().chain(rest))
        };
        assert!(parse(&[]).is_err());
        assert!(parse(&["--hub", "hub.example:443"]).is_ok());
        assert!(parse(&["-o", "token"]).is_ok());
        assert!(parse(&["--trust", "Contracted", "--output", "token"]).is_ok());
        assert!(parse(&["--trust", "contracted", "--output", "token"]).is_ok());
        assert!(parse(&["--trust", "much", "--output", "token"]).is_err());
    }
}
