use std::fmt::Write as _;
use std::time::Duration;

use super::*;
use crate::inventory::{Holding, Inventory};
use crate::placement::{Change, Decision, Filter, Fit, Refusal, RefusalKind, explain, place};

/// "site: node ranks, …; …", so that tables can name decisions.
fn shown(decision: &Decision) -> String {
    let mut text = String::new();
    for site in &decision.sites {
        let nodes: Vec<String> = site
            .nodes
            .iter()
            .map(|n| match n.count {
                1 => format!("{} {}", n.node, n.first_rank),
                _ => format!("{} {}-{}", n.node, n.first_rank, n.first_rank + n.count - 1),
            })
            .collect();
        write!(text, "{}@{}: {}; ", site.site, site.price, nodes.join(", ")).unwrap();
    }
    text.trim_end_matches("; ").to_owned()
}

fn decided(inv: &Inventory, request: &Request) -> String {
    place(inv, request).map_or_else(|refusal| refusal.message(), |decision| shown(&decision))
}

fn refused(inv: &Inventory, request: &Request) -> Refusal {
    place(inv, request).unwrap_err()
}

/// One model, Sites as (name, region, free GPUs by node).
fn network(sites: &[(&str, &str, &[u32])]) -> Inventory {
    let mut inv = Inventory::new();
    inv.upsert_model(model("h100", "hopper", 81_920, 2_000_000, &[Workload::Training]));
    for (name, region, nodes) in sites {
        inv.upsert_site(site(name, "acme", region, Trust::Contracted));
        for (i, gpus) in nodes.iter().enumerate() {
            inv.upsert_node(node(name, &format!("n{i}"), "h100", *gpus));
        }
    }
    inv
}

#[test]
fn choices() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str, &'a [u32])], Request, &'a str);
    let cases: &[Case<'_>] = &[
        ("one Site before two", &[("a", "eu", &[4]), ("b", "eu", &[8])], request(6, 1, Span::Any), "b@2: n0 0-5"),
        (
            "first by name among equals",
            &[("b", "eu", &[4]), ("a", "eu", &[4])],
            request(2, 1, Span::Any),
            "a@2: n0 0-1",
        ),
        ("a full node before a broken whole one", &[("a", "eu", &[8, 2])], request(2, 1, Span::Site), "a@2: n1 0-1"),
        ("the Site that gets full", &[("a", "eu", &[8]), ("b", "eu", &[4])], request(4, 1, Span::Site), "b@2: n0 0-3"),
        ("ranks share nodes", &[("a", "eu", &[4, 4])], request(4, 2, Span::Site), "a@2: n0 0-1, n1 2-3"),
        ("a member stays on one node", &[("a", "eu", &[3, 3, 4])], request(1, 4, Span::Site), "a@2: n2 0"),
        ("no stray GPUs", &[("a", "eu", &[3, 2])], request(1, 2, Span::Site), "a@2: n1 0"),
        (
            "a node that gets full before a smaller one",
            &[("a", "eu", &[3, 4])],
            request(2, 2, Span::Site),
            "a@2: n1 0-1",
        ),
        (
            "the fewest Sites, and of the last the smallest that does",
            &[("a", "eu", &[3]), ("b", "eu", &[5]), ("c", "eu", &[4])],
            request(8, 1, Span::Any),
            "b@2: n0 0-4; a@2: n0 5-7",
        ),
        (
            "the region with the fewest Sites",
            &[("a", "eu", &[2]), ("b", "eu", &[2]), ("c", "us", &[4])],
            request(4, 1, Span::Region),
            "c@2: n0 0-3",
        ),
        (
            "as many as fit when fewer will do",
            &[("a", "eu", &[2]), ("b", "us", &[3])],
            Request { min_new: 2, ..request(6, 1, Span::Site) },
            "b@2: n0 0-2",
        ),
        (
            "ranks with gaps",
            &[("a", "eu", &[8])],
            Request { ranks: vec![1, 5, 6, 9], ..request(4, 1, Span::Site) },
            "a@2: n0 1, n0 5-6, n0 9",
        ),
        (
            "where the survivors are",
            &[("a", "eu", &[8]), ("b", "eu", &[8])],
            Request { anchored_site: Some("b".into()), ..request(1, 1, Span::Site) },
            "b@2: n0 0",
        ),
        (
            "in the survivors' region",
            &[("a", "eu", &[8]), ("b", "us", &[8])],
            Request { anchored_region: Some("us".into()), ..request(1, 1, Span::Region) },
            "b@2: n0 0",
        ),
        ("nothing to place", &[], request(0, 1, Span::Any), ""),
    ];
    for (name, sites, request, expected) in cases {
        assert_eq!(decided(&network(sites), request), *expected, "{name}");
    }
}

