//! What a supplier says on the command line: drain, pause, resume.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use atoll_api::{Availability, SitePolicy, SitePolicySpec, names};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::args::{DrainArgs, SiteArgs};

const NAME: &str = "atoll-agent-command";
/// How often what is left is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// An agent that has not answered a policy for so long is perhaps not there.
const ANSWER: Duration = Duration::from_secs(10);

/// Says what the supplier wants of its Site.
pub async fn set(args: &SiteArgs, availability: Availability) -> anyhow::Result<()> {
    let client = client(args).await?;
    change(&client, args, availability, None).await?;
    say(match availability {
        Availability::Accepting => "Accepting: members may come.",
        Availability::Paused => "Paused: members that are here stay, none comes.",
        Availability::Draining => "Draining: members are to move away.",
    })
}

/// Drains the Site, and unless told not to waits until nothing of Atoll runs there.
pub async fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    let client = client(&args.site).await?;
    let policy = change(&client, &args.site, Availability::Draining, args.seconds).await?;
    let seconds = policy.spec.drain_seconds;
    say(&format!("Draining: members are to move away; what is still here after {seconds} s is stopped."))?;
    if args.no_wait {
        return Ok(());
    }
    say("This only watches from here on: it may be interrupted, and `atoll-agent resume` calls the drain off.")?;
    let pods: Api<Pod> = Api::all(client.clone());
    let policies: Api<SitePolicy> = Api::namespaced(client, &args.site.namespace);
    let asked = tokio::time::Instant::now();
    let mut told = String::new();
    loop {
        let left = left(&pods).await?;
        if left == Left::default() {
            return say("Nothing of Atoll runs here.");
        }
        let policy = policies.get(names::SITE_POLICY).await.context("read the SitePolicy")?;
        anyhow::ensure!(policy.spec.availability == Availability::Draining, "the drain was called off");
        let now = progress(&policy, &left, Timestamp::now(), asked.elapsed() >= ANSWER);
        // The time that is left alone is no news.
        let news = now.split_once(';').map_or(now.as_str(), |(news, _)| news);
        if told != news {
            say(&now)?;
            told = news.to_owned();
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Pods of members that have not ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    running: usize,
    leaving: usize,
}

async fn left(pods: &Api<Pod>) -> anyhow::Result<Left> {
    let ours = ListParams::default()
        .labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY_AGENT))
        .fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = pods.list_metadata(&ours).await.context("list the pods of members")?;
    let leaving = pods.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count();
    Ok(Left { running: pods.items.len() - leaving, leaving })
}

/// What is left, in words; behind a semicolon what only time changes.
fn progress(policy: &SitePolicy, left: &Left, now: Timestamp, patience_is_over: bool) -> String {
    let Left { running, leaving } = left;
    let is_are = if *leaving == 1 { "is" } else { "are" };
    let members = if *running == 1 { "member runs" } else { "members run" };
    let counts = format!("{running} {members}, {leaving} {is_are} leaving");
    let status = policy.status.as_ref();
    let seen = status.is_some_and(|status| status.observed_generation == policy.metadata.generation);
    match status.and_then(|status| status.draining_since.as_ref()).filter(|_| seen) {
        Some(since) => {
            let passed = now.duration_since(since.0).as_secs();
            let rest = i64::from(policy.spec.drain_seconds).saturating_sub(passed).max(0);
            format!("{counts}; the deadline is in {rest} s")
        }
        None if patience_is_over => format!("{counts}, and the agent has not taken the drain up: does it run?"),
        None => counts,
    }
}

/// Writes what the supplier wants into the Site's policy, which is made if there is none.
async fn change(
    client: &kube::Client,
    args: &SiteArgs,
    availability: Availability,
    seconds: Option<i32>,
) -> anyhow::Result<SitePolicy> {
    let policies: Api<SitePolicy> = Api::namespaced(client.clone(), &args.namespace);
    let mut spec = json!({"availability": availability});
    if let Some(seconds) = seconds {
        spec["drainSeconds"] = seconds.into();
    }
    let params = PatchParams { field_manager: Some(NAME.into()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"spec": spec}));
    match policies.patch(names::SITE_POLICY, &params, &patch).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        result => return result.context("change the SitePolicy"),
    }
    let mut made = SitePolicySpec { availability, ..SitePolicySpec::default() };
    made.drain_seconds = seconds.unwrap_or(made.drain_seconds);
    let params = PostParams { field_manager: Some(NAME.into()), ..PostParams::default() };
    let made = policies.create(&params, &SitePolicy::new(names::SITE_POLICY, made)).await;
    made.with_context(|| {
        format!(
            "make the SitePolicy in namespace {}; are crds/ applied on this Site, and is it the agent's",
            args.namespace
        )
    })
}

async fn client(args: &SiteArgs) -> anyhow::Result<kube::Client> {
    atoll_runtime::process::client(NAME, args.kubeconfig.as_deref()).await
}

/// One line to whoever asked, at once also where it goes into a file.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_what_is_left_and_whether_the_agent_listens() {
        let policy = |status: serde_json::Value| -> SitePolicy {
            serde_json::from_value(json!({
                "apiVersion": "atoll.dev/v1alpha1", "kind": "SitePolicy", "metadata": {"name": "default", "generation": 2},
                "spec": {"availability": "Draining", "drainSeconds": 300}, "status": status,
            }))
            .unwrap()
        };
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        let seen = policy(json!({"observedGeneration": 2, "drainingSince": at(0).to_string()}));
        let left = Left { running: 2, leaving: 1 };
        assert_eq!(progress(&seen, &left, at(60), true), "2 members run, 1 is leaving; the deadline is in 240 s");
        let left = Left { running: 1, leaving: 2 };
        assert_eq!(progress(&seen, &left, at(999), true), "1 member runs, 2 are leaving; the deadline is in 0 s");
        let unseen = policy(json!({"observedGeneration": 1, "drainingSince": at(0).to_string()}));
        assert_eq!(progress(&unseen, &left, at(1), false), "1 member runs, 2 are leaving");
        assert!(progress(&unseen, &left, at(11), true).ends_with("does it run?"));
    }
}
