//! What it costs to put a task on a machine.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::hash::Mixer;
use super::machine::{Gpus, Machine, Task, WHOLE};
use super::prices::SharePrices;
use super::wide::Wide;
use super::workload::{MAX_KINDS, Workload};

/// Thousandths of a GPU that one step of a cost stands for.
pub const STEP: i64 = 50;
/// Fixed orders in which a machine is filled to see what is left over.
const ORDERS: usize = 32;
/// Tasks that come by in one order.
const LENGTH: usize = 160;
/// What a spoiled gap counts beside a GPU that nothing can use, in thousandths.
const SPOILED: i64 = 1500;
/// What a GPU that tasks of several GPUs can no longer use counts beside one that nothing can use, in thousandths.
const WIDE: i64 = 40;
/// Machines whose worth is remembered.
const REMEMBERED: usize = 1 << 16;
/// The mix of tasks must have changed by this many thousandths to be learned again.
const NEWS: u64 = 50;
/// At the latest after so many tasks it is looked at whether the mix has changed.
const LOOK_AFTER: u64 = 2048;

/// What it costs to put a task on a machine; the least is the best. To be compared with prices of the same task from the
/// same [`Packer::version`]. Of machines with equal prices take the first in an order that never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price {
    /// In steps of [`STEP`].
    pub cost: i64,
    /// What tasks of several GPUs can take no more, by their part of the work, in thousandths of a GPU: what is too
    /// little for a step still decides between machines that are equal otherwise.
    pub broken: i64,
    /// Thousandths of GPUs that are free on the machine before: what is in use already is filled up first.
    pub free: i64,
}

/// Where a task would go on a machine, and what that costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// What it costs.
    pub price: Price,
    /// The machine afterwards.
    pub after: Machine,
}

/// Learns what comes and prices placements by it.
#[derive(Clone, Debug, Default)]
pub struct Packer {
    workload: Workload,
    /// What `learned` was learned from.
    base: Workload,
    learned: Learned,
    version: u64,
    /// Tasks since the mix was last looked at.
    unseen: u64,
    worth: HashMap<Machine, Worth, BuildHasherDefault<Mixer>>,
}

impl Packer {
    /// Nothing came yet: of all placements the one with the fewest free GPUs is the best.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that some of a task came, placed or not; may change [`Packer::version`].
    pub fn observe(&mut self, task: &Task, count: u32) {
        if task.gpus.milli() == 0 {
            return;
        }
        self.workload.observe(task, count);
        self.unseen += u64::from(count);
        // Often at first, when each task is news.
        if self.unseen >= (self.workload.tasks() / 3).clamp(1, LOOK_AFTER) {
            self.unseen = 0;
            if self.workload.differs(&self.base) > NEWS {
                self.base = self.workload.clone();
                self.learned = Learned::new(&self.base);
                self.worth.clear();
                self.version += 1;
            }
        }
    }

    /// Changes when what was learned changes: costs of another version are void.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The best placement of the task on this machine, `None` when it does not fit.
    pub fn place(&mut self, machine: &Machine, task: &Task) -> Option<Placement> {
        let found = self.place_known(machine, task);
        if found.is_some() || !machine.fits(task) {
            return found;
        }
        self.forget();
        self.look_at(machine);
        for &gap in choices(machine, task) {
            self.look_at(&machine.without(task, gap));
        }
        self.place_known(machine, task)
    }

    /// [`Packer::place`] where that takes no time, because everything that it looks at is remembered.
    #[must_use]
    pub fn place_known(&self, machine: &Machine, task: &Task) -> Option<Placement> {
        if !machine.fits(task) {
            return None;
        }
        let before = self.known(machine)?;
        let mut best: Option<Placement> = None;
        let mut last = 0;
        for &gap in choices(machine, task) {
            if gap == last {
                continue;
            }
            last = gap;
            let after = machine.without(task, gap);
            let now = self.known(&after)?;
            let spoiled = match task.gpus {
                Gpus::Share(size) => i64::from(self.learned.prices.spoils(gap, size)),
                _ => 0,
            };
            let broken = before.wide - now.wide;
            let mut milli = now.left_over - before.left_over + (spoiled * SPOILED + broken * WIDE) / 1000;
            if task.gpus == Gpus::None {
                // It takes cores only and never makes GPUs useful; a filling may come out better by chance.
                milli = milli.max(0);
            }
            let price = Price { cost: milli.div_euclid(STEP), broken, free: machine.free_milli() };
            // Of equal ones the smallest gap, which comes first.
            if best.is_none_or(|best| price < best.price) {
                best = Some(Placement { price, after });
            }
        }
        best
    }

