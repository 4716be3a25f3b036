//! `atoll-agent join`: joins, keeps the identity, and says what comes next.

use std::path::PathBuf;

use anyhow::Context as _;
use atoll_api::names::SYSTEM_NAMESPACE;
use atoll_runtime::logs::{self, LogFormat};
use atoll_runtime::process;
use atoll_wire::pin::Pin;
use atoll_wire::wallet::WalletSigner;
use tokio_util::sync::CancellationToken;

use crate::entry::EntryArgs;
use crate::identity::{self, Identity, Proof};

/// Flags of `join`.
#[derive(Clone, Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("proof").required(true).args(["token", "token_file", "wallet_file"])))]
pub struct JoinArgs {
    /// Which hub, and how the Site joins it.
    #[command(flatten)]
    pub entry: EntryArgs,
    /// Join without a token: file of the supplier's wallet, as the Solana CLI keeps it. It signs for the Site's key, here
    /// and once, and is not kept.
    #[arg(long, value_name = "FILE", requires = "hub_pin")]
    pub wallet_file: Option<PathBuf>,
    /// Pin of the hub's CA, as its operators publish it: who has no token knows the hub by this.
    #[arg(long, value_name = "PIN", requires = "wallet_file", conflicts_with_all = ["token", "token_file"])]
    pub hub_pin: Option<Pin>,
    /// Kubeconfig of the Site; without it $KUBECONFIG, ~/.kube/config or the pod's service account. Not used with
    /// `--identity-dir`.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of Atoll's own objects on the Site.
    #[arg(long, value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    pub namespace: String,
}

/// Joins, unless the Site has joined already, and prints what comes next.
pub async fn run(args: JoinArgs) -> anyhow::Result<()> {
    logs::init(LogFormat::Text, "warn")?;
    let entry = &args.entry;
    let client = async || process::client("atoll-agent", args.kubeconfig.as_deref()).await;
    let store = entry.store(&args.namespace, client).await?;
    let join = match (&args.wallet_file, args.hub_pin) {
        (Some(path), Some(pin)) => {
            let text = tokio::fs::read_to_string(path).await.with_context(|| path.display().to_string())?;
            let wallet = WalletSigner::from_file_text(&text).with_context(|| path.display().to_string())?;
            entry.join_with(Proof::Wallet(wallet, pin))
        }
        _ => entry.join().await?,
    };
    let identity = identity::obtain(&store, &entry.hub, &join, &CancellationToken::new()).await?;
    print!("{}", next(&args, &identity));
    Ok(())
}

fn next(args: &JoinArgs, identity: &Identity) -> String {
    let entry = &args.entry;
    let (kept, flag) = match &entry.identity_dir {
        Some(directory) => (directory.display().to_string(), format!(" --identity-dir={}", directory.display())),
        None => (
            format!("Secret {}/{}", args.namespace, entry.state_secret),
            format!(" --state-secret={}", entry.state_secret),
        ),
    };
    let quarantine = if args.wallet_file.is_some() {
        "It is in quarantine until the hub promotes it: it is seen and measured, and nothing is placed there.\n"
    } else {
        ""
    };
    format!(
        "This is the Site {} of the hub at {}. Its key and certificate are kept in {kept}.\n{quarantine}\
         Serve it, with the KUBECONFIG of its cluster:\n\n\
         atoll-agent run --hub={} --region={} --namespace={}{flag}\n",
        identity.site, entry.hub, entry.hub, entry.region, args.namespace,
    )
}