#[test]
fn what_members_of_several_gpus_could_take_is_kept_for_them() {
    let with_holdings = |held: &[u32]| {
        let mut inv = network(&[("a", "eu", &[4, 5, 8]), ("other", "us", &[])]);
        let holding = |(rank, gpus): (u32, &u32)| Holding {
            rank,
            incarnation: 1,
            site: "other".into(),
            node: "n".into(),
            gpus: *gpus,
        };
        inv.set_holdings("others", (0..).zip(held).map(holding).collect());
        inv
    };
    let one = request(1, 1, Span::Site);
    assert_eq!(decided(&with_holdings(&[]), &one), "a@2: n0 0", "the fewest free");
    assert_eq!(decided(&with_holdings(&[1, 1, 1]), &one), "a@2: n0 0");
    assert_eq!(decided(&with_holdings(&[1, 4, 4]), &one), "a@2: n1 0", "four stay together on either node");
    let two = request(2, 1, Span::Site);
    assert_eq!(decided(&with_holdings(&[1, 4, 4]), &two), "a@2: n0 0-1", "four together are lost in any case");
    let mut forgotten = with_holdings(&[1, 4, 4]);
    forgotten.set_holdings("others", vec![]);
    assert_eq!(decided(&forgotten, &one), "a@2: n0 0", "what nobody holds any more does not count");
}

#[test]
fn the_cheapest_gpus_that_do() {
    let mut inv = network(&[("a", "eu", &[8]), ("b", "eu", &[8, 8])]);
    inv.upsert_node(crate::inventory::NodeFacts { price: Some(MicroUsd(1_500_000)), ..node("b", "n1", "h100", 4) });
    assert_eq!(decided(&inv, &request(4, 1, Span::Any)), "b@1.5: n1 0-3");
    assert_eq!(decided(&inv, &request(6, 1, Span::Any)), "b@2: n1 0-3, n0 4-5");
    assert_eq!(decided(&inv, &request(12, 1, Span::Any)), "b@2: n1 0-3, n0 4-11");
    let capped = Request { max_price: Some(MicroUsd(1_500_000)), ..request(5, 1, Span::Any) };
    assert_eq!(
        refused(&inv, &capped).fits,
        [
            Fit { change: Change::Members, members: 4 },
            Fit { change: Change::MaxPrice(MicroUsd(2_000_000)), members: 5 }
        ]
    );
}

#[test]
fn a_cheap_site_that_would_make_one_more_is_left_out() {
    let mut inv = network(&[("b", "eu", &[4]), ("c", "eu", &[4]), ("d", "eu", &[4]), ("a", "eu", &[])]);
    for (site, gpus, price) in [("a", 1, 1), ("d", 4, 2)] {
        inv.upsert_node(crate::inventory::NodeFacts { price: Some(MicroUsd(price)), ..node(site, "n0", "h100", gpus) });
    }
    assert_eq!(decided(&inv, &request(8, 1, Span::Any)), "d@0.000002: n0 0-3; b@2: n0 4-7");
    assert_eq!(decided(&inv, &request(5, 1, Span::Any)), "a@0.000001: n0 0; d@0.000002: n0 1-4");
    assert_eq!(decided(&inv, &request(9, 1, Span::Any)), "a@0.000001: n0 0; d@0.000002: n0 1-4; b@2: n0 5-8");
}

#[test]
fn memory_is_nominal_where_the_report_agrees() {
    let mut inv = network(&[("a", "eu", &[])]);
    let asked = Request { min_memory_mib: 81_920, ..request(1, 1, Span::Any) };
    for (reported, fits) in [(0, true), (81_559, true), (81_920, true), (40_960, false), (143_771, true)] {
        inv.upsert_node(crate::inventory::NodeFacts { memory_mib: reported, ..node("a", "n", "h100", 1) });
        assert_eq!(place(&inv, &asked).is_ok(), fits, "{reported}");
    }
}

#[test]
fn refused_nodes_stay_out_until_news_of_their_site() {
    let mut inv = network(&[("a", "eu", &[8]), ("b", "eu", &[2])]);
    let asked = request(4, 1, Span::Any);
    inv.block("a", &["n0".into()], Duration::from_secs(5));
    let refusal = refused(&inv, &asked);
    assert_eq!(refusal.excluded(Filter::Refused).gpus, 8);
    inv.upsert_node(node("b", "n0", "h100", 3));
    assert!(place(&inv, &asked).is_err(), "news of another Site");
    inv.upsert_node(node("a", "n1", "h100", 1));
    assert_eq!(decided(&inv, &asked), "a@2: n1 0, n0 1-3");
}

