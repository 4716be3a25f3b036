//! The command line, and which command it runs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

use crate::error::Error;
use crate::{explain, fetch, simulate, sites, token};

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

/// Which hub, spelled as kubectl spells it.
#[derive(Debug, clap::Args)]
pub struct Hub {
    /// The kubeconfig file; default: $KUBECONFIG, else ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace; default: the context's.
    #[arg(long, short = 'n', global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
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
    /// List the Sites that have joined.
    Sites,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token with which one Site can join, once.
    Create(TokenArgs),
}

/// What a join token allows.
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    /// Name of the Supplier whose Site joins.
    #[arg(long, value_name = "NAME")]
    pub supplier: String,
    /// How far the Site is trusted.
    #[arg(long, value_enum, ignore_case = true, default_value = "Untrusted")]
    pub trust: TrustArg,
    /// How long the token can be used, such as 15m or 1h30m; at most 24h.
    #[arg(long, value_name = "DURATION", default_value = "15m")]
    pub ttl: String,
    /// Where Sites reach a gateway of this hub, for the printed command.
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "output")]
    pub hub: Option<String>,
    /// Print nothing but the token.
    #[arg(long, short = 'o', value_enum)]
    pub output: Option<TokenOutput>,
}

/// How far a Site is trusted.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum TrustArg {
    /// Anybody's machine.
    Untrusted,
    /// A data center with a contract.
    Contracted,
    /// Hardware that attests what it runs.
    Attested,
}

/// What is printed of a new token.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TokenOutput {
    /// Only the token.
    Token,
}

/// What a command found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs, or would.
    Fits,
    /// It does not fit.
    DoesNotFit,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Fits => Self::SUCCESS,
            Verdict::DoesNotFit => Self::from(3),
        }
    }
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Verdict, Error> {
    let client = fetch::connect(&args.hub).await?;
    let now = Timestamp::now();
    match args.command {
        Command::Explain { cluster } => explain::run(&client, args.hub.namespace.as_deref(), &cluster, now).await,
        Command::Simulate { file } => simulate::run(&client, args.hub.namespace.as_deref(), &file, now).await,
        Command::Token(TokenCommand::Create(token)) => token::create(&client, &token, rand::random(), now).await,
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
