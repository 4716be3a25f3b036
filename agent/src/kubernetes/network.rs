//! What members may reach: the `NetworkPolicy` of each Cluster's namespace.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::{NetworkRules, names};
use atoll_runtime::backoff::Backoff;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1 as net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{KubernetesRuntime, REQUESTS_AT_ONCE, objects, views};
use crate::policy::Policy;
use crate::policy::keep::NetworkWritten;

/// Name of the policy in each namespace.
const NAME: &str = "members";
/// Where the Site's DNS runs, and what its pods are labelled with, whatever serves it.
const DNS_NAMESPACE: &str = "kube-system";
const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");
const DNS_PORT: i32 = 53;
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Addresses that are not the internet: private and link-local networks, in which suppliers' machines, Services, pods and
/// clouds' metadata services are, loopback, multicast, what is reserved, and networks that lead back to one of these.
const NOT_PUBLIC_V4: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    // Azure's machines are told secrets from here.
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
];
const NOT_PUBLIC_V6: [&str; 9] = [
    "::/128",
    "::1/128",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2002::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];
const RETRY_BASE: Duration = Duration::from_millis(500);
const RETRY_CAP: Duration = Duration::from_secs(30);

/// The policy of the namespace of a Cluster: members reach each other, the Site's DNS, and what the supplier lets them;
/// nobody else reaches them.
pub(super) fn network_policy(cluster_uid: &str, rules: &NetworkRules) -> net::NetworkPolicy {
    let peers =
        || vec![net::NetworkPolicyPeer { pod_selector: Some(everybody()), ..net::NetworkPolicyPeer::default() }];
    let mut egress = vec![net::NetworkPolicyEgressRule { to: Some(peers()), ports: None }, dns()];
    let mut reach = Vec::new();
    if rules.internet {
        reach.extend([public("0.0.0.0/0", &NOT_PUBLIC_V4, &rules.deny), public("::/0", &NOT_PUBLIC_V6, &rules.deny)]);
    }
    reach.extend(rules.allow.iter().map(|cidr| block(cidr, None)));
    if !reach.is_empty() {
        // Without peers a rule would allow everything.
        egress.push(net::NetworkPolicyEgressRule { to: Some(reach), ports: None });
    }
    net::NetworkPolicy {
        metadata: objects::metadata_in(cluster_uid, NAME),
        spec: Some(net::NetworkPolicySpec {
            pod_selector: Some(everybody()),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(vec![net::NetworkPolicyIngressRule { from: Some(peers()), ports: None }]),
            egress: Some(egress),
        }),
    }
}

fn everybody() -> LabelSelector {
    LabelSelector::default()
}

fn dns() -> net::NetworkPolicyEgressRule {
    let labelled = |key: &str, value: &str| LabelSelector {
        match_labels: Some([(key.to_owned(), value.to_owned())].into()),
        match_expressions: None,
    };
    let port = |protocol: &str| net::NetworkPolicyPort {
        port: Some(IntOrString::Int(DNS_PORT)),
        protocol: Some(protocol.to_owned()),
        end_port: None,
    };
    net::NetworkPolicyEgressRule {
        to: Some(vec![net::NetworkPolicyPeer {
            namespace_selector: Some(labelled(NAMESPACE_NAME_LABEL, DNS_NAMESPACE)),
            pod_selector: Some(labelled(DNS_LABEL.0, DNS_LABEL.1)),
            ip_block: None,
        }]),
        ports: Some(vec![port("UDP"), port("TCP")]),
    }
}

/// All of `cidr` but what is not public and what the supplier denies. Addresses of one family only: others cannot be left
/// out of it.
fn public(cidr: &str, not_public: &[&str], denied: &[String]) -> net::NetworkPolicyPeer {
    let is_v6 = |cidr: &str| cidr.contains(':');
    let denied = denied.iter().filter(|denied| is_v6(denied) == is_v6(cidr));
    block(cidr, Some(not_public.iter().map(|network| (*network).to_owned()).chain(denied.cloned()).collect()))
}

fn block(cidr: &str, except: Option<Vec<String>>) -> net::NetworkPolicyPeer {
    net::NetworkPolicyPeer {
        ip_block: Some(net::IPBlock { cidr: cidr.to_owned(), except }),
        ..net::NetworkPolicyPeer::default()
    }
}

impl KubernetesRuntime {
    /// Writes the network rules into the namespace of a Cluster, of the policy that is in force when it is done: one that
    /// changed meanwhile may have been brought everywhere else before this namespace was seen.
    pub(super) async fn write_network(&self, cluster_uid: &str) -> Result<(), kube::Error> {
        loop {
            let policy = self.policy.borrow().clone();
            let object = network_policy(cluster_uid, &policy.network);
            let api: Api<net::NetworkPolicy> =
                Api::namespaced(self.client.clone(), &crate::naming::site_namespace(cluster_uid));
            {
                let _permit = self.requests.acquire().await;
                let params = PatchParams::apply(names::FIELD_MANAGER_AGENT).force();
                api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await?;
            }
            if self.policy.borrow().network == policy.network {
                return Ok(());
            }
        }
    }

