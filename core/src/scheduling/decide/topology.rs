//! Which domain each node is in.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::scheduling::node::NodeState;
use crate::scheduling::nodes::NodeIx;

/// How many lists of labels are remembered.
const MAX_KEYS: usize = 16;

/// Node labels whose values are domains: first the `required` ones, then the preferred ones, each coarse to fine.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Keys {
    pub(super) labels: Vec<String>,
    pub(super) required: usize,
}

impl Keys {
    /// The node's values.
    pub(super) fn value<'a>(&'a self, node: &'a NodeState) -> impl Iterator<Item = Option<&'a str>> {
        self.labels.iter().map(|label| node.labels.get(label).map(String::as_str))
    }

    /// The first required label that the node lacks: it is outside of every domain.
    pub(super) fn lacks(&self, node: &NodeState) -> Option<&str> {
        self.labels.iter().take(self.required).map(String::as_str).find(|label| !node.labels.contains_key(*label))
    }

    /// What the domains that are required are called: the last part of the finest label.
    pub(super) fn kind(&self) -> Option<&str> {
        let label = self.labels.get(self.required.checked_sub(1)?)?;
        Some(label.rsplit_once('/').map_or(label.as_str(), |(_, kind)| kind))
    }
}

/// Values of [`Keys`], which name a domain. Only a preferred one may be absent.
pub(super) type Values = Arc<[Option<Arc<str>>]>;

/// The domains of the nodes, read from their labels once.
#[derive(Clone, Debug, Default)]
pub(super) struct Topologies(BTreeMap<Keys, Topology>);

impl Topologies {
    /// The domains of these labels.
    pub(super) fn of(&mut self, keys: &Keys) -> &mut Topology {
        if self.0.len() >= MAX_KEYS && !self.0.contains_key(keys) {
            self.0.clear();
        }
        self.0.entry(keys.clone()).or_default()
    }
}

/// The domains of one list of labels.
#[derive(Clone, Debug, Default)]
pub(super) struct Topology {
    /// What was read, and from which state of the node.
    of_node: Vec<Option<(Arc<NodeState>, Option<Values>)>>,
    known: HashSet<Values>,
}

impl Topology {
    /// The values of a node; `None` when it is outside of every domain.
    pub(super) fn values(&mut self, keys: &Keys, ix: NodeIx, state: &Arc<NodeState>) -> Option<&Values> {
        if self.of_node.len() <= ix.index() {
            self.of_node.resize(ix.index() + 1, None);
        }
        let is_read =
            |slot: &Option<(Arc<NodeState>, _)>| slot.as_ref().is_some_and(|(read, _)| Arc::ptr_eq(read, state));
        if !is_read(&self.of_node[ix.index()]) {
            let values: Values = keys.value(state).map(|value| value.map(Arc::from)).collect();
            let is_inside = values.iter().take(keys.required).all(Option::is_some);
            let values = is_inside.then(|| shared(&mut self.known, values));
            // Values that no node has any more are not kept for ever.
            if self.known.len() > 2 * self.of_node.len() {
                self.known.retain(|values| Arc::strong_count(values) > 1);
            }
            self.of_node[ix.index()] = Some((Arc::clone(state), values));
        }
        self.of_node[ix.index()].as_ref()?.1.as_ref()
    }
}

fn shared(known: &mut HashSet<Values>, values: Values) -> Values {
    if let Some(known) = known.get(&values) {
        return Arc::clone(known);
    }
    known.insert(Arc::clone(&values));
    values
}
