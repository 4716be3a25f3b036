//! Which of several devices to give to one container.
//!
//! Devices stand in groups of which any member is as good as any other: a whole GPU alone, the slices of a GPU that is
//! shared in time, the instances of a divided GPU. What is chosen is how many of each group. Scores compare in order,
//! the next part only where the parts before are equal, and the choice has the best score that there is:
//!
//! [`Policy::Spread`], for whole GPUs and slices of time:
//! 1. the most groups: two slices of one GPU are no more than one;
//! 2. the load is level: the least sum of squares of what is then in use per group;
//! 3. the groups are near each other: the largest sum of [`Nearness`] over all pairs of chosen groups, in which pairs of
//!    one model count before links, and links before the bus;
//! 4. what is left is near each other: the least sum of nearness between the chosen groups and all that had something
//!    available.
//!
//! [`Policy::Pack`], for instances of divided GPUs, which have no links to each other:
//! 1. the fewest groups are begun of which nothing is in use;
//! 2. the fewest groups are touched;
//! 3. the least stays free in those that are touched.

/// What makes one choice better than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Level the load, then stay near: whole GPUs, and slices of time.
    Spread,
    /// Fill what is begun: instances of divided GPUs.
    Pack,
}

/// Devices of which any is as good as any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// How many there are.
    pub total: u32,
    /// How many of them can be had.
    pub available: u32,
    /// How many of those must be chosen.
    pub must: u32,
}

impl Group {
    fn used(&self) -> u32 {
        self.total.saturating_sub(self.available)
    }
}

/// How well two groups work together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nearness {
    /// The same model.
    pub same_model: bool,
    /// Links between them (`NVLink`).
    pub links: u32,
    /// How near they are on the bus; 0 is farthest.
    pub bus: u32,
}

impl Nearness {
    /// A number that adds up over pairs without one part reaching into the next: 2^16 is above the sum of links or of
    /// bus steps over the pairs of 64 groups, with fewer than 32 of each per pair.
    fn weight(self) -> u64 {
        const LARGEST: u32 = 31;
        (u64::from(self.same_model) << 32)
            + (u64::from(self.links.min(LARGEST)) << 16)
            + u64::from(self.bus.min(LARGEST))
    }
}

/// How near each group is to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    count: usize,
    /// Row by row, zero on the diagonal.
    weights: Vec<u64>,
}

impl Topology {
    /// Of `count` groups; `nearness` is asked once per pair.
    #[must_use]
    pub fn new(count: usize, mut nearness: impl FnMut(usize, usize) -> Nearness) -> Self {
        let mut weights = vec![0; count * count];
        for a in 0..count {
            for b in 0..a {
                let weight = nearness(a, b).weight();
                weights[a * count + b] = weight;
                weights[b * count + a] = weight;
            }
        }
        Self { count, weights }
    }

    fn weight(&self, a: usize, b: usize) -> u64 {
        if a < self.count && b < self.count { self.weights[a * self.count + b] } else { 0 }
    }
}

/// How many to take of each group so that it is `size` in all, or as many as there are.
///
/// The score is the best for [`Policy::Pack`] at any size and for [`Policy::Spread`] while the choice among equally
/// loaded groups has at most [`COMBINATIONS`] ways, which up to 20 groups it always has; above that it is a choice that
/// no exchange of two groups betters. Among equal scores the first groups win.
#[must_use]
pub fn preferred(policy: Policy, groups: &[Group], topology: &Topology, size: u32) -> Vec<u32> {
    match policy {
        Policy::Spread => spread(groups, topology, size),
        Policy::Pack => pack(groups, size),
    }
}

/// Up to so many ways are all looked at.
pub const COMBINATIONS: u64 = 200_000;

fn spread(groups: &[Group], topology: &Topology, size: u32) -> Vec<u32> {
    let mut counts: Vec<u32> = groups.iter().map(|group| group.must.min(group.available)).collect();
    let mut need = size.saturating_sub(counts.iter().sum()) as usize;
    let top = groups.iter().map(|group| group.total.max(group.available)).max().unwrap_or(0);
    // One more in a group of load l adds 2·l + 1 to the sum of squares, so the least loaded come first, and of equally
    // loaded ones it is free to choose. First come groups that have nothing yet; then nearness is settled.
    for (fresh, load) in (0..=top).map(|load| (true, load)).chain((0..=top).map(|load| (false, load))) {
        let mut taken: Vec<usize> = (0..groups.len())
            .filter(|&at| groups[at].used() + counts[at] == load && counts[at] < groups[at].available)
            .filter(|&at| !fresh || counts[at] == 0)
            .collect();
        if taken.len() > need {
            if fresh && need > 0 {
                taken = nearest(groups, topology, &counts, &taken, need);
            } else {
                taken.truncate(need);
            }
        }
        need -= taken.len();
        for at in taken {
            counts[at] += 1;
        }
    }
    counts
}

/// The best `size` of `candidates`, which have no count yet, to add to what has one; `size` is less than there are.
fn nearest(groups: &[Group], topology: &Topology, counts: &[u32], candidates: &[usize], size: usize) -> Vec<usize> {
    let count = candidates.len();
    let mut weights = vec![0; count * count];
    let mut near = vec![0; count];
    let mut cost = vec![0; count];
    for (a, &of) in candidates.iter().enumerate() {
        for (b, &to) in candidates.iter().enumerate() {
            weights[a * count + b] = topology.weight(of, to);
        }
        for to in 0..groups.len() {
            if counts[to] > 0 {
                near[a] += topology.weight(of, to);
            }
            if groups[to].available > 0 {
                cost[a] += topology.weight(of, to);
            }
        }
    }
    let chosen = if combinations(count, size) <= COMBINATIONS {
        let mut search = Search {
            count,
            size,
            weights: &weights,
            cost: &cost,
            near: vec![near; size],
            chosen: Vec::with_capacity(size),
            best: None,
        };
        search.from(0, 0, 0);
        search.best.map(|(_, _, chosen)| chosen).unwrap_or_default()
    } else {
        exchange(count, size, &weights, &near, &cost)
    };
    chosen.into_iter().map(|at| candidates[at]).collect()
}

