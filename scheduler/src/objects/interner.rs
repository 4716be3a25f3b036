//! Equal things are kept once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_core::scheduling::{Identity, Shape};

/// Below so many entries a table is not looked through for those that nobody uses any more.
const FEW: usize = 1024;

/// Keeps shapes, identities and names once for all that are equal: pods of one shape compare as pointers, and ten
/// thousand pods do not hold ten thousand copies. What nobody uses any more is let go as the tables grow.
///
/// Shared by all who read objects; each call holds a lock for one look-up.
#[derive(Debug, Default)]
pub struct Interner(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    shapes: Table<Shape>,
    identities: Table<Identity>,
    names: Table<str>,
    namespaces: HashMap<Box<str>, Arc<BTreeMap<String, String>>>,
    no_labels: Arc<BTreeMap<String, String>>,
}

impl Interner {
    /// The one shape that equals this one.
    #[must_use]
    pub fn shape(&self, shape: Shape) -> Arc<Shape> {
        self.tables().shapes.one(shape)
    }

    /// The one string that equals this one.
    #[must_use]
    pub fn name(&self, name: &str) -> Arc<str> {
        self.tables().names.of(name)
    }

    /// Who a pod with these labels is, with the labels that its namespace has now.
    #[must_use]
    pub fn identity(&self, namespace: &str, labels: BTreeMap<String, String>) -> Arc<Identity> {
        let mut tables = self.tables();
        let namespace_labels = tables.labels_of(namespace);
        tables.identities.one(Identity { namespace: namespace.to_owned(), namespace_labels, labels })
    }

    /// The same pod with the labels that its namespace has now; `identity` itself when they are the same.
    #[must_use]
    pub fn renewed(&self, identity: &Arc<Identity>) -> Arc<Identity> {
        let mut tables = self.tables();
        let namespace_labels = tables.labels_of(&identity.namespace);
        if namespace_labels == identity.namespace_labels {
            return Arc::clone(identity);
        }
        tables.identities.one(Identity { namespace_labels, ..Identity::clone(identity) })
    }

    /// Sets the labels of a namespace; false when it had them. Identities that were given out keep the old ones until
    /// they are [`Interner::renewed`].
    pub fn namespace(&self, name: &str, labels: BTreeMap<String, String>) -> bool {
        let mut tables = self.tables();
        if *tables.labels_of(name) == labels {
            return false;
        }
        tables.namespaces.insert(Box::from(name), Arc::new(labels));
        true
    }

    /// Forgets the labels of a namespace; false when it had none.
    pub fn namespace_gone(&self, name: &str) -> bool {
        self.tables().namespaces.remove(name).is_some()
    }

    /// How many different shapes there are.
    #[must_use]
    pub fn shapes(&self) -> usize {
        self.tables().shapes.all.len()
    }

    /// A table is whole between any two of its operations, so one that somebody left by a panic can be used.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn labels_of(&self, namespace: &str) -> Arc<BTreeMap<String, String>> {
        Arc::clone(self.namespaces.get(namespace).unwrap_or(&self.no_labels))
    }
}

#[derive(Debug)]
struct Table<T: ?Sized> {
    all: HashSet<Arc<T>>,
    /// With more entries than this, those that nobody uses are let go.
    full: usize,
}

impl<T: ?Sized> Default for Table<T> {
    fn default() -> Self {
        Self { all: HashSet::new(), full: FEW }
    }
}

impl<T: Eq + Hash> Table<T> {
    fn one(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.all.get(&value) {
            return Arc::clone(known);
        }
        self.keep(Arc::new(value))
    }
}

impl Table<str> {
    fn of(&mut self, value: &str) -> Arc<str> {
        if let Some(known) = self.all.get(value) {
            return Arc::clone(known);
        }
        self.keep(Arc::from(value))
    }
}

impl<T: Eq + Hash + ?Sized> Table<T> {
    fn keep(&mut self, value: Arc<T>) -> Arc<T> {
        if self.all.len() >= self.full {
            self.all.retain(|one| Arc::strong_count(one) > 1);
            self.full = (self.all.len() * 2).max(FEW);
        }
        self.all.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(n: i128) -> Shape {
        let mut shape = Shape::default();
        shape.requests.set("cpu", n);
        shape
    }

    #[test]
    fn equal_things_are_one() {
        let interner = Interner::default();
        assert!(Arc::ptr_eq(&interner.shape(shape(1)), &interner.shape(shape(1))));
        assert!(!Arc::ptr_eq(&interner.shape(shape(1)), &interner.shape(shape(2))));
        assert!(Arc::ptr_eq(&interner.name("a"), &interner.name("a")));
    }

    #[test]
    fn what_nobody_uses_is_let_go() {
        let interner = Interner::default();
        let kept = interner.shape(shape(-1));
        for n in 0..10 * FEW {
            drop(interner.shape(shape(n as i128)));
        }
        assert!(interner.shapes() <= FEW);
        assert!(Arc::ptr_eq(&kept, &interner.shape(shape(-1))));
    }

    #[test]
    fn identities_carry_the_labels_that_their_namespace_has_now() {
        let interner = Interner::default();
        let labels = |value: &str| BTreeMap::from([("team".to_owned(), value.to_owned())]);
        let before = interner.identity("ns", labels("pod"));
        assert!(before.namespace_labels.is_empty());
        assert!(interner.namespace("ns", labels("a")));
        assert!(!interner.namespace("ns", labels("a")));
        let after = interner.renewed(&before);
        assert_eq!((&*after.namespace_labels, &after.labels), (&labels("a"), &labels("pod")));
        assert!(Arc::ptr_eq(&after, &interner.identity("ns", labels("pod"))));
        assert!(Arc::ptr_eq(&after, &interner.renewed(&after)));
        assert!(interner.namespace_gone("ns") && !interner.namespace_gone("ns"));
        assert_eq!(interner.renewed(&after), before);
    }
}
