//! Machines with GPUs, and tasks that want some.

/// A whole GPU, in thousandths.
pub const WHOLE: u16 = 1000;
/// Most GPUs that a machine may have.
pub const MAX_GPUS: usize = 16;

/// A set of GPU models, each a small number (below 64) that the caller gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Models(u64);

impl Models {
    /// Every model.
    pub const ANY: Self = Self(u64::MAX);
    /// No model.
    pub const NONE: Self = Self(0);

    /// This set and one model more; numbers from 64 on are not kept.
    #[must_use]
    pub fn with(self, model: u8) -> Self {
        Self(self.0 | Self::bit(model))
    }

    /// Whether the model is one of them.
    #[must_use]
    pub fn has(self, model: u8) -> bool {
        self.0 & Self::bit(model) != 0
    }

    fn bit(model: u8) -> u64 {
        1_u64.checked_shl(u32::from(model)).unwrap_or(0)
    }
}

/// What a task wants of GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gpus {
    /// None.
    None,
    /// A share of one, in thousandths, below [`WHOLE`].
    Share(u16),
    /// Whole ones.
    Whole(u8),
}

impl Gpus {
    /// All of it, in thousandths of a GPU.
    #[must_use]
    pub fn milli(self) -> i64 {
        match self {
            Self::None => 0,
            Self::Share(milli) => i64::from(milli),
            Self::Whole(count) => i64::from(count) * i64::from(WHOLE),
        }
    }
}

/// What one task asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    /// GPUs.
    pub gpus: Gpus,
    /// Thousandths of a core.
    pub cpu: i64,
    /// MiB of memory.
    pub memory: i64,
    /// GPU models that will do; of no matter without GPUs.
    pub models: Models,
}

/// What is free on one machine. GPUs are alike except for what is free of them, and those with nothing free are not
/// kept, so machines that are equal to a task are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Machine {
    /// Free thousandths of each GPU, ascending.
    free: [u16; MAX_GPUS],
    gpus: u8,
    cpu: i64,
    memory: i64,
    model: u8,
}

impl Machine {
    /// A machine with these free: thousandths of each GPU (at most [`MAX_GPUS`] of at most [`WHOLE`]; what is more is
    /// not kept), thousandths of a core, MiB of memory.
    #[must_use]
    pub fn new(model: u8, cpu: i64, memory: i64, gpus: impl IntoIterator<Item = u16>) -> Self {
        let mut free = [0; MAX_GPUS];
        let mut count = 0;
        for (slot, milli) in free.iter_mut().zip(gpus.into_iter().filter(|milli| *milli > 0)) {
            *slot = milli.min(WHOLE);
            count += 1;
        }
        let mut machine = Self { free, gpus: count, cpu, memory, model };
        machine.sort();
        machine
    }

    /// Free thousandths of the GPUs with anything free, ascending.
    #[must_use]
    pub fn gpus(&self) -> &[u16] {
        self.free.get(..usize::from(self.gpus)).unwrap_or_default()
    }

    /// Free thousandths of all its GPUs.
    #[must_use]
    pub fn free_milli(&self) -> i64 {
        self.gpus().iter().map(|milli| i64::from(*milli)).sum()
    }

    /// GPUs that are wholly free.
    #[must_use]
    pub fn whole(&self) -> usize {
        self.gpus().iter().filter(|milli| **milli == WHOLE).count()
    }

    /// Free thousandths of a core.
    #[must_use]
    pub fn cpu(&self) -> i64 {
        self.cpu
    }

    /// Free MiB of memory.
    #[must_use]
    pub fn memory(&self) -> i64 {
        self.memory
    }

    /// Model of its GPUs.
    #[must_use]
    pub fn model(&self) -> u8 {
        self.model
    }

    /// The machine with at most so much free of cores (thousandths) and memory (MiB).
    pub(super) fn with_at_most(&self, cpu: i64, memory: i64) -> Self {
        Self { cpu: self.cpu.min(cpu), memory: self.memory.min(memory), ..*self }
    }

    /// Whether the task fits.
    #[must_use]
    pub fn fits(&self, task: &Task) -> bool {
        let gpus = match task.gpus {
            Gpus::None => true,
            // The last is the freest.
            Gpus::Share(milli) => self.gpus().last().is_some_and(|free| *free >= milli),
            Gpus::Whole(count) => self.whole() >= usize::from(count),
        };
        gpus && task.cpu <= self.cpu
            && task.memory <= self.memory
            && (task.gpus == Gpus::None || task.models.has(self.model))
    }

    /// How many of the task fit, one beside the other, where they take whole GPUs.
    #[must_use]
    pub fn copies(&self, task: &Task) -> i64 {
        let Gpus::Whole(count @ 1..) = task.gpus else { return 0 };
        if !task.models.has(self.model) {
            return 0;
        }
        let times = |free: i64, asked: i64| if asked <= 0 { i64::MAX } else { free.max(0) / asked };
        let whole = i64::try_from(self.whole()).unwrap_or(i64::MAX);
        times(whole, i64::from(count)).min(times(self.cpu, task.cpu)).min(times(self.memory, task.memory))
    }

    /// The machine without what the task takes; a share comes off a GPU with `from` free. The task fits, and there is
    /// such a GPU: otherwise what is missing is not taken.
    #[must_use]
    pub fn without(&self, task: &Task, from: u16) -> Self {
        let mut after = *self;
        after.cpu -= task.cpu;
        after.memory -= task.memory;
        match task.gpus {
            Gpus::None => {}
            Gpus::Share(milli) => {
                if let Ok(at) = self.gpus().binary_search(&from)
                    && let Some(free) = after.free.get_mut(at)
                {
                    *free = free.saturating_sub(milli);
                }
                after.sort();
            }
            Gpus::Whole(count) => {
                // Whole ones are the last; cut them off.
                let kept = self.gpus.saturating_sub(count);
                for taken in after.free.iter_mut().skip(usize::from(kept)) {
                    *taken = 0;
                }
                after.gpus = kept;
            }
        }
        after
    }

    fn sort(&mut self) {
        let count = usize::from(self.gpus);
        if let Some(gpus) = self.free.get_mut(..count) {
            gpus.sort_unstable();
            // A GPU with nothing free sorts first; it goes behind the end.
            let empty = gpus.iter().take_while(|milli| **milli == 0).count();
            gpus.rotate_left(empty);
            self.gpus -= u8::try_from(empty).unwrap_or(0);
        }
    }
}
