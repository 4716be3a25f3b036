//! What is next for a Cluster, decided by the code that the operator decides with, and told in tables.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use atoll_api::Cluster;
use atoll_convert::{ClusterTerms, InvalidSpec, cluster_state, slice_state};
use atoll_core::cluster::{Step, next};
use atoll_core::inventory::Holding;
use atoll_core::placement::{Change, Decision, Explanation, Filter, explain};
use jiff::Timestamp;

use crate::render::{Table, count, paragraph, ranges, short};
use crate::verdict::Verdict;
use crate::world::World;

/// Names of nodes that are shown of one Site.
const MOST_NODES: usize = 3;

/// What is next for a Cluster.
#[derive(Debug)]
pub struct Outlook {
    /// What the operator does next.
    pub step: Step,
    /// What placing meets; None when nothing is to be placed now.
    pub placing: Option<Explanation>,
    uid: String,
    gpus: u32,
}

impl Outlook {
    /// Decides what is next, as of `now`.
    pub fn new(world: &World, cluster: &Cluster, now: Timestamp) -> Result<Self, InvalidSpec> {
        let terms = ClusterTerms::new(cluster)?;
        let slices: Vec<_> = world.slices_of(&terms.uid).iter().map(slice_state).collect();
        let state = cluster_state(cluster, &terms);
        let view = |site: &str| world.site_view(site, &terms.uid, now);
        let step = next(&state, &slices, &view, &BTreeSet::new(), now.as_millisecond());
        let placing = step.want.as_ref().filter(|_| !world.network_hidden).map(|want| {
            let request = terms.request(want, &step.keep, |site| world.region(site));
            explain(&world.inventory, &request)
        });
        Ok(Self { step, placing, uid: terms.uid, gpus: terms.gpus_per_member })
    }

    /// Whether everything that is to be placed now fits.
    pub fn verdict(&self) -> Verdict {
        match &self.placing {
            Some(Explanation { outcome: Err(_), .. }) => Verdict::DoesNotFit,
            _ => Verdict::Fits,
        }
    }

    /// Takes the GPUs of the decision, so that what is asked next sees them taken.
    pub fn assume(&self, world: &mut World) {
        let Some(Explanation { outcome: Ok(decision), .. }) = &self.placing else { return };
        let mut held = world.inventory.holdings(&self.uid).to_vec();
        for site in &decision.sites {
            for node in &site.nodes {
                held.extend((node.first_rank..node.first_rank + node.count).map(|rank| Holding {
                    rank,
                    incarnation: u64::MAX,
                    site: site.site.clone(),
                    node: node.node.clone(),
                    gpus: self.gpus,
                }));
            }
        }
        world.inventory.set_holdings(&self.uid, held);
    }
}

/// What placing met: the filters, what is free, and where the members go or what would fit.
pub fn placing(world: &World, explanation: &Explanation) -> String {
    let mut text = filters(explanation);
    text.push('\n');
    match &explanation.outcome {
        Ok(decision) => {
            let placed = decision.members();
            let _ = write!(text, "{} would be placed now", count(placed, "member"));
            if placed < explanation.asked.members {
                let _ = write!(text, ", {} wait for more capacity", explanation.asked.members - placed);
            }
            text.push_str(":\n");
            text.push_str(&self::decision(world, decision));
        }
        Err(refusal) => {
            text.push_str("Does not fit:\n");
            text.push_str(&paragraph(&refusal.message(), 2));
            if !refusal.fits.is_empty() {
                text.push_str("\nEach of these by itself would fit now:\n");
                let mut table = Table::new(["CHANGE", "MEMBERS"]).right(&[1]);
                for fit in &refusal.fits {
                    table.row([change(&fit.change), fit.members.to_string()]);
                }
                text.push_str(&table.render());
            }
        }
    }
    text
}

fn filters(explanation: &Explanation) -> String {
    let mut table = Table::new(["FILTER", "LEAVES OUT", "NODES", "GPUS"]).right(&[2, 3]);
    for filter in &explanation.filters {
        let (name, what) = words(filter.filter);
        let number = |number: u64| if number == 0 { "-".to_owned() } else { number.to_string() };
        table.row([name.to_owned(), what.to_owned(), number(filter.excluded.nodes), number(filter.excluded.gpus)]);
    }
    let mut text = table.render();
    let capacity = &explanation.capacity;
    let _ = writeln!(
        text,
        "{} of the right kind, {} free and admitted, at most {} on one node.",
        count(capacity.exist, "GPU"),
        capacity.free,
        capacity.largest_node
    );
    text
}

fn words(filter: Filter) -> (&'static str, &'static str) {
    match filter {
        Filter::Model => ("model", "other models and families, or not in the catalogue"),
        Filter::Memory => ("memory", "too little memory"),
        Filter::Workload => ("workload", "models that do not suit the workload"),
        Filter::Usable => ("node", "nodes that are not Ready or unschedulable"),
        Filter::Open => ("site", "Sites that are lost, paused, suspended, or not accepted"),
        Filter::Region => ("region", "other regions"),
        Filter::Supplier => ("supplier", "other suppliers"),
        Filter::Trust => ("trust", "Sites that are trusted too little"),
        Filter::Price => ("price", "GPUs above the price cap"),
        Filter::Survivors => ("beside", "away from the members that stay"),
        Filter::Refused => ("refused", "nodes that their Site has just refused"),
    }
}

fn change(change: &Change) -> String {
    match change {
        Change::Members => "members.count, or for Pods members.min".to_owned(),
        Change::Span(span) => format!("placement.span: {span:?}"),
        Change::Model(model) => format!("gpu.models: [{model}]"),
        Change::MaxPrice(price) => format!("price.maxPerGpuHour: \"{price}\""),
        Change::MinTrust(trust) => format!("placement.minTrust: {trust:?}"),
        Change::Region(region) => format!("placement.regions: also {region}"),
        Change::Supplier(supplier) => format!("placement.suppliers: also {supplier}"),
    }
}

fn decision(world: &World, decision: &Decision) -> String {
    let mut table = Table::new(["SITE", "ID", "REGION", "NODES", "RANKS", "USD/GPU/H"]).right(&[5]);
    for share in &decision.sites {
        let ranks = share.nodes.iter().flat_map(|node| node.first_rank..node.first_rank + node.count);
        let ranks: BTreeSet<u32> = ranks.collect();
        table.row([
            short(world.display(&share.site), 20),
            share.site.clone(),
            world.region(&share.site).unwrap_or_default(),
            nodes(share.nodes.iter().map(|node| node.node.as_str())),
            short(&ranges(ranks), 16),
            share.price.to_string(),
        ]);
    }
    table.render()
}

/// Names of nodes, each once; only the first few.
pub fn nodes<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: BTreeSet<&str> = names.collect();
    let shown: Vec<String> = names.iter().take(MOST_NODES).map(|name| short(name, 16)).collect();
    let more = names.len().saturating_sub(MOST_NODES);
    if more == 0 { shown.join(",") } else { format!("{} +{more}", shown.join(",")) }
}
