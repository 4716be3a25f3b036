//! What the packing is compared with, written from the paper and the simulator published with it: "Beware of
//! Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX ATC 2023.

use std::collections::HashMap;

use atoll_core::packing::{Gpus, Machine, Placement, Price, Task, WHOLE};

use crate::replay::Policy;

/// Part of the pods that the paper's typical pods stand for.
const TYPICAL: f64 = 0.95;

/// Puts a pod where the least is left of cores and GPUs, both in parts of the largest machine.
pub struct BestFit;

impl Policy for BestFit {
    fn place(&mut self, machine: &Machine, task: &Task) -> Option<Placement> {
        let after = after(machine, task).next()?;
        // Scores are whole numbers from 0 to 100.
        let left = 0.5 * number(after.cpu()) / 128_000.0 + 0.5 * number(after.free_milli()) / 8000.0;
        Some(Placement { price: of_cost(-whole((1.0 - left) * 100.0)), after })
    }
}

/// How costs of fragmentation are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// As they are: the formula of the paper.
    Exact,
    /// In whole numbers from 0 to 100 of their sigmoid: what the published results were made with.
    Published,
}

/// Fragmentation gradient descent: puts a pod where the GPUs that typical pods cannot use grow least.
pub struct Fgd {
    scores: Scores,
    /// Typical pods and their part of all.
    typical: Vec<(Task, f64)>,
    known: HashMap<Machine, f64>,
}

impl Fgd {
    /// Knows the whole trace, as the paper's does.
    pub fn new(pods: &[Task], scores: Scores) -> Self {
        let mut kinds: HashMap<Task, f64> = HashMap::new();
        for pod in pods {
            // Typical pods have no memory.
            *kinds.entry(Task { memory: 0, ..*pod }).or_default() += 1.0;
        }
        let mut typical: Vec<(Task, f64)> = kinds.into_iter().collect();
        typical.sort_by(|(a, of_a), (b, of_b)| of_b.total_cmp(of_a).then(b.cpu.cmp(&a.cpu)).then(b.cmp(a)));
        let (all, mut counted, mut kept) = (number(pods.len()), 0.0, 0);
        for (_, count) in &typical {
            if counted >= TYPICAL * all {
                break;
            }
            counted += count;
            kept += 1;
        }
        typical.truncate(kept);
        for (_, count) in &mut typical {
            *count /= counted;
        }
        Self { scores, typical, known: HashMap::new() }
    }

    /// Thousandths of the machine's GPUs that a typical pod cannot use, on average.
    fn fragmentation(&mut self, machine: &Machine) -> f64 {
        let machine = Machine::new(machine.model(), machine.cpu(), 0, machine.gpus().iter().copied());
        if let Some(known) = self.known.get(&machine) {
            return *known;
        }
        let all = machine.free_milli();
        let unusable = |pod: &Task| match pod.gpus {
            Gpus::None => all,
            _ if !machine.fits(pod) => all,
            Gpus::Share(share) => below(&machine, share),
            Gpus::Whole(_) => below(&machine, WHOLE),
        };
        let sum = self.typical.iter().map(|(pod, part)| part * number(unusable(pod))).sum();
        self.known.insert(machine, sum);
        sum
    }
}

impl Policy for Fgd {
    fn place(&mut self, machine: &Machine, task: &Task) -> Option<Placement> {
        let mut best: Option<Placement> = None;
        for after in after(machine, task) {
            let grows = self.fragmentation(&after) - self.fragmentation(machine);
            let price = of_cost(match self.scores {
                Scores::Exact => whole((grows * 1000.0).round()),
                Scores::Published => -whole(100.0 / (1.0 + (grows / 1000.0).exp())),
            });
            if best.is_none_or(|best| price < best.price) {
                best = Some(Placement { price, after });
            }
        }
        best
    }
}

/// Both know only scores: of equal ones the first machine is taken.
fn of_cost(cost: i64) -> Price {
    Price { cost, ..Price::default() }
}

/// Free thousandths of GPUs with less than this free.
fn below(machine: &Machine, share: u16) -> i64 {
    machine.gpus().iter().filter(|free| **free < share).map(|free| i64::from(*free)).sum()
}

/// What the machine may look like with the task on it, the fullest GPU first; nothing when it does not fit.
fn after(machine: &Machine, task: &Task) -> impl Iterator<Item = Machine> {
    let gaps = match task.gpus {
        _ if !machine.fits(task) => &[],
        Gpus::Share(share) => &machine.gpus()[machine.gpus().partition_point(|free| *free < share)..],
        Gpus::None | Gpus::Whole(_) => &[WHOLE][..],
    };
    gaps.iter().map(|gap| machine.without(task, *gap))
}

fn number<N: TryInto<i32>>(whole: N) -> f64 {
    f64::from(whole.try_into().unwrap_or(i32::MAX))
}

#[expect(clippy::cast_possible_truncation, reason = "costs are far below 2^53")]
fn whole(number: f64) -> i64 {
    number as i64
}

#[cfg(test)]
mod tests {
    use atoll_core::packing::Models;

    use super::*;

    fn pod(gpus: Gpus, cpu: i64) -> Task {
        Task { gpus, cpu, memory: 1, models: Models::ANY }
    }

    #[test]
    fn fragmentation_is_what_typical_pods_cannot_use() {
        let pods =
            [pod(Gpus::Share(500), 1000), pod(Gpus::Whole(1), 4000), pod(Gpus::Whole(2), 4000), pod(Gpus::None, 1)];
        let mut fgd = Fgd::new(&pods, Scores::Exact);
        for (cpu, gpus, expected) in [
            // A share could use all of it, one GPU all but 400, two nothing, and no GPU nothing.
            (8000, &[1000, 400][..], (400.0 + 400.0 + 1400.0 + 1400.0) / 4.0),
            // Cores are missing for all but the share.
            (1000, &[1000, 1000], (0.0 + 2000.0 + 2000.0 + 2000.0) / 4.0),
            (8000, &[], 0.0),
        ] {
            let found = fgd.fragmentation(&Machine::new(0, cpu, 1, gpus.iter().copied()));
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
    }

    #[test]
    fn both_take_the_gap_that_fits() {
        let machine = Machine::new(0, 8000, 8, [1000, 500]);
        let share = pod(Gpus::Share(500), 1000);
        let mut fgd = Fgd::new(&[share, pod(Gpus::Whole(1), 4000)], Scores::Published);
        assert_eq!(fgd.place(&machine, &share).unwrap().after.gpus(), [1000]);
        assert_eq!(BestFit.place(&machine, &share).unwrap().after.gpus(), [1000]);
        assert_eq!(fgd.place(&machine, &pod(Gpus::Whole(2), 1)), None);
        assert_eq!(BestFit.place(&machine, &pod(Gpus::None, 8001)), None);
    }
}
