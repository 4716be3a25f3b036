//! The commit: members that stay and members that were just placed, as `status.placement`.

use std::collections::HashMap;

use atoll_api::{DisconnectionTimes, PlacedNode, PlacedSite, PlacementStatus};
use atoll_core::cluster::Member;
use atoll_core::placement::Decision;
use atoll_core::units::MicroUsd;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a commit carries beside its members.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The epoch: more than any before.
    pub epoch: u64,
    /// The leader's term.
    pub term: i64,
    /// When.
    pub now: Timestamp,
    /// GPUs of each member.
    pub gpus: u32,
    /// The fence times that hold for the members.
    pub fence: DisconnectionTimes,
}

/// The members that a decision places, with the commit's epoch as their incarnation.
#[must_use]
pub fn placed(decision: &Decision, epoch: u64) -> Vec<Member> {
    let mut members = Vec::new();
    for share in &decision.sites {
        for node in &share.nodes {
            for rank in node.first_rank..node.first_rank.saturating_add(node.count) {
                members.push(Member { rank, incarnation: epoch, site: share.site.clone(), node: node.node.clone() });
            }
        }
    }
    members
}

/// The commit of `keep`, at the prices that `old` agreed, and of `new`. None when nobody is left.
#[must_use]
pub fn commit(
    old: Option<&PlacementStatus>,
    keep: &[Member],
    new: Option<&Decision>,
    frame: &Frame,
) -> Option<PlacementStatus> {
    let agreed = prices(old);
    let asked: HashMap<&str, MicroUsd> =
        new.iter().flat_map(|decision| &decision.sites).map(|share| (share.site.as_str(), share.price)).collect();
    let added = new.map(|decision| placed(decision, frame.epoch)).unwrap_or_default();
    let mut members: Vec<(&Member, Option<String>)> = Vec::with_capacity(keep.len() + added.len());
    members.extend(keep.iter().map(|m| (m, agreed.get(&(m.rank, m.incarnation)).cloned().flatten())));
    members.extend(added.iter().map(|m| (m, asked.get(m.site.as_str()).map(ToString::to_string))));
    if members.is_empty() {
        return None;
    }
    members.sort_by_key(|(member, _)| member.rank);
    let mut sites: Vec<PlacedSite> = Vec::new();
    let mut index: HashMap<(&str, Option<String>), usize> = HashMap::new();
    for (member, price) in members {
        // Members that joined later at another price stand apart.
        let at = *index.entry((&member.site, price.clone())).or_insert_with(|| {
            sites.push(PlacedSite { site: member.site.clone(), price, nodes: Vec::new() });
            sites.len() - 1
        });
        add(&mut sites[at].nodes, member);
    }
    Some(PlacementStatus {
        epoch: signed(frame.epoch),
        term: frame.term,
        committed_at: Some(Time(frame.now)),
        gpus: i32::try_from(frame.gpus).unwrap_or(i32::MAX),
        fence: frame.fence.clone(),
        sites,
    })
}

fn add(nodes: &mut Vec<PlacedNode>, member: &Member) {
    let rank = i32::try_from(member.rank).unwrap_or(i32::MAX);
    let incarnation = signed(member.incarnation);
    if let Some(last) = nodes.last_mut()
        && last.name == member.node
        && last.incarnation == incarnation
        && last.rank + last.count == rank
    {
        last.count += 1;
        return;
    }
    nodes.push(PlacedNode { name: member.node.clone(), rank, count: 1, incarnation });
}

/// The price of each member, by rank and incarnation.
fn prices(old: Option<&PlacementStatus>) -> HashMap<(u32, u64), Option<String>> {
    let mut prices = HashMap::new();
    for site in old.iter().flat_map(|placement| &placement.sites) {
        for node in &site.nodes {
            for rank in node.rank..node.rank.saturating_add(node.count) {
                let key =
                    (u32::try_from(rank).unwrap_or_default(), u64::try_from(node.incarnation).unwrap_or_default());
                prices.insert(key, site.price.clone());
            }
        }
    }
    prices
}

