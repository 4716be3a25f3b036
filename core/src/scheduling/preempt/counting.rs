//! Gangs of one shape that ask for amounts only: whether they fit is a matter of counting.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::cost::{Cost, Costs};
use super::select::{Effort, Ground, select, spare};
use super::{GangRequest, Nodes, Unit};
use crate::scheduling::amounts::Amounts;
use crate::scheduling::between::is_coupled;
use crate::scheduling::filter::suits;
use crate::scheduling::node::NodeState;
use crate::scheduling::nodes::NodeIx;

/// Sets that may be looked at in all, over all grounds.
const SETS: usize = 1 << 15;
/// Most units of which every set is looked at.
const MOST_EXACT: usize = 12;
const EXCHANGES: usize = 2000;

/// Whether the gang's members are alike and ask for nothing but amounts, labels and taints.
pub(super) fn is_countable(nodes: &Nodes, request: &GangRequest) -> bool {
    let Some(first) = request.members.first() else { return false };
    let shape = &first.shape;
    shape.host_ports.is_empty()
        && shape.volumes.attached.is_empty()
        && shape.volumes.exclusive.is_empty()
        && request.members.iter().all(|member| member.shape == *shape && !is_coupled(nodes, shape, &member.identity))
}

/// The cheapest victims over all domains that the gang may be in.
pub(super) fn choose(nodes: &Nodes, request: &GangRequest, units: &[Unit], costs: &Costs<'_>) -> Option<Vec<usize>> {
    let requests = &request.members.first()?.shape.requests;
    let needed = request.members.len() as u64;
    let domains = domains(nodes, request);
    // A gang that fits on one node may be cheaper to have there than anywhere between.
    let alone = |ix: &NodeIx| {
        nodes
            .node(*ix)
            .is_some_and(|(state, _)| u64::from(Amounts::default().copies(&state.allocatable, requests)) >= needed)
    };
    let mut grounds: Vec<(&[NodeIx], &[NodeIx])> = Vec::new();
    for domain in &domains {
        grounds.push((domain, domain));
        if domain.len() > 1 {
            grounds.extend(domain.iter().filter(|ix| alone(ix)).map(|ix| (std::slice::from_ref(ix), &**domain)));
        }
    }
    let sets = (SETS / grounds.len().max(1)).max(1);
    let effort = Effort { exact: (sets.ilog2() as usize).min(MOST_EXACT), exchanges: EXCHANGES / grounds.len().max(1) };
    let on = units_by_node(nodes, units);
    let counting = |ground: &[NodeIx]| {
        let candidates: BTreeSet<usize> = ground.iter().filter_map(|ix| on.get(ix)).flatten().copied().collect();
        let candidates: Vec<usize> = candidates.into_iter().collect();
        (Counting::new(nodes, ground, requests, needed, units, &candidates), candidates)
    };
    let mut best: Option<(Cost, Vec<usize>, &[NodeIx])> = None;
    for (ground, domain) in grounds {
        let (mut ground, candidates) = counting(ground);
        if let Some((victims, cost)) = select(&mut ground, units, &candidates, costs, effort)
            && best.as_ref().is_none_or(|(least, ..)| cost < *least)
        {
            best = Some((cost, victims, domain));
        }
    }
    let (_, mut victims, domain) = best?;
    // Who had to go for one node alone may stay if the other nodes of the domain help.
    spare(&mut counting(domain).0, units, &mut victims);
    Some(victims)
}

/// The nodes that suit the gang, by the domains that must hold it whole: equal values of every required level.
fn domains(nodes: &Nodes, request: &GangRequest) -> Vec<Vec<NodeIx>> {
    let Some(first) = request.members.first() else { return Vec::new() };
    let mut domains: BTreeMap<Vec<&str>, Vec<NodeIx>> = BTreeMap::new();
    for (ix, state, _) in nodes.iter() {
        if request.closed.contains(&ix) || suits(state, &first.shape).is_some() {
            continue;
        }
        let required = request.topology.iter().filter(|level| level.required);
        let values: Option<Vec<&str>> =
            required.map(|level| state.labels.get(&level.key).map(String::as_str)).collect();
        if let Some(values) = values {
            domains.entry(values).or_default().push(ix);
        }
    }
    domains.into_values().collect()
}

