use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::units::MicroUsd;
use crate::words::{Trust, Workload};

fn model(name: &str) -> ModelFacts {
    ModelFacts {
        name: name.into(),
        family: "hopper".into(),
        memory_mib: 81_920,
        workloads: vec![Workload::Training],
        reference_price: MicroUsd(2_500_000),
        aliases: vec![],
    }
}

fn site(name: &str, open: bool) -> SiteFacts {
    SiteFacts {
        name: name.into(),
        display: name.into(),
        supplier: "acme".into(),
        region: "eu-west".into(),
        trust: Trust::Untrusted,
        open,
    }
}

fn node(site: &str, node: &str, allocatable: u32, used_by_others: u32) -> NodeFacts {
    NodeFacts {
        site: site.into(),
        node: node.into(),
        model: "h100".into(),
        memory_mib: 81_559,
        allocatable,
        used_by_others,
        usable: true,
        price: None,
    }
}

fn holding(rank: u32, incarnation: u64, node: &str, gpus: u32) -> Holding {
    Holding { rank, incarnation, site: "a".into(), node: node.into(), gpus }
}

#[test]
fn free_is_what_neither_others_nor_clusters_have() {
    let mut inv = Inventory::new();
    assert_eq!(inv.free("a", "n"), 0);
    inv.upsert_node(node("a", "n", 8, 3));
    assert_eq!(inv.free("a", "n"), 5);
    inv.set_holdings("u", vec![holding(0, 1, "n", 2), holding(1, 1, "n", 2)]);
    assert_eq!(inv.free("a", "n"), 1);
    inv.upsert_node(node("a", "n", 8, 7));
    assert_eq!(inv.free("a", "n"), 0, "others took what a Cluster holds: never negative");
    assert_eq!(inv.overbooked().count(), 0, "Clusters alone hold no more than there is");
    inv.set_holdings("u", vec![]);
    assert_eq!(inv.free("a", "n"), 1);
    assert!(inv.holdings("u").is_empty());
}

#[test]
fn a_member_in_commit_and_slice_holds_once() {
    let mut inv = Inventory::new();
    inv.upsert_node(node("a", "n", 8, 0));
    inv.set_holdings("u", vec![holding(0, 1, "n", 2), holding(0, 1, "n", 2), holding(0, 2, "n", 2)]);
    assert_eq!(inv.free("a", "n"), 4);
    assert_eq!(inv.holdings("u").len(), 2);
}

#[test]
fn overbooking_is_seen_and_ends() {
    let mut inv = Inventory::new();
    inv.upsert_node(node("a", "n", 4, 4));
    inv.set_holdings("u", vec![holding(0, 1, "n", 4)]);
    assert_eq!(inv.overbooked().count(), 0);
    inv.set_holdings("v", vec![holding(0, 1, "n", 1)]);
    assert_eq!(inv.overbooked().collect::<Vec<_>>(), [("a", "n")]);
    let holders = inv.holders("a", "n");
    assert_eq!(holders.iter().map(|(uid, h)| (*uid, h.gpus)).collect::<Vec<_>>(), [("u", 4), ("v", 1)]);
    inv.upsert_node(node("a", "n", 5, 0));
    assert_eq!(inv.overbooked().count(), 0);
    inv.upsert_node(node("a", "n", 3, 0));
    assert_eq!(inv.overbooked().count(), 1);
    inv.set_holdings("v", vec![]);
    inv.set_holdings("u", vec![holding(0, 1, "n", 3)]);
    assert_eq!(inv.overbooked().count(), 0);
}

#[test]
fn a_node_that_comes_back_still_has_its_holdings() {
    let mut inv = Inventory::new();
    inv.set_holdings("u", vec![holding(0, 1, "n", 3)]);
    inv.upsert_node(node("a", "n", 4, 0));
    assert_eq!(inv.free("a", "n"), 1);
    inv.remove_node("a", "n");
    inv.remove_site("a");
    assert_eq!(inv.free("a", "n"), 0);
    assert_eq!(inv.holders("a", "n").len(), 1);
    assert_eq!(inv.site_totals("a"), Totals::default());
    inv.upsert_node(node("a", "n", 4, 0));
    assert_eq!(inv.free("a", "n"), 1);
}

