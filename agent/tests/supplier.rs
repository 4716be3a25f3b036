//! The supplier's side: its policy on a real API server, and what the agent makes of it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hub;

use std::process::Stdio;

use atoll_api::conditions::{self, member_reason, site_policy};
use atoll_api::{SitePolicy, names};
use atoll_testkit::require;
use atoll_testkit::wait::{wait_for, wait_gone};
use atoll_wire::v1::member::Phase;
use atoll_wire::v1::{Availability, Reservation, SliceKey, agent_message};
use hub::site::{LIMIT, Site, all, key, spec};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

impl Site {
    fn policies(&self) -> Api<SitePolicy> {
        Api::namespaced(self.plane.client(), names::SYSTEM_NAMESPACE)
    }

    /// What `atoll-agent` says to the supplier on its command line.
    async fn command(&self, args: &[&str]) -> String {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_atoll-agent"));
        command.args(args).arg("--kubeconfig").arg(self.plane.kubeconfig()).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await.expect("it ends").unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    async fn availability(&mut self, wanted: Availability) {
        self.hub
            .hear("its availability", |message| match message {
                agent_message::Message::Availability(change) if change.availability() == wanted => Some(()),
                _ => None,
            })
            .await;
    }

    async fn set_policy(&self, spec: Value) {
        let policies = self.policies();
        let made: SitePolicy = serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "SitePolicy", "metadata": {"name": "default"}, "spec": spec,
        }))
        .unwrap();
        if policies.get_opt(names::SITE_POLICY).await.unwrap().is_some() {
            policies
                .patch(names::SITE_POLICY, &PatchParams::default(), &Patch::Merge(json!({"spec": spec})))
                .await
                .unwrap();
        } else {
            policies.create(&PostParams::default(), &made).await.unwrap();
        }
        wait_for(&policies, names::SITE_POLICY, "to be in force", LIMIT, |policy| {
            let status = policy.status.clone().unwrap_or_default();
            let applied = conditions::condition(&status.conditions, site_policy::APPLIED);
            applied.is_some_and(|applied| {
                applied.status == "True" && applied.observed_generation == policy.metadata.generation
            })
        })
        .await
        .unwrap();
    }

    /// The hub wants this, and the agent refuses it in these words.
    async fn refuses(&mut self, key: &SliceKey, spec: &Value, words: &str) {
        self.hub.say_slice(key, 1, spec).await;
        let key = key.clone();
        let report = self
            .report("that it refuses", |report| {
                report.key.as_ref() == Some(&key) && report.reservation() == Reservation::Refused
            })
            .await;
        assert_eq!(report.reason, member_reason::POD_REFUSED);
        assert!(report.message.contains(words), "{}", report.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_told_and_at_its_deadline_members_stop_for_good() {
    require!(Core);
    let mut site = Site::start("agent-drain").await;
    let (namespace, slice) = site.run_one("left").await;
    let said = site.command(&["drain", "--seconds", "2"]).await;
    assert!(said.starts_with("Draining: members are to move away; what is still here after 2 s is stopped."), "{said}");
    assert!(said.contains("1 member runs, 0 are leaving"), "{said}");
    assert!(said.trim_end().ends_with("Nothing of Atoll runs here."), "{said}");
    site.availability(Availability::Draining).await;
    let report = site.report("that it is lost", |report| all(report, Phase::Lost)).await;
    assert_eq!(report.members[0].reason, member_reason::DRAINED);
    let policy = site.policies().get(names::SITE_POLICY).await.unwrap();
    assert!(policy.status.unwrap().draining_since.is_some());

    // An agent that starts again knows all of it from the Site.
    site.agent.kill9().await.unwrap();
    site.agent.restart().await.unwrap();
    assert_eq!(site.hello().await.availability(), Availability::Draining);
    site.hub.say_slice(&slice, 1, &spec("left", 1, &[1], (3, 6))).await;
    site.hub.say_synced(&[&slice]).await;
    let report = site.report("that it is still lost", |report| all(report, Phase::Lost)).await;
    assert_eq!(report.members[0].reason, member_reason::DRAINED);
    site.refuses(&key("new"), &spec("new", 1, &[1], (3, 6)), "the supplier drains this Site").await;
    assert!(site.pods(&namespace).list(&ListParams::default()).await.unwrap().items.is_empty());

    // Resumed: who was stopped or refused stays so, the next one comes.
    assert_eq!(site.command(&["resume"]).await, "Accepting: members may come.\n");
    site.availability(Availability::Accepting).await;
    site.hub.say_slice(&slice, 2, &spec("left", 2, &[2], (3, 6))).await;
    site.bind(&namespace, &slice.name, "2").await;
    site.report("that the next one is Ready", |report| report.observed_epoch == 2 && all(report, Phase::Ready)).await;
    let pods = site.pods(&namespace).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(pods.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>(), ["left-0-2"]);
    wait_for(&site.policies(), names::SITE_POLICY, "to say what runs", LIMIT, |policy| {
        policy.status.as_ref().is_some_and(|status| status.members.running == 1 && status.draining_since.is_none())
    })
    .await
    .unwrap();

    // Paused: it stays, and nobody else comes.
    assert_eq!(site.command(&["pause"]).await, "Paused: members that are here stay, none comes.\n");
    site.availability(Availability::Paused).await;
    site.refuses(&key("late"), &spec("late", 1, &[1], (3, 6)), "the supplier has paused this Site").await;
    assert_eq!(site.pods(&namespace).list(&ListParams::default()).await.unwrap().items.len(), 1);
    let log = std::fs::read_to_string(site.agent.log()).unwrap();
    assert!(!log.contains("forbidden"), "the agent's rights do not suffice:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_members_beyond_the_policy_are_refused_before_anything_is_made() {
    require!(Core);
    let mut site = Site::start("agent-rules").await;
    let digest = format!("registry.example/train@sha256:{}", "0".repeat(64));
    site.set_policy(json!({
        "images": {"requireDigest": true, "registries": ["registry.example"]},
        "members": {"max": 1, "cpu": 2, "memory": "4Gi"},
    }))
    .await;
    site.hello().await;
    site.hub.say_synced(&[]).await;
    let image = |name: &str, image: &str| {
        let mut spec = spec(name, 1, &[1], (60, 90));
        spec["template"]["spec"]["containers"][0]["image"] = image.into();
        spec
    };
    site.refuses(&key("tag"), &image("tag", "registry.example/train:1"), "by digest only").await;
    let elsewhere = digest.replace("registry.example", "registry.example.evil");
    site.refuses(&key("evil"), &image("evil", &elsewhere), "registry.example.evil/train is not in registry.example")
        .await;
    let mut large = image("large", &digest);
    large["template"]["spec"]["containers"][0]["resources"]["limits"] = json!({"memory": "8Gi"});
    site.refuses(&key("large"), &large, "take 8589934592 of memory, and this Site gives 4294967296").await;
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=atoll-agent");
    let namespaces: Api<Namespace> = Api::all(site.plane.client());
    assert!(namespaces.list(&ours).await.unwrap().items.is_empty());

    let fine = key("fine");
    let namespace = atoll_agent::naming::site_namespace("uid-fine");
    site.hub.say_slice(&fine, 1, &image("fine", &digest)).await;
    site.bind(&namespace, &fine.name, "1").await;
    let pod: Pod = site.pods(&namespace).get("fine-0-1").await.unwrap();
    let pod = pod.spec.unwrap();
    assert_eq!((pod.priority_class_name.as_deref(), pod.priority), (Some("atoll-member"), Some(-1000)));
    assert_eq!(pod.preemption_policy.as_deref(), Some("Never"));
    let resources = serde_json::to_value(pod.containers[0].resources.clone().unwrap()).unwrap();
    assert_eq!((&resources["requests"]["cpu"], &resources["limits"]["cpu"]), (&json!("1"), &json!("2")));
    assert_eq!(
        (&resources["requests"]["memory"], &resources["limits"]["memory"]),
        (&json!("1Gi"), &json!("4294967296"))
    );
    let full = "there would be 2 members on this Site, and its supplier lets 1 be here";
    site.refuses(&key("second"), &image("second", &digest), full).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn network_rules_come_with_the_namespace_and_follow_the_policy() {
    require!(Core);
    let mut site = Site::start("agent-network").await;
    let (namespace, _) = site.run_one("net").await;
    let written: Api<NetworkPolicy> = Api::namespaced(site.plane.client(), &namespace);
    let egress = |policy: &NetworkPolicy| serde_json::to_value(policy.spec.clone().unwrap().egress.unwrap()).unwrap();
    let policy = written.get("members").await.unwrap();
    let spec = serde_json::to_value(policy.spec.clone().unwrap()).unwrap();
    assert_eq!((&spec["podSelector"], &spec["policyTypes"]), (&json!({}), &json!(["Ingress", "Egress"])));
    assert_eq!(spec["ingress"], json!([{"from": [{"podSelector": {}}]}]));
    let blocks = egress(&policy);
    assert_eq!(blocks[2]["to"][0]["ipBlock"]["cidr"], "0.0.0.0/0");
    assert!(blocks[2]["to"][0]["ipBlock"]["except"].as_array().unwrap().contains(&json!("10.0.0.0/8")));
    assert_eq!(blocks[2]["to"][1]["ipBlock"]["cidr"], "::/0");

    // Also where members run already, and before the policy is said to be in force.
    site.set_policy(json!({"network": {"internet": false, "allow": ["10.2.0.0/16"]}})).await;
    let blocks = egress(&written.get("members").await.unwrap());
    assert_eq!(blocks.as_array().unwrap().len(), 3, "{blocks}");
    assert_eq!(blocks[2], json!({"to": [{"ipBlock": {"cidr": "10.2.0.0/16"}}]}));
    site.set_policy(json!({"network": {"internet": true, "deny": ["198.51.100.0/24", "2001:db8::/32"]}})).await;
    let blocks = egress(&written.get("members").await.unwrap());
    assert!(blocks[2]["to"][0]["ipBlock"]["except"].as_array().unwrap().contains(&json!("198.51.100.0/24")));
    assert!(blocks[2]["to"][1]["ipBlock"]["except"].as_array().unwrap().contains(&json!("2001:db8::/32")));
    // Without a policy everything is as it was at first.
    site.policies().delete(names::SITE_POLICY, &kube::api::DeleteParams::default()).await.unwrap();
    wait_gone(&site.policies(), names::SITE_POLICY, LIMIT).await.unwrap();
    wait_for(&written, "members", "to be the default again", LIMIT, |policy| {
        let blocks = egress(policy);
        blocks[2]["to"].as_array().is_some_and(|to| to.len() == 2 && !blocks.to_string().contains("198.51.100.0"))
    })
    .await
    .unwrap();
    let log = std::fs::read_to_string(site.agent.log()).unwrap();
    assert!(!log.contains("forbidden"), "the agent's rights do not suffice:\n{log}");
}
