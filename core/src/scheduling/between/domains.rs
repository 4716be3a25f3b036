//! Domains: the values of one node label, and counting in them.

use std::collections::{BTreeMap, HashMap};

use super::super::nodes::{NodeIx, Nodes};

/// A label whose domains a [`Map`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(usize);

#[derive(Clone, Debug)]
struct Label {
    name: String,
    /// Domain of each node that has the label, by the node's number.
    domain_of: Vec<Option<u32>>,
    domains: usize,
}

/// Which domain each node is in, by label. Numbers instead of values, so that a node is judged without looking
/// anything up; true as long as the nodes' labels stay as they were.
#[derive(Clone, Debug, Default)]
pub(super) struct Map {
    labels: Vec<Label>,
}

impl Map {
    /// Reads the domains of a label off the known nodes, once.
    pub(super) fn key(&mut self, nodes: &Nodes, name: &str) -> Key {
        if let Some(at) = self.labels.iter().position(|label| label.name == name) {
            return Key(at);
        }
        let mut numbers = HashMap::<&str, u32>::new();
        let mut domain_of = Vec::new();
        for (ix, node, _) in nodes.iter() {
            let Some(value) = node.labels.get(name) else { continue };
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            let number = *numbers.entry(value).or_insert(next);
            if domain_of.len() <= ix.index() {
                domain_of.resize(ix.index() + 1, None);
            }
            domain_of[ix.index()] = Some(number);
        }
        self.labels.push(Label { name: name.to_owned(), domain_of, domains: numbers.len() });
        Key(self.labels.len() - 1)
    }

    /// The domain of a node; `None` when it lacks the label.
    pub(super) fn domain(&self, key: Key, ix: NodeIx) -> Option<usize> {
        self.labels.get(key.0)?.domain_of.get(ix.index())?.map(|number| number as usize)
    }
}

/// Counts per domain of one label.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    key: Key,
    /// `None`: the domain does not count.
    counts: Vec<Option<i64>>,
    /// How many domains have each count.
    levels: BTreeMap<i64, usize>,
}

impl Tally {
    /// Every domain of the label counts, with 0.
    pub(super) fn of_all(map: &Map, key: Key) -> Self {
        let mut tally = Self::of_none(map, key);
        for domain in 0..tally.counts.len() {
            tally.open(domain);
        }
        tally
    }

    /// No domain counts yet.
    pub(super) fn of_none(map: &Map, key: Key) -> Self {
        let domains = map.labels.get(key.0).map_or(0, |label| label.domains);
        Self { key, counts: vec![None; domains], levels: BTreeMap::new() }
    }

    /// Lets a domain count.
    pub(super) fn open(&mut self, domain: usize) {
        if let Some(count @ None) = self.counts.get_mut(domain) {
            *count = Some(0);
            *self.levels.entry(0).or_default() += 1;
        }
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    /// Changes the count of a domain that counts.
    pub(super) fn change(&mut self, domain: usize, by: i64) {
        let Some(Some(count)) = self.counts.get_mut(domain) else { return };
        if let Some(domains) = self.levels.get_mut(count) {
            *domains -= 1;
            if *domains == 0 {
                self.levels.remove(count);
            }
        }
        *count += by;
        *self.levels.entry(*count).or_default() += 1;
    }

    /// [`Tally::change`] in the domain of a node, if it has one.
    pub(super) fn change_at(&mut self, map: &Map, ix: NodeIx, by: i64) {
        if let Some(domain) = map.domain(self.key, ix) {
            self.change(domain, by);
        }
    }

    /// Count of a domain; 0 where it does not count.
    pub(super) fn count(&self, domain: usize) -> i64 {
        self.counts.get(domain).copied().flatten().unwrap_or(0)
    }

    /// Count in the domain of a node; 0 where it has none.
    pub(super) fn count_at(&self, map: &Map, ix: NodeIx) -> i64 {
        map.domain(self.key, ix).map_or(0, |domain| self.count(domain))
    }

    /// How many domains count.
    pub(super) fn domains(&self) -> usize {
        self.levels.values().sum()
    }

    /// The smallest count; 0 without domains.
    pub(super) fn least(&self) -> i64 {
        self.levels.first_key_value().map_or(0, |(count, _)| *count)
    }

    /// The largest count; 0 without domains.
    pub(super) fn most(&self) -> i64 {
        self.levels.last_key_value().map_or(0, |(count, _)| *count)
    }
}