    fn known(&self, machine: &Machine) -> Option<Worth> {
        if self.learned.kinds.is_empty() {
            return Some(Worth { left_over: machine.free_milli(), wide: 0 });
        }
        self.worth.get(&self.learned.seen(machine)).copied()
    }

    fn look_at(&mut self, machine: &Machine) {
        let machine = self.learned.seen(machine);
        if !self.worth.contains_key(&machine) {
            let worth = self.learned.worth(&machine);
            self.worth.insert(machine, worth);
        }
    }

    /// Forgets what machines are worth when that is too much to remember.
    fn forget(&mut self) {
        if self.worth.len() >= REMEMBERED {
            self.worth.clear();
        }
    }
}

/// The GPUs of the machine that the task can be put on: what is free of each.
fn choices<'a>(machine: &'a Machine, task: &Task) -> &'a [u16] {
    match task.gpus {
        Gpus::Share(size) => {
            let gpus = machine.gpus();
            gpus.get(gpus.partition_point(|free| *free < size)..).unwrap_or_default()
        }
        // Whole GPUs are alike.
        Gpus::None | Gpus::Whole(_) => &[WHOLE],
    }
}

/// What a machine is good for, in thousandths of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Worth {
    /// Of its GPUs, what nothing that comes can use.
    left_over: i64,
    /// What tasks of several GPUs could take, by their part of the work.
    wide: i64,
}

/// What was learned from a workload.
#[derive(Clone, Debug, Default)]
struct Learned {
    kinds: Vec<Task>,
    /// The orders of filling, one after the other: indices of kinds.
    orders: Vec<u8>,
    prices: SharePrices,
    wide: Wide<Task>,
    /// Most thousandths of a core, and MiB, that a kind takes for each thousandth of a GPU, rounded up.
    most: (i64, i64),
}

impl Learned {
    fn new(workload: &Workload) -> Self {
        let kinds: Vec<Task> = workload.kinds().iter().map(|kind| kind.task).collect();
        let weights: Vec<u64> = workload.kinds().iter().map(|kind| kind.weight).collect();
        let all = || workload.kinds().iter();
        let wide = Wide::new(all().map(|kind| (kind.task, kind.task.gpus.milli(), kind.weight)));
        let most = |of: fn(&Task) -> i64| all().map(|kind| per_milli(of(&kind.task), &kind.task)).max().unwrap_or(0);
        Self {
            orders: orders(&weights),
            prices: SharePrices::new(&workload.shares()),
            kinds,
            wide,
            most: (most(|task| task.cpu), most(|task| task.memory)),
        }
    }

    /// The machine as far as it matters: with more cores or memory than its GPUs could ever need it is worth the same,
    /// so that machines are equal that differ in those.
    fn seen(&self, machine: &Machine) -> Machine {
        let gpus = machine.free_milli();
        machine.with_at_most(gpus.saturating_mul(self.most.0), gpus.saturating_mul(self.most.1))
    }

    fn worth(&self, machine: &Machine) -> Worth {
        let mut fitting = Fitting::default();
        for (kind, task) in self.kinds.iter().enumerate() {
            if machine.fits(task) {
                fitting.add(kind);
            }
        }
        let filling = Filling::of(machine);
        let total: i64 = if fitting.is_empty() {
            machine.free_milli() * i64::try_from(ORDERS).unwrap_or(1)
        } else {
            self.orders.chunks(LENGTH).map(|order| self.left_over(filling, fitting, order)).sum()
        };
        let wide = self.wide.worth(|task| machine.copies(task));
        Worth { left_over: total / i64::try_from(ORDERS).unwrap_or(1), wide }
    }

    /// What is left over of the GPUs when the tasks of this order come by one after the other and take what they can.
    fn left_over(&self, mut filling: Filling, mut fitting: Fitting, order: &[u8]) -> i64 {
        for &kind in order {
            if filling.whole == 0 && filling.used == 0 {
                return 0;
            }
            let kind = usize::from(kind);
            if fitting.has(kind)
                && let Some(task) = self.kinds.get(kind)
                && !filling.take(task, &self.prices)
            {
                // What does not fit once never fits again.
                fitting.remove(kind);
                if fitting.is_empty() {
                    break;
                }
            }
        }
        filling.left()
    }
}

fn per_milli(amount: i64, task: &Task) -> i64 {
    let milli = task.gpus.milli().max(1);
    amount.max(0) / milli + i64::from(amount.max(0) % milli > 0)
}