/// How many ways there are to choose `size` of `count`, or more than [`COMBINATIONS`].
fn combinations(count: usize, size: usize) -> u64 {
    let mut ways = 1u64;
    for step in 0..size.min(count - size) {
        ways = ways * (count - step) as u64 / (step as u64 + 1);
        if ways > COMBINATIONS {
            break;
        }
    }
    ways
}

/// Looks at every choice of `size` of `count`, in the order of their first members.
struct Search<'a> {
    count: usize,
    size: usize,
    weights: &'a [u64],
    cost: &'a [u64],
    /// Per number of members chosen so far: how near each candidate is to all of them.
    near: Vec<Vec<u64>>,
    chosen: Vec<usize>,
    best: Option<(u64, u64, Vec<usize>)>,
}

impl Search<'_> {
    /// All choices that begin with what is chosen and go on with candidates from `first`.
    fn from(&mut self, first: usize, nearness: u64, cost: u64) {
        let depth = self.chosen.len();
        let complete = depth + 1 == self.size;
        for at in first..=self.count + depth - self.size {
            let nearness = nearness + self.near[depth][at];
            let cost = cost + self.cost[at];
            if complete {
                let better = match &self.best {
                    None => true,
                    Some((best, least, _)) => nearness > *best || (nearness == *best && cost < *least),
                };
                if better {
                    let mut chosen = self.chosen.clone();
                    chosen.push(at);
                    self.best = Some((nearness, cost, chosen));
                }
                continue;
            }
            let (before, after) = self.near.split_at_mut(depth + 1);
            let row = &self.weights[at * self.count..(at + 1) * self.count];
            for other in at + 1..self.count {
                after[0][other] = before[depth][other] + row[other];
            }
            self.chosen.push(at);
            self.from(at + 1, nearness, cost);
            self.chosen.pop();
        }
    }
}

/// Takes the nearest one by one, then exchanges one for another as long as that is better.
fn exchange(count: usize, size: usize, weights: &[u64], near: &[u64], cost: &[u64]) -> Vec<usize> {
    let mut inside = vec![false; count];
    let mut near = near.to_vec();
    let shift = |near: &mut [u64], at: usize, add: bool| {
        for other in 0..count {
            let weight = weights[at * count + other];
            near[other] = if add { near[other] + weight } else { near[other] - weight };
        }
    };
    for _ in 0..size {
        let next = (0..count).filter(|&at| !inside[at]).max_by_key(|&at| (near[at], u64::MAX - cost[at], count - at));
        let Some(next) = next else { break };
        inside[next] = true;
        shift(&mut near, next, true);
    }
    loop {
        let pairs = (0..count).filter(|&out| inside[out]).flat_map(|out| (0..count).map(move |within| (out, within)));
        let better = pairs.into_iter().find(|&(out, within)| {
            let gained = near[within].saturating_sub(weights[out * count + within]);
            !inside[within] && (gained > near[out] || (gained == near[out] && cost[within] < cost[out]))
        });
        // Each exchange betters the score, so this ends.
        let Some((out, within)) = better else { break };
        inside[out] = false;
        shift(&mut near, out, false);
        inside[within] = true;
        shift(&mut near, within, true);
    }
    (0..count).filter(|&at| inside[at]).collect()
}

fn pack(groups: &[Group], size: u32) -> Vec<u32> {
    let most: u32 = groups.iter().map(|group| group.available).sum();
    let least: u32 = groups.iter().map(|group| group.must.min(group.available)).sum();
    let size = size.clamp(least, most) as usize;
    // best[g][n]: the least cost of taking n from the groups from g on.
    let mut best = vec![vec![None; size + 1]; groups.len() + 1];
    best[groups.len()][0] = Some(0);
    for (at, group) in groups.iter().enumerate().rev() {
        for taken in 0..=size {
            best[at][taken] = choices(group, taken)
                .filter_map(|count| best[at + 1][taken - count as usize].map(|rest| rest + pack_cost(group, count)))
                .min();
        }
    }
    let mut left = size;
    let mut counts = Vec::with_capacity(groups.len());
    for (at, group) in groups.iter().enumerate() {
        let count = choices(group, left)
            .rev()
            .find(|&count| {
                let rest = best[at + 1][left - count as usize];
                rest.is_some() && rest.map(|rest| rest + pack_cost(group, count)) == best[at][left]
            })
            .unwrap_or(0);
        left -= count as usize;
        counts.push(count);
    }
    counts
}

/// How many may be taken of a group when `left` are needed in all.
fn choices(group: &Group, left: usize) -> impl DoubleEndedIterator<Item = u32> + use<> {
    let most = group.available.min(u32::try_from(left).unwrap_or(u32::MAX));
    group.must.min(group.available)..=most
}

/// Begun, touched and left over, in this order; each below 2^20 in sum.
fn pack_cost(group: &Group, count: u32) -> u64 {
    if count == 0 {
        return 0;
    }
    (u64::from(group.used() == 0) << 40) + (1 << 20) + u64::from(group.available - count)
}

#[cfg(test)]
mod tests;