/// USDC per hour for everything that a commit holds.
#[must_use]
pub fn price_per_hour(placement: &PlacementStatus) -> MicroUsd {
    let gpus = u64::try_from(placement.gpus).unwrap_or_default();
    let total = placement.sites.iter().fold(0_u64, |sum, site| {
        let price = site.price.as_deref().and_then(|price| MicroUsd::parse(price).ok()).unwrap_or_default();
        let members = site.nodes.iter().map(|node| u64::try_from(node.count).unwrap_or_default()).sum::<u64>();
        sum.saturating_add(price.0.saturating_mul(members).saturating_mul(gpus))
    });
    MicroUsd(total)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use atoll_core::placement::{NodeShare, SiteShare};

    use super::*;

    fn members(placement: &PlacementStatus) -> Vec<Member> {
        let cluster = serde_json::from_value(serde_json::json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "c"},
            "spec": {"type": "Pods", "members": {"count": 3},
                     "template": {"spec": {"containers": [{"name": "m", "image": "i"}]}}},
            "status": {"placement": placement},
        }));
        atoll_convert::committed(&cluster.unwrap())
    }

    fn frame(epoch: u64) -> Frame {
        Frame {
            epoch,
            term: 7,
            now: Timestamp::from_second(1_000).unwrap(),
            gpus: 2,
            fence: DisconnectionTimes::default(),
        }
    }

    fn decision(site: &str, price: u64, nodes: &[(&str, u32, u32)]) -> Decision {
        let nodes = nodes
            .iter()
            .map(|(node, first_rank, count)| NodeShare {
                node: (*node).to_owned(),
                first_rank: *first_rank,
                count: *count,
            })
            .collect();
        Decision { sites: vec![SiteShare { site: site.to_owned(), price: MicroUsd(price), nodes }] }
    }

    #[test]
    fn survivors_keep_their_incarnation_and_price_when_others_join() {
        let first =
            commit(None, &[], Some(&decision("a", 2_000_000, &[("n1", 0, 2), ("n2", 2, 1)])), &frame(1)).unwrap();
        assert_eq!(first.sites[0].nodes.len(), 2);
        assert_eq!(price_per_hour(&first).to_string(), MicroUsd(12_000_000).to_string());
        let mut keep = members(&first);
        keep.remove(1);
        let second = commit(Some(&first), &keep, Some(&decision("a", 3_000_000, &[("n3", 1, 1)])), &frame(2)).unwrap();
        let incarnations: Vec<u64> = members(&second).iter().map(|member| member.incarnation).collect();
        assert_eq!(incarnations, [1, 2, 1]);
        assert_eq!(price_per_hour(&second).0, 2 * (2 * 2_000_000 + 3_000_000));
        assert!(commit(Some(&second), &[], None, &frame(3)).is_none());
    }

    #[test]
    fn ten_thousand_members_on_ten_thousand_nodes_fit_into_one_object() {
        let nodes: Vec<(String, u32)> = (0..10_000).map(|rank| (format!("gpu-worker-node-{rank:05}"), rank)).collect();
        let sites = (0..50_u32)
            .map(|site| SiteShare {
                site: format!("site-{site:016x}"),
                price: MicroUsd(2_499_999),
                nodes: nodes[site as usize * 200..][..200]
                    .iter()
                    .map(|(node, rank)| NodeShare { node: node.clone(), first_rank: *rank, count: 1 })
                    .collect(),
            })
            .collect();
        let placement = commit(None, &[], Some(&Decision { sites }), &frame(123)).unwrap();
        assert_eq!(members(&placement).len(), 10_000);
        let bytes = serde_json::to_vec(&placement).unwrap().len();
        assert!(bytes < 10_000 * 100, "{bytes} bytes are 100 a node or more");
        assert!(bytes < 1 << 20);
    }
}