fn mixed() -> Inventory {
    let mut inv = Inventory::new();
    inv.upsert_model(model("h100-sxm5-80gb", "hopper", 81_920, 2_500_000, &[Workload::Training, Workload::Batch]));
    inv.upsert_model(model("a100-sxm4-80gb", "ampere", 81_920, 1_500_000, &[Workload::Training]));
    inv.upsert_model(model("rtx-4090", "ada", 24_576, 400_000, &[Workload::Training, Workload::ZkProver]));
    inv.upsert_site(site("site-ab12", "acme", "eu-west", Trust::Contracted));
    inv.upsert_site(site("site-cd34", "uni", "us-east", Trust::Attested));
    inv.upsert_site(site("site-ef56", "home", "us-east", Trust::Untrusted));
    for i in 0..6 {
        inv.upsert_node(node("site-ab12", &format!("h{i}"), "h100-sxm5-80gb", 8));
        inv.upsert_node(node("site-cd34", &format!("h{i}"), "h100-sxm5-80gb", 8));
    }
    for i in 0..8 {
        inv.upsert_node(node("site-cd34", &format!("a{i}"), "a100-sxm4-80gb", 8));
        inv.upsert_node(node("site-ef56", &format!("r{i}"), "rtx-4090", 2));
    }
    let taken = |site: &str, nodes: u32| {
        let one = |i| Holding { rank: i, incarnation: 1, site: site.into(), node: format!("h{i}"), gpus: 8 };
        (0..nodes).map(one).collect::<Vec<_>>()
    };
    inv.set_holdings("other", [taken("site-ab12", 3), taken("site-cd34", 4)].concat());
    inv
}

#[test]
fn messages() {
    let h100 = |members, gpus, span| Request { models: vec!["h100-sxm5-80gb".into()], ..request(members, gpus, span) };
    let only = |names: &[&str]| Selection { only: names.iter().map(|n| (*n).into()).collect(), except: vec![] };
    let cases = [
        (
            h100(8, 8, Span::Site),
            "asked 8 members of 8 GPUs (h100-sxm5-80gb) on one Site; 96 such GPUs exist, 40 are free, at most 24 on one \
             Site (site-ab12, eu-west). Would fit now: 3 members; or span Any: 5 members; or model a100-sxm4-80gb.",
        ),
        (
            h100(5, 8, Span::Region),
            "asked 5 members of 8 GPUs (h100-sxm5-80gb) in one region; 96 such GPUs exist, 40 are free, at most 24 in \
             one region (eu-west). Would fit now: 3 members; or span Any; or model a100-sxm4-80gb.",
        ),
        (
            Request { families: vec!["ada".into()], ..request(1, 4, Span::Any) },
            "asked 1 member of 4 GPUs (ada) anywhere; 16 such GPUs exist, 16 are free, at most 2 on one node. Would \
             fit now: model a100-sxm4-80gb; or model h100-sxm5-80gb.",
        ),
        (
            Request { workload: Workload::Sequencer, ..request(1, 1, Span::Any) },
            "asked 1 member of 1 GPU (any that suits Sequencer) anywhere; 176 such GPUs exist and none suits \
             Sequencer. Nothing would fit now.",
        ),
        (
            Request { models: vec!["b200".into()], workload: Workload::Batch, ..request(1, 1, Span::Any) },
            "asked 1 member of 1 GPU (b200) anywhere; no such GPU exists. Would fit now: model h100-sxm5-80gb.",
        ),
        (
            Request { min_memory_mib: 98_304, min_new: 2, ..request(4, 1, Span::Site) },
            "asked 4 members, at least 2, of 1 GPU (any that suits Training with 96Gi or more) on one Site; 176 such \
             GPUs exist and none has so much memory. Nothing would fit now.",
        ),
        (
            Request { max_price: Some(MicroUsd(1_000_000)), ..request(2, 8, Span::Site) },
            "asked 2 members of 8 GPUs (any that suits Training) on one Site; 176 such GPUs exist, 16 are free, at most \
             16 on one Site (site-ef56, us-east), at most 2 on one node (left out: 160 too expensive). Would fit now: \
             at most 1.5 USDC per GPU and hour.",
        ),
        (
            Request { min_trust: Trust::Attested, regions: only(&["us-east"]), ..h100(3, 8, Span::Site) },
            "asked 3 members of 8 GPUs (h100-sxm5-80gb) on one Site; 96 such GPUs exist, 16 are free, at most 16 on one \
             Site (site-cd34, us-east) (left out: 48 in other regions). Would fit now: 2 members; or model \
             a100-sxm4-80gb.",
        ),
        (
            Request { regions: only(&["us-east"]), ..h100(3, 8, Span::Site) },
            "asked 3 members of 8 GPUs (h100-sxm5-80gb) on one Site; 96 such GPUs exist, 16 are free, at most 16 on one \
             Site (site-cd34, us-east) (left out: 48 in other regions). Would fit now: 2 members; or model \
             a100-sxm4-80gb; or region eu-west too.",
        ),
        (
            Request { suppliers: only(&["uni"]), ..h100(5, 8, Span::Any) },
            "asked 5 members of 8 GPUs (h100-sxm5-80gb) anywhere; 96 such GPUs exist, 16 are free (left out: 48 of \
             other suppliers). Would fit now: 2 members; or model a100-sxm4-80gb; or supplier acme too.",
        ),
        (
            Request { min_trust: Trust::Attested, ..h100(3, 8, Span::Any) },
            "asked 3 members of 8 GPUs (h100-sxm5-80gb) anywhere; 96 such GPUs exist, 16 are free (left out: 48 \
             trusted too little). Would fit now: 2 members; or model a100-sxm4-80gb; or trust Contracted.",
        ),
        (
            Request { anchored_site: Some("site-ab12".into()), ..h100(4, 8, Span::Site) },
            "asked 4 more members of 8 GPUs (h100-sxm5-80gb) on Site site-ab12; 96 such GPUs exist, 24 are free (left \
             out: 48 away from the running members). Would fit now: 3 members.",
        ),
    ];
    for (request, message) in cases {
        assert_eq!(decided(&mixed(), &request), message);
    }
}