fn units_by_node(nodes: &Nodes, units: &[Unit]) -> HashMap<NodeIx, Vec<usize>> {
    let mut on: HashMap<NodeIx, Vec<usize>> = HashMap::new();
    for (index, unit) in units.iter().enumerate() {
        for (ix, _) in unit.pods.iter().filter_map(|pod| nodes.occupant(pod.id)) {
            let there = on.entry(ix).or_default();
            if there.last() != Some(&index) {
                there.push(index);
            }
        }
    }
    on
}

struct Spot<'a> {
    state: &'a NodeState,
    used: Amounts,
    copies: u64,
    units: Vec<usize>,
}

/// What each unit takes on each spot.
type Stakes<'a> = Vec<(usize, Vec<&'a Amounts>)>;

struct Counting<'a> {
    requests: &'a Amounts,
    needed: u64,
    room: u64,
    spots: Vec<Spot<'a>>,
    stakes: HashMap<usize, Stakes<'a>>,
}

impl<'a> Counting<'a> {
    fn new(
        nodes: &'a Nodes,
        ground: &[NodeIx],
        requests: &'a Amounts,
        needed: u64,
        units: &[Unit],
        candidates: &[usize],
    ) -> Self {
        let mut spots: Vec<Spot<'a>> = Vec::with_capacity(ground.len());
        let mut spot_of: HashMap<NodeIx, usize> = HashMap::with_capacity(ground.len());
        let mut room = 0;
        for ix in ground {
            let Some((state, on)) = nodes.node(*ix) else { continue };
            let copies = u64::from(on.used.copies(&state.allocatable, requests)).min(needed);
            room += copies;
            spot_of.insert(*ix, spots.len());
            spots.push(Spot { state, used: on.used.clone(), copies, units: Vec::new() });
        }
        let mut stakes: HashMap<usize, Stakes<'a>> = HashMap::with_capacity(candidates.len());
        for unit in candidates {
            let mut of_unit: BTreeMap<usize, Vec<&Amounts>> = BTreeMap::new();
            for (ix, occupant) in units[*unit].pods.iter().filter_map(|pod| nodes.occupant(pod.id)) {
                if let Some(spot) = spot_of.get(&ix) {
                    of_unit.entry(*spot).or_default().push(&occupant.shape.requests);
                }
            }
            for spot in of_unit.keys() {
                spots[*spot].units.push(*unit);
            }
            stakes.insert(*unit, of_unit.into_iter().collect());
        }
        Self { requests, needed, room, spots, stakes }
    }

    fn change(&mut self, unit: usize, with: impl Fn(&mut Amounts, &Amounts)) {
        let Some(stakes) = self.stakes.get(&unit) else { return };
        for (spot, taken) in stakes {
            let spot = &mut self.spots[*spot];
            for amounts in taken {
                with(&mut spot.used, amounts);
            }
            let copies = u64::from(spot.used.copies(&spot.state.allocatable, self.requests)).min(self.needed);
            self.room = self.room - spot.copies + copies;
            spot.copies = copies;
        }
    }
}

impl Ground for Counting<'_> {
    fn fits(&mut self) -> bool {
        self.room >= self.needed
    }

    fn evict(&mut self, unit: usize) {
        self.change(unit, Amounts::subtract);
    }

    fn restore(&mut self, unit: usize) {
        self.change(unit, Amounts::add);
    }

    fn loss(&self, unit: usize) -> Option<u64> {
        let mut loss = 0;
        for (spot, taken) in self.stakes.get(&unit)? {
            let spot = &self.spots[*spot];
            let mut used = spot.used.clone();
            for amounts in taken {
                used.add(amounts);
            }
            loss += spot.copies - u64::from(used.copies(&spot.state.allocatable, self.requests)).min(spot.copies);
        }
        Some(loss)
    }

    fn neighbours(&self, unit: usize) -> Vec<usize> {
        let spots = self.stakes.get(&unit).into_iter().flatten();
        let all: BTreeSet<usize> = spots.flat_map(|(spot, _)| &self.spots[*spot].units).copied().collect();
        all.into_iter().filter(|other| *other != unit).collect()
    }
}
