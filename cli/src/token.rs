//! `token create`: lets one Site join, once.

use std::collections::BTreeMap;

use atoll_api::Supplier;
use atoll_api::names::{LABEL_JOIN_TOKEN, LABEL_SUPPLIER, SYSTEM_NAMESPACE};
use atoll_core::units::parse_duration_seconds;
use atoll_wire::token::{JoinToken, KEY_EXPIRES, KEY_HASH, KEY_SUPPLIER, KEY_TRUST, RANDOM_BYTES};
use clap::ValueEnum;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::ca;
use crate::error::Error;
use crate::render::print;
use crate::verdict::Verdict;

/// The longest life of a token, seconds.
const LONGEST_TTL: u64 = 24 * 3600;
/// Field manager of this program.
pub(crate) const FIELD_MANAGER: &str = "kubectl-atoll";

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
    /// Region of the Site, such as `eu-west`, for the printed commands.
    #[arg(long, value_name = "REGION", default_value = "REGION")]
    pub region: String,
    /// Where Sites reach a gateway of this hub, for the printed commands.
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

/// Runs the command. `random` makes the token and must not be known to anybody.
pub async fn create(
    client: &Client,
    args: &TokenArgs,
    random: [u8; RANDOM_BYTES],
    now: Timestamp,
) -> Result<Verdict, Error> {
    let expires = expiry(&args.ttl, now)?;
    if Api::<Supplier>::all(client.clone()).get_opt(&args.supplier).await?.is_none() {
        return Err(Error::NotFound {
            kind: "Supplier",
            name: args.supplier.clone(),
            hint: "; apply one first, such as examples/supplier.yaml".to_owned(),
        });
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let (pin, _) = ca::present(client, now).await?;
    let token = JoinToken::generate(&random, pin);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    secrets.create(&params, &secret(&token, args, expires)).await?;
    match (&args.output, &args.hub) {
        (None, Some(hub)) => print(&instructions(&token, args, hub, expires)),
        _ => print(&format!("{token}\n")),
    }
    Ok(Verdict::Fits)
}

fn expiry(ttl: &str, now: Timestamp) -> Result<Timestamp, Error> {
    let seconds = parse_duration_seconds(ttl)?;
    if seconds > LONGEST_TTL {
        return Err(Error::TtlTooLong);
    }
    let seconds = i64::try_from(seconds).map_err(|_| Error::TtlTooLong)?;
    now.checked_add(SignedDuration::from_secs(seconds)).map_err(|_| Error::TtlTooLong)
}

/// What the hub keeps of a token.
fn secret(token: &JoinToken, args: &TokenArgs, expires: Timestamp) -> Secret {
    let data = [
        (KEY_HASH, token.presented().secret_hash()),
        (KEY_SUPPLIER, args.supplier.clone()),
        (KEY_TRUST, trust(args.trust).to_owned()),
        (KEY_EXPIRES, expires.to_string()),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(token.presented().secret_name()),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            labels: Some(BTreeMap::from([
                (LABEL_JOIN_TOKEN.to_owned(), "true".to_owned()),
                (LABEL_SUPPLIER.to_owned(), args.supplier.clone()),
            ])),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        string_data: Some(data.map(|(key, value)| (key.to_owned(), value)).into()),
        ..Secret::default()
    }
}

const fn trust(trust: TrustArg) -> &'static str {
    match trust {
        TrustArg::Untrusted => "Untrusted",
        TrustArg::Contracted => "Contracted",
        TrustArg::Attested => "Attested",
    }
}

fn instructions(token: &JoinToken, args: &TokenArgs, hub: &str, expires: Timestamp) -> String {
    let TokenArgs { supplier, region, .. } = args;
    format!(
        "One Site of Supplier {supplier} can join with this, once, until {expires:.0}.\n\
         Run at the Site, with the KUBECONFIG of its cluster, either with Helm:\n\n\
         helm install atoll-site charts/atoll-site --namespace={SYSTEM_NAMESPACE} --create-namespace \
         --set hub.address={hub} --set hub.joinToken={token} --set region={region}\n\n\
         or without:\n\n\
         atoll-agent join --hub={hub} --token={token} --region={region}\n"
    )
}

#[cfg(test)]
mod tests {
    use atoll_wire::pin::Pin;

    use super::*;

    fn args() -> TokenArgs {
        TokenArgs {
            supplier: "acme".to_owned(),
            trust: TrustArg::Contracted,
            ttl: "15m".to_owned(),
            region: "eu-west".to_owned(),
            hub: Some("hub.example:443".to_owned()),
            output: None,
        }
    }

    fn token() -> JoinToken {
        JoinToken::generate(&[7; RANDOM_BYTES], Pin::of_spki(b"the CA's key"))
    }

    #[test]
    fn a_token_s_secret_holds_its_hash_and_never_the_token() {
        let expires = expiry("15m", Timestamp::UNIX_EPOCH).unwrap();
        let secret = secret(&token(), &args(), expires);
        let data = secret.string_data.as_ref().unwrap();
        assert_eq!(data["sha256"], token().presented().secret_hash());
        assert_eq!(data["supplier"], "acme");
        assert_eq!(data["trust"], "Contracted");
        assert_eq!(data["expires"].parse::<Timestamp>().unwrap(), expires);
        let shown = token().presented().to_string();
        let (_, secret_part) = shown.split_once('.').unwrap();
        assert!(!serde_json::to_string(&secret).unwrap().contains(secret_part));
    }

    #[test]
    fn a_token_lives_a_day_at_most() {
        for (ttl, fine) in [("15m", true), ("24h", true), ("24h1s", false), ("0s", false), ("soon", false)] {
            assert_eq!(expiry(ttl, Timestamp::UNIX_EPOCH).is_ok(), fine, "{ttl}");
        }
    }

    #[test]
    fn the_commands_for_the_site_are_one_line_each_with_everything_that_it_needs() {
        let text = instructions(&token(), &args(), "hub.example:443", Timestamp::UNIX_EPOCH);
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(&token().to_string())).collect();
        assert_eq!(lines.len(), 2, "{text}");
        for (line, start) in lines.into_iter().zip(["helm install ", "atoll-agent join "]) {
            assert!(line.starts_with(start), "{line}");
            assert!(line.contains("hub.example:443") && line.ends_with("region=eu-west"), "{line}");
        }
    }
}