#[test]
fn kinds_say_whether_waiting_can_help() {
    let inv = mixed();
    let kind = |request: &Request| refused(&inv, request).kind;
    assert_eq!(kind(&Request { models: vec!["b200".into()], ..request(1, 1, Span::Any) }), RefusalKind::NoSuchGpu);
    assert_eq!(kind(&request(1, 16, Span::Any)), RefusalKind::InsufficientCapacity);
    assert_eq!(
        kind(&Request { max_price: Some(MicroUsd(1)), ..request(1, 1, Span::Any) }),
        RefusalKind::InsufficientCapacity
    );
}

#[test]
fn a_message_is_at_most_500_characters() {
    let mut inv = mixed();
    let long = |c: &str| c.repeat(250);
    for i in 0..5 {
        let name = format!("{}{i}", long("m"));
        inv.upsert_model(model(&name, "f", 1, 1, &[Workload::Training]));
        inv.upsert_site(site(&long("s"), &long("u"), &long("r"), Trust::Untrusted));
        inv.upsert_node(node(&long("s"), &format!("{i}"), &name, 8));
    }
    let long_names = (0..9).map(|i| format!("{}{i}", long("é"))).collect();
    for models in [vec![], long_names, vec![format!("{}0", long("m"))]] {
        for span in [Span::Site, Span::Region, Span::Any] {
            let asked = Request { models: models.clone(), families: vec!["ada".into()], ..request(9, 8, span) };
            let message = refused(&inv, &asked).message();
            assert!(message.chars().count() <= 500, "{message}");
        }
    }
}

#[test]
fn an_explanation_counts_every_gpu_once() {
    let mut inv = mixed();
    inv.upsert_node(crate::inventory::NodeFacts { usable: false, ..node("site-ab12", "h5", "h100-sxm5-80gb", 8) });
    inv.upsert_node(node("site-unknown", "x", "h100-sxm5-80gb", 8));
    inv.upsert_node(node("site-ab12", "y", "gtx-unknown", 1));
    inv.block("site-ab12", &["h4".into()], Duration::ZERO);
    let asked = Request {
        models: vec!["h100-sxm5-80gb".into(), "rtx-4090".into()],
        min_memory_mib: 40_960,
        regions: Selection { only: vec![], except: vec!["us-east".into()] },
        ..request(1, 8, Span::Site)
    };
    let explanation = explain(&inv, &asked);
    let counts: Vec<(Filter, u64, u64)> = explanation
        .filters
        .iter()
        .filter(|count| count.excluded.nodes > 0)
        .map(|count| (count.filter, count.excluded.nodes, count.excluded.gpus))
        .collect();
    assert_eq!(
        counts,
        [
            (Filter::Model, 9, 65),
            (Filter::Memory, 8, 16),
            (Filter::Usable, 1, 8),
            (Filter::Open, 1, 8),
            (Filter::Region, 6, 48),
            (Filter::Refused, 1, 8)
        ]
    );
    assert_eq!((explanation.capacity.exist, explanation.capacity.free), (104, 8));
    assert_eq!(explanation.outcome.map(|decision| shown(&decision)).unwrap(), "site-ab12@2.5: h3 0");
}
