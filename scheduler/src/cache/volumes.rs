//! What the claims of pods come to, and which pods a claim or a volume matters to.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use atoll_core::scheduling::Shape;

use crate::objects::{ClaimFacts, Interner, ObjectKey, PodFacts, VolumeCatalog, VolumeFacts};

/// The claims and volumes that there are, and who uses them.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    catalog: VolumeCatalog,
    /// Pods by the claims that they name, be they there or not.
    claimants: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// Claims by the volumes that they are bound to.
    bound: HashMap<String, BTreeSet<ObjectKey>>,
    /// The volume of each claim.
    volume_of: HashMap<ObjectKey, String>,
}

impl Volumes {
    /// What a pod asks together with its claims, or what it waits for; it is remembered who uses them.
    pub(super) fn shape_of(&mut self, pod: &PodFacts, interner: &Interner) -> Result<Arc<Shape>, Arc<str>> {
        if pod.claims.is_empty() || pod.finished {
            return Ok(Arc::clone(&pod.shape));
        }
        for claim in &pod.claims {
            let claim = ObjectKey::new(&pod.key.namespace, &claim.name);
            self.claimants.entry(claim).or_default().insert(pod.key.clone());
        }
        if pod.node.is_some() {
            return Ok(pod.shape_with(self.catalog.taken(&pod.key.namespace, &pod.claims), interner));
        }
        let needs = self.catalog.resolve(&pod.key.namespace, &pod.claims).map_err(|why| Arc::from(why.to_string()))?;
        Ok(pod.shape_with(needs, interner))
    }

    /// A pod uses its claims no more.
    pub(super) fn forget(&mut self, pod: &PodFacts) {
        for claim in &pod.claims {
            let claim = ObjectKey::new(&pod.key.namespace, &claim.name);
            if let Some(pods) = self.claimants.get_mut(&claim) {
                pods.remove(&pod.key);
                if pods.is_empty() {
                    self.claimants.remove(&claim);
                }
            }
        }
    }

    /// A claim, `None` when it is gone; who uses it, if that is news.
    pub(super) fn set_claim(&mut self, key: &ObjectKey, claim: Option<ClaimFacts>) -> Vec<ObjectKey> {
        if let Some(volume) = self.volume_of.remove(key)
            && let Some(claims) = self.bound.get_mut(&volume)
        {
            claims.remove(key);
            if claims.is_empty() {
                self.bound.remove(&volume);
            }
        }
        let changed = match claim {
            Some(claim) => {
                if let Some(volume) = &claim.volume {
                    self.bound.entry(volume.clone()).or_default().insert(key.clone());
                    self.volume_of.insert(key.clone(), volume.clone());
                }
                self.catalog.set_claim(claim)
            }
            None => self.catalog.remove_claim(key),
        };
        if changed { self.users(key).cloned().collect() } else { Vec::new() }
    }

    /// A volume, `None` when it is gone; who uses it by a claim, if that is news.
    pub(super) fn set_volume(&mut self, name: &str, volume: Option<VolumeFacts>) -> Vec<ObjectKey> {
        let changed = match volume {
            Some(volume) => self.catalog.set_volume(volume),
            None => self.catalog.remove_volume(name),
        };
        if !changed {
            return Vec::new();
        }
        let claims = self.bound.get(name).into_iter().flatten();
        claims.flat_map(|claim| self.users(claim)).cloned().collect()
    }

    fn users(&self, claim: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.claimants.get(claim).into_iter().flatten()
    }
}
