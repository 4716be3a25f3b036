use atoll_core::{inventory::*, placement::*, units::MicroUsd, words::*};
use std::time::Instant;
fn world(sites: usize, per: usize, gpus: u32) -> Inventory {
    let mut inv = Inventory::new();
    for m in 0..30 { inv.upsert_model(ModelFacts { name: format!("m{m}"), vendor: Vendor::Nvidia, family: format!("f{}", m/3), memory_mib: 81920, compute_score: 1, workloads: vec![Workload::Training], reference_price: MicroUsd(1000 + m), aliases: vec![] }); }
    for s in 0..sites {
        inv.upsert_site(SiteFacts { name: format!("site-{s:016x}"), display: String::new(), supplier: format!("p{}", s % 50), region: format!("r{}", s % 8), trust: Trust::Contracted, open: true });
        for n in 0..per { inv.upsert_node(NodeFacts { site: format!("site-{s:016x}"), node: format!("node-{n}"), model: format!("m{}", (s + n) % 30), memory_mib: 81559, allocatable: gpus, used_by_others: 0, usable: true, price: None }); }
    }
    inv
}
fn main() {
    for (sites, per, gpus) in [(3, 50, 8), (100, 100, 8), (10_000, 1, 1), (10_000, 1, 8), (20_000, 1, 2)] {
        let t = Instant::now();
        let mut inv = world(sites, per, gpus);
        println!("{sites} sites x {per} nodes x {gpus}: build {:?}", t.elapsed());
        let req = |members: u32, g, models: &[&str], span| Request { cluster: "u".into(), workload: Workload::Training, models: models.iter().map(|s| (*s).to_owned()).collect(), families: vec![], min_memory_mib: 0, gpus_per_member: g, ranks: (0..members).collect(), min_new: members, span, anchored_site: None, anchored_region: None, regions: Selection::default(), suppliers: Selection::default(), min_trust: Trust::Untrusted, max_price: None };
        for (what, r) in [("8 any model", req(8, 1, &[], Span::Any)), ("8 one model any", req(8, 1, &["m3"], Span::Any)), ("8 one model site", req(8, 1, &["m3"], Span::Site)), ("8 region", req(8, 1, &[], Span::Region)), ("refused", req(8, 16, &["m3"], Span::Any)), ("10000 members", req(10_000, 1, &[], Span::Any))] {
            let mut best = std::time::Duration::MAX; let mut ok = true;
            for _ in 0..5 { let t = Instant::now(); ok = std::hint::black_box(place(&inv, &r)).is_ok(); best = best.min(t.elapsed()); }
            println!("  {what}: {best:?} ok={ok}");
        }
        let d: Vec<Holding> = (0..sites.min(100)).map(|s| Holding { rank: s as u32, incarnation: 1, site: format!("site-{s:016x}"), node: "node-0".into(), gpus: 1 }).collect();
        let n = d.len(); let t = Instant::now(); inv.set_holdings("u", d); println!("  hold {n}: {:?}", t.elapsed());
    }
}
