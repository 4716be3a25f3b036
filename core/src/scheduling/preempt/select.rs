//! The search for victims, on any ground that can say whether the gang fits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Unit;
use super::cost::{Cost, Costs, weight};

/// The nodes, with some units evicted.
pub(super) trait Ground {
    /// Whether the gang fits now.
    fn fits(&mut self) -> bool;
    /// Takes a unit off.
    fn evict(&mut self, unit: usize);
    /// Puts a unit back.
    fn restore(&mut self, unit: usize);
    /// How many members fewer there is room for once the unit is back; `None` where that is not known.
    fn loss(&self, unit: usize) -> Option<u64>;
    /// Units whose loss may be another one now that this one is back.
    fn neighbours(&self, unit: usize) -> Vec<usize>;
}

/// How hard to try.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// Up to so many units every set is looked at, so that the choice is the best there is.
    pub(super) exact: usize,
    /// Exchanges of a victim for another unit that are tried.
    pub(super) exchanges: usize,
}

/// Chooses among `candidates`. When it is done the ground has the victims evicted and nobody else, or, with `None`
/// (it fits without none of them), is in no certain state.
pub(super) fn select(
    ground: &mut impl Ground,
    units: &[Unit],
    candidates: &[usize],
    costs: &Costs<'_>,
    effort: Effort,
) -> Option<(Vec<usize>, Cost)> {
    if candidates.len() <= effort.exact {
        return exact(ground, candidates, costs);
    }
    for unit in candidates {
        ground.evict(*unit);
    }
    if !ground.fits() {
        return None;
    }
    let mut victims: Vec<usize> = candidates.to_vec();
    spare_beyond_budgets(ground, units, &mut victims, costs);
    spare_highest(ground, units, &mut victims);
    spare_each(ground, units, &mut victims);
    if exchange(ground, units, candidates, &mut victims, costs, effort.exchanges) {
        spare_each(ground, units, &mut victims);
    }
    victims.sort_unstable();
    let cost = costs.of(&victims);
    Some((victims, cost))
}

/// Gives back who of these victims, chosen elsewhere, need not go on this ground.
pub(super) fn spare(ground: &mut impl Ground, units: &[Unit], victims: &mut Vec<usize>) {
    for unit in &*victims {
        ground.evict(*unit);
    }
    spare_each(ground, units, victims);
    victims.sort_unstable();
}

/// Every set, the cheapest first.
fn exact(ground: &mut impl Ground, candidates: &[usize], costs: &Costs<'_>) -> Option<(Vec<usize>, Cost)> {
    let members = |set: u32| -> Vec<usize> {
        candidates.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, unit)| *unit).collect()
    };
    let mut sets: Vec<(Cost, u32)> = (0..1_u32 << candidates.len()).map(|set| (costs.of(&members(set)), set)).collect();
    sets.sort_unstable();
    let mut evicted = 0_u32;
    for (cost, set) in sets {
        for (bit, unit) in candidates.iter().enumerate() {
            match (evicted >> bit & 1, set >> bit & 1) {
                (0, 1) => ground.evict(*unit),
                (1, 0) => ground.restore(*unit),
                _ => {}
            }
        }
        evicted = set;
        if ground.fits() {
            let mut victims = members(set);
            victims.sort_unstable();
            return Some((victims, cost));
        }
    }
    None
}

/// Restores these, all or none. True when the gang still fits.
fn restore_all(ground: &mut impl Ground, some: &[usize], victims: &mut Vec<usize>) -> bool {
    for unit in some {
        ground.restore(*unit);
    }
    if ground.fits() {
        victims.retain(|unit| !some.contains(unit));
        return true;
    }
    for unit in some {
        ground.evict(*unit);
    }
    false
}

