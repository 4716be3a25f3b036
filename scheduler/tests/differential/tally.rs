//! What was judged, and how.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// Filters that no pod can fail that has no node yet.
const NEVER: &[&str] = &["NodeName"];

/// A pair about which the two do not agree.
pub struct Disagreement {
    pub world: u64,
    pub pod: String,
    pub node: String,
    /// The plugins that say no.
    pub theirs: Vec<String>,
    /// What we say.
    pub ours: String,
}

/// Counts of verdicts.
#[derive(Default)]
pub struct Tally {
    pub plugins: Vec<String>,
    fit: u64,
    refused_pairs: u64,
    /// By plugin: how often it says no, and how often nobody else does.
    no: [u64; 32],
    alone: [u64; 32],
    /// By what we do not support: pairs that were refused for it.
    pub refused: BTreeMap<String, u64>,
    total: u64,
    pub disagreements: Vec<Disagreement>,
}

impl Tally {
    /// How many pairs were judged.
    pub fn pairs(&self) -> u64 {
        self.total
    }

    /// How many of them alike.
    pub fn agreed(&self) -> u64 {
        self.total - self.disagreements.len() as u64
    }

    pub fn judged(&mut self, theirs: u32, supported: bool) {
        self.total += 1;
        if !supported {
            self.refused_pairs += 1;
        }
        if theirs == 0 {
            self.fit += 1;
        }
        for (bit, (no, alone)) in self.no.iter_mut().zip(&mut self.alone).enumerate() {
            if theirs & (1 << bit) != 0 {
                *no += 1;
                *alone += u64::from(theirs.is_power_of_two());
            }
        }
    }

    /// The names of the plugins in a verdict.
    pub fn names(&self, verdict: u32) -> Vec<String> {
        let said = self.plugins.iter().enumerate().filter(|(bit, _)| verdict & (1 << bit) != 0);
        said.map(|(_, name)| name.clone()).collect()
    }

    pub fn plus(mut self, other: Self) -> Self {
        if self.plugins.is_empty() {
            self.plugins = other.plugins;
        }
        self.fit += other.fit;
        self.refused_pairs += other.refused_pairs;
        self.total += other.total;
        for bit in 0..32 {
            self.no[bit] += other.no[bit];
            self.alone[bit] += other.alone[bit];
        }
        for (what, count) in other.refused {
            *self.refused.entry(what).or_default() += count;
        }
        self.disagreements.extend(other.disagreements);
        self
    }

    pub fn first_disagreements(&self) -> String {
        let mut text = format!("{} disagreements, such as:\n", self.disagreements.len());
        for one in self.disagreements.iter().take(20) {
            let Disagreement { world, pod, node, theirs, ours } = one;
            let theirs =
                if theirs.is_empty() { "fits".to_owned() } else { format!("refused by {}", theirs.join(", ")) };
            writeln!(text, "world {world}, {pod} on {node}: kube-scheduler: {theirs}; we: {ours}").ok();
        }
        text
    }

    /// That nobody can make the test pass by asking too little.
    pub fn assert_everything_was_asked(&self) {
        assert!(self.fit * 4 > self.total, "too few pairs fit for a yes to mean much");
        for (name, alone) in self.plugins.iter().zip(self.alone) {
            let asked = alone * 1000 > self.total;
            assert!(asked || NEVER.contains(&name.as_str()), "too few pairs depend on {name} alone: {alone}");
        }
        for (what, _) in crate::REFUSED {
            assert!(self.refused.contains_key(*what), "no pod was refused for {what}");
        }
    }
}

/// A table for people.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, fit, refused_pairs, .. } = self;
        writeln!(f, "{total} pairs: {fit} fit, {} do not", total - fit)?;
        writeln!(f, "{:<22} {:>10} {:>10}", "filter", "says no", "alone")?;
        for ((name, no), alone) in self.plugins.iter().zip(self.no).zip(self.alone) {
            writeln!(f, "{name:<22} {no:>10} {alone:>10}")?;
        }
        writeln!(f, "{refused_pairs} of the pairs have pods that we refuse, or that wait for a claim:")?;
        for (what, count) in &self.refused {
            let why = crate::REFUSED.iter().find(|(known, _)| known == what).map_or("", |(_, why)| why);
            writeln!(f, "{what:<34} {count:>10}  {why}")?;
        }
        writeln!(f, "{} disagreements", self.disagreements.len())
    }
}