#[test]
fn the_revision_grows_when_something_could_fit_and_only_then() {
    let mut inv = Inventory::new();
    let mut last = inv.revision();
    let mut grew = |inv: &Inventory| {
        let before = std::mem::replace(&mut last, inv.revision());
        before < inv.revision()
    };
    inv.upsert_model(model("h100"));
    assert!(grew(&inv));
    inv.upsert_model(model("h100"));
    assert!(!grew(&inv), "nothing new");
    inv.upsert_site(site("a", true));
    assert!(grew(&inv));
    inv.upsert_node(node("a", "n", 8, 0));
    assert!(grew(&inv));
    inv.upsert_node(node("a", "n", 8, 0));
    assert!(!grew(&inv), "nothing new");
    inv.upsert_node(node("a", "n", 8, 2));
    assert!(!grew(&inv), "less is free");
    inv.set_holdings("u", vec![holding(0, 1, "n", 2)]);
    assert!(!grew(&inv), "less is free");
    inv.set_holdings("u", vec![holding(0, 2, "n", 2)]);
    assert!(!grew(&inv), "as much is free");
    inv.set_holdings("u", vec![holding(0, 2, "n", 1)]);
    assert!(grew(&inv), "one GPU came back");
    inv.upsert_node(NodeFacts { price: Some(MicroUsd(1)), ..node("a", "n", 8, 2) });
    assert!(grew(&inv), "cheaper");
    inv.upsert_node(NodeFacts { usable: false, ..node("a", "n", 8, 2) });
    assert!(!grew(&inv), "out of use");
    inv.set_holdings("u", vec![]);
    assert!(!grew(&inv), "free on a node out of use");
    inv.upsert_node(node("a", "n", 8, 2));
    assert!(grew(&inv), "in use again");
    inv.block("a", &["n".into()], Duration::from_secs(1));
    assert!(!grew(&inv));
    inv.clear_blocks_before(Duration::from_secs(1));
    assert!(!grew(&inv), "the block is not before that");
    inv.clear_blocks_before(Duration::from_secs(2));
    assert!(grew(&inv));
    inv.remove_node("a", "n");
    inv.remove_site("a");
    inv.remove_model("h100");
    assert!(!grew(&inv));
}

#[test]
fn totals_count_usable_free_and_for_models_open_sites() {
    let mut inv = Inventory::new();
    inv.upsert_site(site("a", true));
    inv.upsert_site(site("b", false));
    inv.upsert_node(node("a", "n", 8, 1));
    inv.upsert_node(NodeFacts { usable: false, ..node("a", "m", 4, 0) });
    inv.upsert_node(node("b", "n", 8, 0));
    inv.block("a", &["n".into()], Duration::ZERO);
    assert_eq!(inv.site_totals("a"), Totals { nodes: 2, gpus: 12, free: 7 });
    assert_eq!(inv.site_totals("b"), Totals { nodes: 1, gpus: 8, free: 8 });
    assert_eq!(inv.model_totals("h100"), Totals { nodes: 3, gpus: 20, free: 7 });
    assert_eq!(inv.model_totals("a100"), Totals::default());
}

#[test]
fn what_comes_and_goes_leaves_nothing() {
    let mut inv = Inventory::new();
    for i in 0..100 {
        let name = format!("s{i}");
        inv.upsert_node(NodeFacts { model: format!("m{i}"), ..node(&name, "n", 8, 0) });
        inv.block(&name, &["n".into()], Duration::ZERO);
        inv.set_holdings("u", vec![Holding { site: name.clone(), ..holding(0, 1, "n", 1) }]);
        inv.remove_node(&name, "n");
    }
    inv.set_holdings("u", vec![]);
    assert_eq!(inv.sites.iter().count(), 0);
    assert_eq!(inv.models.iter().count(), 0);
    assert!(inv.clusters.is_empty() && inv.blocked_sites.is_empty());
}

