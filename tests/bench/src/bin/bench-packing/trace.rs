//! The openb trace, and what arrives in one run.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use atoll_core::packing::{Gpus, Machine, Models, Task, WHOLE};

/// Machines and the pods that arrived, in order of arrival.
pub struct Trace {
    pub machines: Vec<Machine>,
    pub pods: Vec<Task>,
}

impl Trace {
    /// Reads the node list and one of the pod lists.
    pub fn read(folder: &Path, name: &str) -> Result<Self> {
        let mut models = Numbers::default();
        let nodes = Table::read(&folder.join("openb_node_list_gpu_node.csv"))?;
        let machines = nodes
            .rows()
            .map(|row| {
                let gpus = vec![WHOLE; row.number("gpu")?];
                let model = models.of(row.text("model")?)?;
                Ok(Machine::new(model, row.number("cpu_milli")?, row.number("memory_mib")?, gpus))
            })
            .collect::<Result<_>>()?;
        let pods = Table::read(&folder.join(format!("openb_pod_list_{name}.csv")))?;
        let pods = pods
            .rows()
            .map(|row| {
                let gpus = match (row.number::<u8>("num_gpu")?, row.number::<u16>("gpu_milli")?) {
                    (0, _) => Gpus::None,
                    (1, share) if share < WHOLE => Gpus::Share(share),
                    (count, WHOLE) => Gpus::Whole(count),
                    (count, share) => bail!("{count} GPUs of {share} thousandths"),
                };
                // The multi-GPU lists have no such column.
                let allowed = row.find("gpu_spec").filter(|spec| !spec.is_empty());
                let models = match allowed {
                    None => Models::ANY,
                    Some(spec) => {
                        spec.split('|').try_fold(Models::NONE, |set, model| anyhow::Ok(set.with(models.of(model)?)))?
                    }
                };
                Ok(Task { gpus, cpu: row.number("cpu_milli")?, memory: row.number("memory_mib")?, models })
            })
            .collect::<Result<_>>()?;
        Ok(Self { machines, pods })
    }

    /// Thousandths of all GPUs.
    pub fn capacity(&self) -> i64 {
        self.machines.iter().map(Machine::free_milli).sum()
    }

    /// What arrives in a run, as the simulator of the paper does it: the pods of the trace, shuffled unless their own
    /// order is asked for, then more drawn from them, until the next would ask for more than `percent` of the GPUs; a
    /// trace that asks for more loses some at random.
    pub fn arrivals(&self, order: Order, percent: i64, random: &mut Random) -> Vec<Task> {
        let most = self.capacity() * percent / 100;
        let mut pods = self.pods.clone();
        if order == Order::Shuffled {
            random.shuffle(&mut pods);
        }
        let mut asked: i64 = pods.iter().map(|pod| pod.gpus.milli()).sum();
        while asked > most {
            asked -= pods.remove(random.below(pods.len())).gpus.milli();
        }
        loop {
            let next = self.pods[random.below(self.pods.len())];
            asked += next.gpus.milli();
            if asked > most {
                return pods;
            }
            pods.push(next);
        }
    }
}

/// In which order the pods of the trace arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Shuffled, as in the paper's experiments.
    Shuffled,
    /// As they did.
    Trace,
}

/// Numbers for GPU models.
#[derive(Default)]
struct Numbers(HashMap<String, u8>);

impl Numbers {
    fn of(&mut self, model: &str) -> Result<u8> {
        let next = u8::try_from(self.0.len())?;
        let number = *self.0.entry(model.to_owned()).or_insert(next);
        ensure!(number < 64, "more than 64 GPU models");
        Ok(number)
    }
}

/// A table with a line of column names; no value has a comma in it.
struct Table {
    columns: HashMap<String, usize>,
    lines: Vec<Vec<String>>,
}

impl Table {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let mut lines = text.lines().map(|line| line.trim_end().split(',').map(str::to_owned).collect::<Vec<_>>());
        let names = lines.next().with_context(|| format!("{} is empty", path.display()))?;
        Ok(Self { columns: names.into_iter().zip(0..).collect(), lines: lines.collect() })
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.lines.iter().map(|values| Row { table: self, values })
    }
}

struct Row<'a> {
    table: &'a Table,
    values: &'a [String],
}

impl<'a> Row<'a> {
    fn find(&self, column: &str) -> Option<&'a str> {
        self.values.get(*self.table.columns.get(column)?).map(String::as_str)
    }

    fn text(&self, column: &str) -> Result<&'a str> {
        self.find(column).with_context(|| format!("no {column} in {:?}", self.values))
    }

    fn number<N>(&self, column: &str) -> Result<N>
    where
        N: std::str::FromStr<Err = std::num::ParseIntError>,
    {
        let text = self.text(column)?;
        text.parse().with_context(|| format!("{column} {text:?} is no number"))
    }
}

/// Random numbers that are the same everywhere (`SplitMix64`).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Mixed once: the states of one sequence are equally spaced, and those of two seeds must not meet.
        Self(Self(seed).next())
    }

    /// One below `count`.
    pub fn below(&mut self, count: usize) -> usize {
        let wide = u128::from(self.next()) * count as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for end in (1..all.len()).rev() {
            all.swap(end, self.below(end + 1));
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_ask_for_as_much_as_they_should() {
        let one = |gpus| Task { gpus, cpu: 1, memory: 1, models: Models::ANY };
        let machines = vec![Machine::new(0, 1, 1, [WHOLE; 8]); 10];
        for pods in [vec![one(Gpus::Whole(1)); 200], vec![one(Gpus::Share(500)), one(Gpus::None), one(Gpus::Whole(2))]]
        {
            let trace = Trace { machines: machines.clone(), pods };
            for order in [Order::Shuffled, Order::Trace] {
                let arrivals = trace.arrivals(order, 130, &mut Random::new(1));
                let asked: i64 = arrivals.iter().map(|pod| pod.gpus.milli()).sum();
                assert!((102_000..=104_000).contains(&asked), "{asked}");
                assert_eq!(arrivals, trace.arrivals(order, 130, &mut Random::new(1)));
            }
        }
    }
}