/// Kinds drawn by weight, as evenly as can be over all orders together, and shuffled. The shuffle is always the same, so
/// that a slightly other workload gives slightly other orders.
fn orders(weights: &[u64]) -> Vec<u8> {
    let draws = ORDERS * LENGTH;
    let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if total == 0 {
        return Vec::new();
    }
    let mut order = Vec::with_capacity(draws);
    let (mut kind, mut reached) = (0, weights.first().copied().map_or(0, u128::from));
    for draw in 0..draws {
        // The middle of the draw's part of the whole.
        let at = (2 * u128::try_from(draw).unwrap_or(0) + 1) * total;
        while at >= reached * 2 * u128::try_from(draws).unwrap_or(1) && kind + 1 < weights.len() {
            kind += 1;
            reached += weights.get(kind).copied().map_or(0, u128::from);
        }
        order.push(u8::try_from(kind).unwrap_or(u8::MAX));
    }
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    for end in (1..order.len()).rev() {
        // Xorshift: any fixed mixing will do.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (u64::try_from(end).unwrap_or(0) + 1)).unwrap_or(0);
        order.swap(end, other);
    }
    order
}

/// A set of kinds.
#[derive(Clone, Copy, Default)]
struct Fitting([u64; MAX_KINDS / 64]);

impl Fitting {
    fn add(&mut self, kind: usize) {
        if let Some(word) = self.0.get_mut(kind / 64) {
            *word |= 1 << (kind % 64);
        }
    }

    fn remove(&mut self, kind: usize) {
        if let Some(word) = self.0.get_mut(kind / 64) {
            *word &= !(1 << (kind % 64));
        }
    }

    fn has(&self, kind: usize) -> bool {
        self.0.get(kind / 64).is_some_and(|word| word & (1 << (kind % 64)) != 0)
    }

    fn is_empty(&self) -> bool {
        self.0 == [0; MAX_KINDS / 64]
    }
}

/// A machine while it is being filled. Models were looked at before.
#[derive(Clone, Copy)]
struct Filling {
    cpu: i64,
    memory: i64,
    whole: u8,
    /// Free thousandths of GPUs in use, in no order; 0: none.
    gaps: [u16; super::MAX_GPUS],
    used: usize,
}

impl Filling {
    fn of(machine: &Machine) -> Self {
        let whole = machine.whole();
        let mut filling = Self {
            cpu: machine.cpu(),
            memory: machine.memory(),
            whole: u8::try_from(whole).unwrap_or(0),
            gaps: [0; super::MAX_GPUS],
            used: machine.gpus().len() - whole,
        };
        for (gap, free) in filling.gaps.iter_mut().zip(machine.gpus().iter().take_while(|free| **free < WHOLE)) {
            *gap = *free;
        }
        filling
    }

    /// Takes what the task asks for; false, and nothing is taken, when it does not fit.
    fn take(&mut self, task: &Task, prices: &SharePrices) -> bool {
        if task.cpu > self.cpu || task.memory > self.memory {
            return false;
        }
        match task.gpus {
            Gpus::None => {}
            Gpus::Whole(count) => {
                let Some(left) = self.whole.checked_sub(count) else { return false };
                self.whole = left;
            }
            Gpus::Share(size) => {
                // The gap that it spoils least; of equal ones the smallest.
                let mut best: Option<(u16, u16, usize)> = None;
                for (at, gap) in self.gaps.iter().take(self.used).enumerate() {
                    if *gap >= size {
                        let this = (prices.spoils(*gap, size), *gap, at);
                        if best.is_none_or(|best| this < best) {
                            best = Some(this);
                        }
                    }
                }
                let opened = prices.spoils(WHOLE, size);
                if let Some((_, gap, at)) = best.filter(|(spoiled, ..)| self.whole == 0 || *spoiled <= opened) {
                    if let Some(slot) = self.gaps.get_mut(at) {
                        *slot = gap - size;
                    }
                } else if self.whole > 0 {
                    self.whole -= 1;
                    if let Some(slot) = self.gaps.get_mut(self.used) {
                        *slot = WHOLE - size;
                        self.used += 1;
                    }
                } else {
                    return false;
                }
            }
        }
        self.cpu -= task.cpu;
        self.memory -= task.memory;
        true
    }

    fn left(&self) -> i64 {
        i64::from(self.whole) * i64::from(WHOLE) + self.gaps.iter().map(|gap| i64::from(*gap)).sum::<i64>()
    }
}
