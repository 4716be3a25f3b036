//! Fences on Sites: asked for by decisions, written together for each Site, and taken away when they have done their work.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{FencedCluster, Site};
use atoll_convert::{ClusterTerms, cluster_state, orphan_state, slice_state};
use atoll_core::cluster::{Fencing, fence_is_over};
use kube::ResourceExt;

use super::sites::Evidence;
use super::state::{Now, State};

/// Between two looks for fences that are over.
const LOOK: Duration = Duration::from_secs(1);

/// A write of what is fenced at a Site, checked against every change of the Site since it was seen.
#[derive(Clone, Debug)]
pub struct FenceWrite {
    /// The Site as the decision saw it.
    pub site: Arc<Site>,
    /// All that is fenced there from then on.
    pub fenced: Vec<FencedCluster>,
    /// Something is fenced that was not; else entries are only taken away.
    pub adds: bool,
    /// What shows that the Site is lost, where its own object does not; to be read again.
    pub evidence: Option<Evidence>,
}

/// How such a write ended.
#[derive(Clone, Debug)]
pub struct FenceOutcome {
    /// Name of the Site.
    pub site: String,
    /// The Site as the API holds it by now, written or not; None: not known.
    pub present: Option<Site>,
    /// It was refused, or the Lease of its gateway has changed; to be tried again after a while.
    pub failed: bool,
}

/// What is wanted and under way.
#[derive(Debug, Default)]
pub(super) struct Fences {
    /// Epochs to fence, by Site and UID of the Cluster.
    wanted: BTreeMap<String, BTreeMap<String, u64>>,
    /// Sites of which a write is in flight, or was refused, and the Clusters that wait for it.
    waiting: HashMap<String, Vec<String>>,
    /// Until when nothing is tried again, by Site.
    paused: HashMap<String, Duration>,
    /// When to look for fences that are over; None: nothing changed.
    look: Option<Duration>,
}

impl Fences {
    /// Something changed that may leave a fence without work.
    pub(super) fn look_again(&mut self, boot: Duration) {
        self.look.get_or_insert(boot + LOOK);
    }

    /// When, by the boot-time clock, something is to be done although nothing changed.
    pub(super) fn next(&self) -> Option<Duration> {
        self.paused.values().copied().chain(self.look).min()
    }
}

impl State {
    /// Notes what a decision about `uid` wants fenced.
    pub(super) fn want_fences(&mut self, uid: &str, wanted: &[Fencing]) {
        for Fencing { site, epoch } in wanted {
            self.fences.wanted.entry(site.clone()).or_default().insert(uid.to_owned(), *epoch);
        }
    }

    /// Hands out the writes that decisions of this round asked for, one for each Site.
    pub(super) fn fence(&mut self, now: Now) {
        let look = self.fences.look.is_some_and(|at| at <= now.boot);
        if look {
            self.fences.look = None;
        }
        let over: Vec<(String, Vec<FencedCluster>)> = if look { self.fences_left(now) } else { Vec::new() };
        let wanted = std::mem::take(&mut self.fences.wanted);
        let mut writes: BTreeMap<String, (Vec<FencedCluster>, bool)> =
            over.into_iter().map(|(site, left)| (site, (left, false))).collect();
        for (name, clusters) in wanted {
            if self.fences.waiting.contains_key(&name) {
                let waiting = self.fences.waiting.entry(name).or_default();
                waiting.extend(clusters.into_keys());
                continue;
            }
            let Some(site) = self.sites.get(&name) else { continue };
            let present = || site.status.as_ref().map(|status| status.fenced.clone()).unwrap_or_default();
            let (fenced, adds) = writes.entry(name.clone()).or_insert_with(|| (present(), false));
            *adds = true;
            for (uid, epoch) in &clusters {
                let epoch = i64::try_from(*epoch).unwrap_or(i64::MAX);
                match fenced.iter_mut().find(|entry| entry.cluster_uid == *uid) {
                    Some(entry) => entry.epoch = entry.epoch.max(epoch),
                    None => fenced.push(FencedCluster { cluster_uid: uid.clone(), epoch }),
                }
            }
            self.fences.waiting.insert(name, clusters.into_keys().collect());
        }
        let Some(lead) = &self.lead else { return };
        for (name, (fenced, adds)) in writes {
            let Some(site) = self.sites.get(&name).cloned() else { continue };
            self.fences.waiting.entry(name.clone()).or_default();
            let write = FenceWrite { site, fenced, adds, evidence: self.sites.evidence(&name).filter(|_| adds) };
            let hand = lead.writer.clone();
            self.fence_jobs.spawn(async move { hand.fence(write).await });
        }
    }

    /// What stays fenced at each Site of which a fence is over.
    fn fences_left(&self, now: Now) -> Vec<(String, Vec<FencedCluster>)> {
        let mut changed = Vec::new();
        for (name, site) in self.sites.all() {
            let fenced = site.status.as_ref().map_or(&[][..], |status| &status.fenced);
            if fenced.is_empty() || self.fences.waiting.contains_key(name) {
                continue;
            }
            let left: Vec<_> = fenced.iter().filter(|entry| !self.is_over(name, entry, now)).cloned().collect();
            if left.len() < fenced.len() {
                changed.push((name.clone(), left));
            }
        }
        changed
    }

    /// Whether nothing is left at a Site that an entry would keep from starting.
    fn is_over(&self, site: &str, fenced: &FencedCluster, now: Now) -> bool {
        let Some(entry) = self.entries.get(&fenced.cluster_uid) else { return true };
        if entry.busy(now.boot) {
            return false;
        }
        let slices: Vec<_> = entry.slices.values().map(|slice| slice_state(slice)).collect();
        let cluster = match &entry.cluster {
            None => orphan_state(),
            Some(object) => match ClusterTerms::new(object) {
                Ok(terms) => cluster_state(object, &terms),
                Err(_) => return false,
            },
        };
        fence_is_over(site, u64::try_from(fenced.epoch).unwrap_or_default(), &cluster, &slices)
    }

    /// A write has ended: what is known by now is read back here, and the Clusters that waited are decided about again.
    pub(super) fn settle_fence(&mut self, outcome: FenceOutcome, now: Now) {
        let FenceOutcome { site, present, failed } = outcome;
        if let Some(present) = present {
            self.see_site(present, false, now);
        }
        if failed {
            let pause = self.lead.as_ref().map_or(LOOK, |lead| lead.writer.pause(&site));
            self.fences.paused.insert(site, now.boot + pause);
        } else {
            self.resume(&site);
        }
        self.fences.look_again(now.boot);
    }

    /// Pauses that are over.
    pub(super) fn resume_fences(&mut self, now: Now) {
        let over = self.fences.paused.iter().filter(|(_, until)| **until <= now.boot);
        for site in over.map(|(site, _)| site.clone()).collect::<Vec<_>>() {
            self.resume(&site);
        }
    }

    fn resume(&mut self, site: &str) {
        self.fences.paused.remove(site);
        self.dirty.extend(self.fences.waiting.remove(site).into_iter().flatten());
    }
}

impl FenceWrite {
    /// The patch: it is refused if the Site has changed in any way since it was seen.
    #[must_use]
    pub fn patch(&self) -> serde_json::Value {
        serde_json::json!({
            "metadata": {"uid": self.site.metadata.uid, "resourceVersion": self.site.metadata.resource_version},
            "status": {"fenced": self.fenced},
        })
    }

    /// Name of the Site.
    #[must_use]
    pub fn name(&self) -> String {
        self.site.name_any()
    }
}