/// Nobody whose eviction violates a budget, or as few as can be found.
fn spare_beyond_budgets(ground: &mut impl Ground, units: &[Unit], victims: &mut Vec<usize>, costs: &Costs<'_>) {
    let within = costs.within_budgets();
    let mut beyond: Vec<usize> = victims.iter().copied().filter(|unit| !within[*unit]).collect();
    if beyond.is_empty() || restore_all(ground, &beyond, victims) {
        return;
    }
    beyond.sort_by_key(|unit| (Reverse(units[*unit].priority), Reverse(units[*unit].pods.len()), *unit));
    for unit in beyond {
        restore_all(ground, &[unit], victims);
    }
}

/// Whole priorities, from the highest down, as long as the gang fits without evicting them.
fn spare_highest(ground: &mut impl Ground, units: &[Unit], victims: &mut Vec<usize>) {
    while let Some(highest) = victims.iter().map(|unit| units[*unit].priority).max() {
        let some: Vec<usize> = victims.iter().copied().filter(|unit| units[*unit].priority == highest).collect();
        if !restore_all(ground, &some, victims) {
            return;
        }
    }
}

/// One after the other: first whose room the gang misses least for the pods that are spared.
fn spare_each(ground: &mut impl Ground, units: &[Unit], victims: &mut Vec<usize>) {
    let mut evicted: BTreeSet<usize> = victims.iter().copied().collect();
    let key = |ground: &_, unit: usize| {
        let pods = units[unit].pods.len().max(1) as u64;
        let loss = Ground::loss(ground, unit).unwrap_or(0);
        // Thousandths of a member for each pod.
        (loss.saturating_mul(1000) / pods, Reverse(units[unit].priority), Reverse(pods), units[unit].started, unit)
    };
    let mut keys: BTreeMap<usize, _> = victims.iter().map(|unit| (*unit, key(&*ground, *unit))).collect();
    let mut order: BTreeSet<_> = keys.values().copied().collect();
    while let Some(first) = order.pop_first() {
        let unit = first.4;
        keys.remove(&unit);
        ground.restore(unit);
        if !ground.fits() {
            ground.evict(unit);
            continue;
        }
        evicted.remove(&unit);
        for neighbour in ground.neighbours(unit) {
            // Who could not be spared may be now: what it stands on is of no use any more.
            if evicted.contains(&neighbour) {
                if let Some(old) = keys.get(&neighbour) {
                    order.remove(old);
                }
                let new = key(&*ground, neighbour);
                order.insert(new);
                keys.insert(neighbour, new);
            }
        }
    }
    victims.retain(|victim| evicted.contains(victim));
}

/// One victim for a cheaper unit that does as well. True when any was exchanged.
fn exchange(
    ground: &mut impl Ground,
    units: &[Unit],
    candidates: &[usize],
    victims: &mut Vec<usize>,
    costs: &Costs<'_>,
    mut tries: usize,
) -> bool {
    let mut exchanged = false;
    let mut others: Vec<usize> = candidates.iter().copied().filter(|unit| !victims.contains(unit)).collect();
    others.sort_by_key(|unit| (weight(&units[*unit]), *unit));
    let mut expensive = victims.clone();
    expensive.sort_by_key(|unit| (Reverse(weight(&units[*unit])), *unit));
    let mut cost = costs.of(victims);
    for victim in expensive {
        ground.restore(victim);
        let mut replaced = false;
        for at in 0..others.len() {
            let other = others[at];
            if tries == 0 || weight(&units[other]) >= weight(&units[victim]) {
                break;
            }
            tries -= 1;
            ground.evict(other);
            let mut with: Vec<usize> = victims.iter().copied().filter(|unit| *unit != victim).collect();
            with.push(other);
            if ground.fits() && costs.of(&with) < cost {
                cost = costs.of(&with);
                *victims = with;
                others.remove(at);
                replaced = true;
                exchanged = true;
                break;
            }
            ground.restore(other);
        }
        if !replaced {
            ground.evict(victim);
        }
    }
    exchanged
}
