//! Pods arriving one after the other, each put on a machine for good or refused.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use atoll_core::packing::{Machine, Packer, Placement, Task};

/// Says what it costs to put a pod on a machine.
pub trait Policy {
    /// A pod was put on a machine.
    fn placed(&mut self, _task: &Task) {}

    /// Costs of another version are void.
    fn version(&self) -> u64 {
        0
    }

    /// The best placement on this machine; `None` exactly when it does not fit.
    fn place(&mut self, machine: &Machine, task: &Task) -> Option<Placement>;
}

impl Policy for Packer {
    fn placed(&mut self, task: &Task) {
        self.observe(task, 1);
    }

    fn version(&self) -> u64 {
        Packer::version(self)
    }

    fn place(&mut self, machine: &Machine, task: &Task) -> Option<Placement> {
        Packer::place(self, machine, task)
    }
}

/// What one kind of pod would cost on each machine.
struct Costs {
    version: u64,
    /// By machine: for which change of it, and the placement.
    of: Vec<(u32, Option<Placement>)>,
}

/// Puts each pod on the machine with the least price, the first of equal ones, and returns the machines at the end.
/// Every pod that fits somewhere is placed. This is how the scheduler uses the packing: it asks for the same prices,
/// compares them the same way, and learns from what is placed.
pub fn replay(machines: &[Machine], arrivals: &[Task], policy: &mut dyn Policy) -> Result<Vec<Machine>> {
    let mut machines = machines.to_vec();
    let mut changes = vec![1_u32; machines.len()];
    let mut known: HashMap<Task, Costs> = HashMap::new();
    for task in arrivals {
        let version = policy.version();
        let costs = known.entry(*task).or_insert_with(|| Costs { version, of: vec![(0, None); machines.len()] });
        if costs.version != version {
            *costs = Costs { version, of: vec![(0, None); machines.len()] };
        }
        let mut best: Option<(usize, Placement)> = None;
        for (at, ((change, placed), machine)) in costs.of.iter_mut().zip(&machines).enumerate() {
            if *change != changes[at] {
                *change = changes[at];
                *placed = policy.place(machine, task);
                ensure!(placed.is_some() == machine.fits(task), "{task:?} was refused by {machine:?}");
            }
            if let Some(placed) = placed
                && best.is_none_or(|(_, best)| placed.price < best.price)
            {
                best = Some((at, *placed));
            }
        }
        if let Some((at, placed)) = best {
            let (before, after) = (&machines[at], &placed.after);
            let taken = before.free_milli() - after.free_milli();
            ensure!(
                taken == task.gpus.milli() && after.cpu() >= 0 && after.memory() >= 0,
                "{before:?} became {after:?}"
            );
            machines[at] = placed.after;
            policy.placed(task);
            changes[at] += 1;
        }
    }
    Ok(machines)
}