/// A change; Sites, nodes, models and Clusters are few, so that changes meet.
#[derive(Clone, Debug)]
enum Op {
    Node { site: u8, node: u8, model: u8, allocatable: u32, others: u32, usable: bool, price: Option<u64> },
    RemoveNode { site: u8, node: u8 },
    Site { site: u8, open: bool },
    RemoveSite { site: u8 },
    Model { model: u8 },
    RemoveModel { model: u8 },
    Hold { cluster: u8, held: Vec<(u8, u8, u32)> },
    Block { site: u8, nodes: Vec<u8>, at: u64 },
    Clear { before: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let (s, n) = (0..3u8, 0..3u8);
    prop_oneof![
        6 => (s.clone(), n.clone(), 0..2u8, 0..9u32, 0..4u32, any::<bool>(), prop::option::of(1..3u64)).prop_map(
            |(site, node, model, allocatable, others, usable, price)| Op::Node {
                site, node, model, allocatable, others, usable, price
            }
        ),
        2 => (s.clone(), n.clone()).prop_map(|(site, node)| Op::RemoveNode { site, node }),
        1 => (s.clone(), any::<bool>()).prop_map(|(site, open)| Op::Site { site, open }),
        1 => s.clone().prop_map(|site| Op::RemoveSite { site }),
        1 => (0..2u8).prop_map(|model| Op::Model { model }),
        1 => (0..2u8).prop_map(|model| Op::RemoveModel { model }),
        6 => (0..3u8, prop::collection::vec((s.clone(), n.clone(), 0..6u32), 0..5))
            .prop_map(|(cluster, held)| Op::Hold { cluster, held }),
        2 => (s, prop::collection::vec(n, 0..3), 0..9u64).prop_map(|(site, nodes, at)| Op::Block { site, nodes, at }),
        1 => (0..9u64).prop_map(|before| Op::Clear { before }),
    ]
}

/// The same, without any index.
#[derive(Default)]
struct Naive {
    nodes: BTreeMap<(String, String), NodeFacts>,
    open: BTreeMap<String, bool>,
    held: BTreeMap<String, Vec<Holding>>,
    blocked: BTreeMap<(String, String), u64>,
}

impl Naive {
    fn held(&self, key: &(String, String)) -> u32 {
        self.held.values().flatten().filter(|h| h.site == key.0 && h.node == key.1).map(|h| h.gpus).sum()
    }

    fn free(&self, key: &(String, String)) -> u32 {
        let node = self.nodes.get(key);
        node.map_or(0, |n| n.allocatable.saturating_sub(n.used_by_others).saturating_sub(self.held(key)))
    }

