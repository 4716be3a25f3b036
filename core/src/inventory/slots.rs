//! Named things with small ids, so that indexes hold ids and not names.

use std::collections::HashMap;

/// Things by name. An id stays a thing's own until it is removed, and is then given again.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    ids: HashMap<String, u32>,
    things: Vec<Option<T>>,
    vacant: Vec<u32>,
}

// Derived Default would ask for T: Default.
impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { ids: HashMap::new(), things: Vec::new(), vacant: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(crate) fn id(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.things.get(id as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.things.get_mut(id as usize)?.as_mut()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&T> {
        self.get(self.id(name)?)
    }

    /// The id of `name`, made where there is none.
    pub(crate) fn intern(&mut self, name: &str, make: impl FnOnce() -> T) -> u32 {
        if let Some(id) = self.id(name) {
            return id;
        }
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.things.push(None);
            u32::try_from(self.things.len() - 1).unwrap_or(u32::MAX)
        });
        self.things[id as usize] = Some(make());
        self.ids.insert(name.to_owned(), id);
        id
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(id) = self.ids.remove(name) {
            self.things[id as usize] = None;
            self.vacant.push(id);
        }
    }

    /// All, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.things).filter_map(|(id, thing)| Some((id, thing.as_ref()?)))
    }
}
