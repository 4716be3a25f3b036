//! A Site that is full of gangs, the same for everybody.

use std::collections::BTreeMap;

use crate::load::Gang;

/// The `PriorityClass` objects of those that may be preempted.
pub const PRIORITIES: [(&str, i32); 4] = [("spot", 0), ("batch", 100), ("team", 200), ("production", 300)];
/// Members and GPUs of each, in turn.
const KINDS: [(usize, u32); 10] = [(1, 1), (8, 1), (1, 8), (4, 2), (2, 8), (1, 4), (16, 4), (4, 8), (32, 1), (16, 8)];
/// GPUs of a node.
const GPUS: u32 = 8;

/// A gang that runs; of one member: a single pod.
pub struct Placed {
    pub name: String,
    pub gpus: u32,
    priority: usize,
    /// The node of each member.
    pub nodes: Vec<usize>,
    /// Disruptions that its budget allows, if it has a budget.
    pub budget: Option<usize>,
}

impl Placed {
    pub fn priority(&self) -> (&'static str, i32) {
        PRIORITIES[self.priority]
    }

    pub fn pod(&self, rank: usize) -> String {
        format!("{}-{rank}", self.name)
    }

    pub fn words(&self) -> Gang<'static> {
        Gang {
            name: self.name.clone(),
            size: u32::try_from(self.nodes.len()).unwrap_or(u32::MAX),
            gpus: self.gpus,
            within: None,
            priority: Some(self.priority().0),
        }
    }
}

/// Nodes without a free GPU.
pub struct Full(Vec<Placed>);

/// What an eviction costs, in the order in which Kubernetes compares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Pods beyond what their budgets allow.
    pub violations: usize,
    /// The highest priority of an evicted pod.
    pub highest: i32,
    /// The sum of their priorities, each counted from the lowest there is.
    pub sum: i64,
    /// How many.
    pub pods: usize,
}

impl Cost {
    pub fn describe(&self) -> String {
        format!("{} victims, {} over budget, highest priority {}", self.pods, self.violations, self.highest)
    }
}

impl Full {
    /// Gangs are mostly together, and one in five is scattered.
    pub fn on(nodes: u32) -> Self {
        let mut free = vec![GPUS; nodes as usize];
        let mut random = Random(7);
        let mut gangs = Vec::new();
        let mut refused = 0;
        while free.iter().any(|&gpus| gpus > 0) {
            // When nothing larger has found room for long, single GPUs fill the gaps.
            let (members, gpus) = if refused > 100 { (1, 1) } else { KINDS[random.below(KINDS.len())] };
            let scattered = random.below(5) == 0;
            let Some(placed) = place(&mut free, members, gpus, scattered, &mut random) else {
                refused += 1;
                continue;
            };
            let budget = (random.below(4) == 0).then(|| [0, 1, members][random.below(3)]);
            let priority = random.below(PRIORITIES.len());
            gangs.push(Placed { name: format!("g-{}", gangs.len()), gpus, priority, nodes: placed, budget });
        }
        Self(gangs)
    }

    pub fn gangs(&self) -> impl Iterator<Item = &Placed> {
        self.0.iter()
    }

    pub fn describe(&self) -> String {
        let pods: usize = self.0.iter().map(|gang| gang.nodes.len()).sum();
        let budgets = self.0.iter().filter(|gang| gang.budget.is_some()).count();
        let singles = self.0.iter().filter(|gang| gang.nodes.len() == 1).count();
        format!(
            "{pods} pods of 1 to 8 GPUs, {singles} of them single and the others in {} gangs of 2 to 32, {} priorities, {budgets} PodDisruptionBudgets",
            self.0.len() - singles,
            PRIORITIES.len()
        )
    }

    /// What evicting these pods costs.
    pub fn cost<'a>(&self, victims: impl IntoIterator<Item = &'a str>) -> Cost {
        let mut per_gang: BTreeMap<&str, usize> = BTreeMap::new();
        for (gang, _) in victims.into_iter().filter_map(|pod| pod.rsplit_once('-')) {
            *per_gang.entry(gang).or_default() += 1;
        }
        let mut cost = Cost { highest: i32::MIN, ..Cost::default() };
        for gang in &self.0 {
            let Some(&evicted) = per_gang.get(gang.name.as_str()) else { continue };
            let priority = gang.priority().1;
            cost.violations += gang.budget.map_or(0, |allowed| evicted.saturating_sub(allowed));
            cost.highest = cost.highest.max(priority);
            cost.sum += (i64::from(priority) - i64::from(i32::MIN)) * i64::try_from(evicted).unwrap_or(i64::MAX);
            cost.pods += evicted;
        }
        if cost.pods == 0 { Cost::default() } else { cost }
    }
}

/// A node for each member, if there is room for all.
fn place(free: &mut [u32], members: usize, gpus: u32, scattered: bool, random: &mut Random) -> Option<Vec<usize>> {
    let mut left = free.to_vec();
    let mut at = random.below(left.len());
    let mut placed = Vec::new();
    for _ in 0..members {
        if scattered {
            at = random.below(left.len());
        }
        at = (0..left.len()).map(|step| (at + step) % left.len()).find(|&node| left[node] >= gpus)?;
        left[at] -= gpus;
        placed.push(at);
    }
    free.copy_from_slice(&left);
    Some(placed)
}

/// Numbers that look random and are the same in each run (Knuth's MMIX generator).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_node_has_a_free_gpu_and_none_is_over_capacity() {
        let full = Full::on(50);
        let mut used = vec![0; 50];
        for gang in full.gangs() {
            for &node in &gang.nodes {
                used[node] += gang.gpus;
            }
        }
        assert!(used.iter().all(|&gpus| gpus == GPUS), "{used:?}");
        assert!(full.gangs().any(|gang| gang.nodes.len() == 32), "{}", full.describe());
    }

    #[test]
    fn evictions_beyond_a_budget_cost_most() {
        let gang = |name: &str, priority, budget| Placed {
            name: name.to_owned(),
            gpus: 1,
            priority,
            nodes: vec![0, 1],
            budget,
        };
        let full = Full(vec![gang("a", 0, Some(1)), gang("b", 3, None)]);
        assert_eq!(full.cost(["a-0", "a-1"]).violations, 1);
        assert!(full.cost(["a-0", "a-1"]) > full.cost(["b-0", "b-1"]));
        assert!(full.cost(["a-0"]) < full.cost(["b-0"]), "within the budget, priority decides");
        assert_eq!(full.cost(["b-0", "b-1"]).pods, 2);
        assert_eq!(full.cost([]), Cost::default());
    }
}