    fn known(&self, key: &(String, String)) -> bool {
        self.nodes.contains_key(key) || self.held.values().flatten().any(|h| h.site == key.0 && h.node == key.1)
    }
}

fn apply(inv: &mut Inventory, naive: &mut Naive, op: Op) {
    let at = |site: u8, node: u8| (format!("s{site}"), format!("n{node}"));
    match op {
        Op::Node { site, node, model, allocatable, others, usable, price } => {
            let (site, node) = at(site, node);
            let facts = NodeFacts {
                site: site.clone(),
                node: node.clone(),
                model: format!("m{model}"),
                memory_mib: 0,
                allocatable,
                used_by_others: others,
                usable,
                price: price.map(MicroUsd),
            };
            inv.upsert_node(facts.clone());
            if naive.nodes.insert((site.clone(), node), facts.clone()) != Some(facts) {
                naive.blocked.retain(|key, _| key.0 != site);
            }
        }
        Op::RemoveNode { site, node } => {
            let key = at(site, node);
            inv.remove_node(&key.0, &key.1);
            if naive.nodes.remove(&key).is_some() {
                naive.blocked.retain(|other, _| other.0 != key.0);
            }
        }
        Op::Site { site: id, open } => {
            inv.upsert_site(site(&format!("s{id}"), open));
            naive.open.insert(format!("s{id}"), open);
        }
        Op::RemoveSite { site } => {
            inv.remove_site(&format!("s{site}"));
            naive.open.remove(&format!("s{site}"));
        }
        Op::Model { model: id } => inv.upsert_model(model(&format!("m{id}"))),
        Op::RemoveModel { model } => inv.remove_model(&format!("m{model}")),
        Op::Hold { cluster, held } => {
            let held: Vec<Holding> = (0..)
                .zip(held)
                .map(|(rank, (site, node, gpus))| {
                    let (site, node) = at(site, node);
                    Holding { rank, incarnation: 1, site, node, gpus }
                })
                .collect();
            inv.set_holdings(&format!("c{cluster}"), held.clone());
            naive.held.insert(format!("c{cluster}"), held);
        }
        Op::Block { site, nodes, at: time } => {
            let names: Vec<String> = nodes.iter().map(|node| at(site, *node).1).collect();
            inv.block(&format!("s{site}"), &names, Duration::from_secs(time));
            for node in nodes {
                if naive.known(&at(site, node)) {
                    naive.blocked.insert(at(site, node), time);
                }
            }
        }
        Op::Clear { before } => {
            inv.clear_blocks_before(Duration::from_secs(before));
            naive.blocked.retain(|_, time| *time >= before);
        }
    }
    // A block lasts as long as the node is known.
    let gone: Vec<_> = naive.blocked.keys().filter(|key| !naive.known(key)).cloned().collect();
    for key in gone {
        naive.blocked.remove(&key);
    }
}

fn offered(inv: &Inventory) -> BTreeSet<(String, String, u32)> {
    let mut offered = BTreeSet::new();
    for (_, site) in inv.sites.iter() {
        for pool in site.pools.values() {
            for (free, names) in &pool.offered {
                offered.extend(names.iter().map(|name| (site.name.to_string(), name.to_string(), *free)));
            }
        }
    }
    offered
}

proptest! {
    #[test]
    fn accounting_equals_a_naive_model(ops in prop::collection::vec(op(), 0..60)) {
        let (mut inv, mut naive) = (Inventory::new(), Naive::default());
        for op in ops {
            let before = offered(&inv);
            let revision = inv.revision();
            apply(&mut inv, &mut naive, op);

            let mut overbooked = BTreeSet::new();
            let mut offers = BTreeSet::new();
            for (key, facts) in &naive.nodes {
                let free = naive.free(key);
                prop_assert_eq!(inv.free(&key.0, &key.1), free);
                prop_assert_eq!(
                    inv.holders(&key.0, &key.1).iter().map(|(_, h)| h.gpus).sum::<u32>(), naive.held(key));
                if naive.held(key) > facts.allocatable {
                    overbooked.insert((key.0.as_str(), key.1.as_str()));
                }
                if facts.usable && free > 0 && !naive.blocked.contains_key(key) {
                    offers.insert((key.0.clone(), key.1.clone(), free));
                }
            }
            prop_assert_eq!(inv.overbooked().collect::<BTreeSet<_>>(), overbooked);
            let now = offered(&inv);
            prop_assert_eq!(&now, &offers);
            let more = now.iter().any(|(s, n, free)| !before.iter().any(|(t, m, old)| (s, n) == (t, m) && old >= free));
            prop_assert!(!more || inv.revision() > revision, "more is offered and the revision stayed");

            for site in (0..3).map(|s| format!("s{s}")) {
                let nodes = naive.nodes.iter().filter(|(key, _)| key.0 == site);
                let totals = nodes.fold(Totals::default(), |t, (key, facts)| Totals {
                    nodes: t.nodes + 1,
                    gpus: t.gpus + u64::from(facts.allocatable),
                    free: t.free + if facts.usable { u64::from(naive.free(key)) } else { 0 },
                });
                prop_assert_eq!(inv.site_totals(&site), totals);
            }
            for model in (0..2).map(|m| format!("m{m}")) {
                let nodes = naive.nodes.iter().filter(|(_, facts)| facts.model == model);
                let totals = nodes.fold(Totals::default(), |t, (key, facts)| Totals {
                    nodes: t.nodes + 1,
                    gpus: t.gpus + u64::from(facts.allocatable),
                    free: t.free + if facts.usable && naive.open.get(&key.0) == Some(&true) {
                        u64::from(naive.free(key))
                    } else {
                        0
                    },
                });
                prop_assert_eq!(inv.model_totals(&model), totals);
            }
            for (cluster, held) in &naive.held {
                prop_assert_eq!(inv.holdings(cluster), held.as_slice());
            }
        }
    }
}