    /// Brings every change of the network rules into the namespaces that are there, and says how far it is, until
    /// `shutdown`. New namespaces get them when they are made.
    pub async fn keep_network(self: Arc<Self>, written: watch::Sender<NetworkWritten>, shutdown: CancellationToken) {
        let mut policies = self.policy.clone();
        let backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
        let mut in_force: Option<NetworkRules> = None;
        loop {
            let policy = policies.borrow_and_update().clone();
            let error = if !policy.is_read() || in_force.as_ref() == Some(&policy.network) {
                None
            } else {
                self.bring_everywhere(&policy).await.err()
            };
            if error.is_none() && policy.is_read() {
                in_force = Some(policy.network.clone());
                backoff.reset(&());
            }
            let retry = error.is_some().then(|| backoff.next(&()));
            if let Some(error) = &error {
                self.metrics.site_errors.inc();
                tracing::warn!(error, ?retry, "the network rules are not in force everywhere");
            }
            written.send_replace(NetworkWritten { policy, error });
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = policies.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(retry.unwrap_or(Duration::MAX)), if retry.is_some() => {}
            }
        }
    }

    async fn bring_everywhere(&self, policy: &Policy) -> Result<(), String> {
        let ours = ListParams::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY_AGENT));
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespaces = namespaces.list(&ours).await.map_err(|error| error.to_string())?;
        let there = namespaces.iter().filter_map(views::namespace).filter(|(_, stopping)| !stopping);
        let clusters: Vec<String> = there.map(|(uid, _)| uid).collect();
        tracing::info!(namespaces = clusters.len(), rules = ?policy.network, "bringing network rules");
        let count = clusters.len();
        let writes = futures::stream::iter(clusters).map(|uid| self.rewrite_network(uid));
        let results: Vec<_> = writes.buffer_unordered(REQUESTS_AT_ONCE).collect().await;
        let failed: Vec<String> = results.into_iter().filter_map(Result::err).collect();
        match failed.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} of {count} namespaces failed; {first}", failed.len())),
        }
    }

    async fn rewrite_network(&self, cluster_uid: String) -> Result<(), String> {
        match self.write_network(&cluster_uid).await {
            // It goes, and with it what is in it.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.message.contains("being terminated") => {
                Ok(())
            }
            result => result.map_err(|error| format!("{}: {error}", crate::naming::site_namespace(&cluster_uid))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn egress(rules: serde_json::Value) -> Vec<serde_json::Value> {
        let policy = network_policy("uid", &serde_json::from_value(rules).unwrap());
        let policy = serde_json::to_value(policy).unwrap();
        assert_eq!(policy["spec"]["podSelector"], json!({}), "all pods of the namespace");
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(policy["spec"]["ingress"], json!([{"from": [{"podSelector": {}}]}]));
        policy["spec"]["egress"].as_array().unwrap().clone()
    }

    #[test]
    fn members_reach_each_other_and_dns_and_nothing_without_the_internet() {
        let dns = json!({
            "to": [{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }],
            "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
        });
        let within = json!({"to": [{"podSelector": {}}]});
        assert_eq!(egress(json!({"internet": false})), [within.clone(), dns.clone()]);
        let allowed = json!({"to": [{"ipBlock": {"cidr": "10.2.0.0/16"}}, {"ipBlock": {"cidr": "fd00::/8"}}]});
        let rules = json!({"internet": false, "allow": ["10.2.0.0/16", "fd00::/8"], "deny": ["198.51.100.0/24"]});
        assert_eq!(egress(rules), [within, dns, allowed]);
    }

    #[test]
    fn the_internet_is_without_private_networks_and_what_the_supplier_denies() {
        let egress = egress(json!({"deny": ["198.51.100.0/24", "2001:db8::/32"], "allow": ["10.2.0.15/32"]}));
        let to = egress[2]["to"].as_array().unwrap();
        assert_eq!(to.len(), 3);
        let except = |at: usize| -> Vec<&str> {
            to[at]["ipBlock"]["except"].as_array().unwrap().iter().map(|cidr| cidr.as_str().unwrap()).collect()
        };
        assert_eq!((&to[0]["ipBlock"]["cidr"], &to[1]["ipBlock"]["cidr"]), (&json!("0.0.0.0/0"), &json!("::/0")));
        for private in [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "198.51.100.0/24",
        ] {
            assert!(except(0).contains(&private), "{private}");
        }
        for private in ["fc00::/7", "fe80::/10", "64:ff9b::/96", "2001:db8::/32"] {
            assert!(except(1).contains(&private), "{private}");
        }
        assert!(except(0).iter().all(|cidr| !cidr.contains(':')) && except(1).iter().all(|cidr| cidr.contains(':')));
        assert_eq!(to[2]["ipBlock"]["cidr"], "10.2.0.15/32");
    }
}
