//! Tasks that take several GPUs of one machine at once, and what a machine that could take them is worth.

/// Who needs several GPUs at once, and what part of the work that is. Both the scheduler of a Site, which knows the cores
/// that such a task takes too, and the hub, which knows GPUs only, keep machines whole by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wide<T> {
    /// Task, GPUs that it takes, and its part of all GPUs that are asked for, in millionths.
    tasks: Vec<(T, i64, i64)>,
}

impl<T> Default for Wide<T> {
    fn default() -> Self {
        Self { tasks: Vec::new() }
    }
}

impl<T> Wide<T> {
    /// Of tasks with the thousandths of a GPU that each takes and how often it comes, those that take more than one.
    pub fn new(work: impl Iterator<Item = (T, i64, u64)> + Clone) -> Self {
        let mass = |milli: i64, often: u64| i128::from(milli) * i128::from(often);
        let all: i128 = work.clone().map(|(_, milli, often)| mass(milli, often)).sum();
        let part = |milli, often| i64::try_from(mass(milli, often) * 1_000_000 / all.max(1)).unwrap_or(0);
        let wide = work.filter(|(_, milli, _)| *milli > 1000);
        Self { tasks: wide.map(|(task, milli, often)| (task, milli / 1000, part(milli, often))).collect() }
    }

    /// GPUs that such tasks could take of a machine, each counted for its part of the work, in thousandths of a GPU.
    /// `copies` says how many of a task the machine could take if it were alone.
    pub fn worth(&self, copies: impl Fn(&T) -> i64) -> i64 {
        let worth = |(task, gpus, part): &(T, i64, i64)| copies(task).saturating_mul(*gpus).saturating_mul(*part);
        self.tasks.iter().map(worth).fold(0, i64::saturating_add) / 1000
    }
}
