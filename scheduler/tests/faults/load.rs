//! Gangs and single pods that come and go; the test plays those who own them.

use std::collections::{BTreeMap, BTreeSet};

use atoll_api::names::{
    ANNOTATION_REQUIRED_TOPOLOGY, LABEL_GANG, LABEL_GANG_MIN, LABEL_GANG_SIZE, RESOURCE_NVIDIA_GPU, SCHEDULER_NAME,
};
use atoll_api::{Gang, GangMember, GangMode, GangPhase, GangShape, GangSpec};
use atoll_testkit::nodes::RACK;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;

use crate::ledger::Ledger;

pub const NS: &str = "default";
/// What a pod belongs to, whichever way its scheduler is told.
pub const LABEL_WORK: &str = "test/work";
pub const LABEL_RANK_IN_WORK: &str = "test/rank";
pub const LABEL_GPUS: &str = "test/gpus";
/// GPUs that are asked for at once: half as much again as there are.
const DEMAND: u32 = crate::NODES * 8 * 3 / 2;

/// How a scheduler learns what belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Single,
    /// A Gang object.
    Object,
    /// Labels of the pods.
    Labels,
    /// The same, and all members in one rack.
    LabelsInRack,
}

/// A gang or a single pod.
#[derive(Clone, Debug)]
pub struct Work {
    pub name: String,
    pub kind: Kind,
    pub size: u32,
    /// Fewer are not enough.
    pub min: u32,
    pub gpus: u32,
}

impl Work {
    fn any(random: &mut StdRng, name: String) -> Self {
        let kinds = [Kind::Single, Kind::Object, Kind::Labels, Kind::Labels, Kind::LabelsInRack];
        let kind = kinds[random.random_range(0..kinds.len())];
        let gpus = 1 << random.random_range(0..4);
        // At most half of all GPUs, or of a rack: it fits if it is alone.
        let nodes = if kind == Kind::LabelsInRack { crate::RACK_NODES } else { crate::NODES };
        let most = (nodes * 8 / 2 / gpus).clamp(2, 32);
        let size = if kind == Kind::Single { 1 } else { random.random_range(2..=most) };
        let elastic = matches!(kind, Kind::Labels | Kind::LabelsInRack) && random.random_range(0..3) == 0;
        let min = if elastic { size.div_ceil(2) } else { size };
        Self { name, kind, size, min, gpus }
    }

    fn pod_name(&self, rank: u32) -> String {
        format!("{}-{rank}", self.name)
    }

    fn pod(&self, rank: u32) -> Pod {
        let mut labels: BTreeMap<&str, String> = [
            (LABEL_WORK, self.name.clone()),
            (LABEL_RANK_IN_WORK, rank.to_string()),
            (LABEL_GPUS, self.gpus.to_string()),
        ]
        .into();
        let mut annotations: BTreeMap<&str, &str> = BTreeMap::new();
        if self.kind != Kind::Single {
            labels.insert(LABEL_GANG, self.name.clone());
        }
        if matches!(self.kind, Kind::Labels | Kind::LabelsInRack) {
            labels.insert(LABEL_GANG_SIZE, self.size.to_string());
            if self.min < self.size {
                labels.insert(LABEL_GANG_MIN, self.min.to_string());
            }
        }
        if self.kind == Kind::LabelsInRack {
            annotations.insert(ANNOTATION_REQUIRED_TOPOLOGY, RACK);
        }
        serde_json::from_value(json!({
            "metadata": { "name": self.pod_name(rank), "labels": labels, "annotations": annotations },
            "spec": {
                "schedulerName": SCHEDULER_NAME,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "main",
                    "image": "none",
                    "resources": { "limits": { RESOURCE_NVIDIA_GPU: self.gpus.to_string() } },
                }],
            },
        }))
        .unwrap()
    }

    fn object(&self) -> Gang {
        let requests: BTreeMap<String, Quantity> =
            [(RESOURCE_NVIDIA_GPU.to_owned(), Quantity(self.gpus.to_string()))].into();
        let members = (0..self.size).map(|rank| GangMember {
            pod: self.pod_name(rank),
            rank: i32::try_from(rank).unwrap(),
            shape: 0,
            node: None,
        });
        let shapes = vec![GangShape { requests, ..GangShape::default() }];
        Gang::new(
            &self.name,
            GangSpec { mode: GangMode::Run, shapes, members: members.collect(), topology: Vec::new() },
        )
    }
}

/// All work there is.
pub struct Load {
    pods: Api<Pod>,
    gangs: Api<Gang>,
    ledger: Ledger,
    alive: BTreeMap<String, Work>,
    named: u32,
}

impl Load {
    pub fn new(client: Client, ledger: Ledger) -> Self {
        let (pods, gangs) = (Api::namespaced(client.clone(), NS), Api::namespaced(client, NS));
        Self { pods, gangs, ledger, alive: BTreeMap::new(), named: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.alive.is_empty()
    }

    /// What comes next, from now on part of the whole: one to four pieces.
    pub fn arrivals(&mut self, random: &mut StdRng) -> Vec<Work> {
        let count = random.random_range(1..=4);
        (0..count).map(|_| self.admit(|name| Work::any(random, name))).collect()
    }

    fn admit(&mut self, work: impl FnOnce(String) -> Work) -> Work {
        self.named += 1;
        let work = work(format!("w{}", self.named));
        self.ledger.expect(&work);
        self.alive.insert(work.name.clone(), work.clone());
        work
    }

    /// What goes next, from now on no part of the whole: of what is whole, until the rest asks for little enough.
    pub fn departures(&mut self, random: &mut StdRng) -> Vec<Work> {
        let mut whole: Vec<String> = self.whole_names();
        let mut going = Vec::new();
        while self.demand() > DEMAND && !whole.is_empty() {
            let name = whole.swap_remove(random.random_range(0..whole.len()));
            going.extend(self.dismiss(&name));
        }
        going
    }

    /// Everything that is whole, from now on no part of the rest.
    pub fn whole(&mut self) -> Vec<Work> {
        let names = self.whole_names();
        names.iter().filter_map(|name| self.dismiss(name)).collect()
    }

    fn dismiss(&mut self, name: &str) -> Option<Work> {
        let work = self.alive.remove(name)?;
        self.ledger.leaves(name);
        Some(work)
    }

    fn whole_names(&self) -> Vec<String> {
        self.alive.keys().filter(|name| self.ledger.is_whole(name)).cloned().collect()
    }

    fn demand(&self) -> u32 {
        self.alive.values().map(|work| work.size * work.gpus).sum()
    }

    /// What is not whole, for people.
    pub fn waiting(&self) -> Vec<String> {
        let waiting = self.alive.values().filter(|work| !self.ledger.is_whole(&work.name));
        waiting.map(|work| format!("{work:?}, {} bound", self.ledger.bound_of(&work.name))).collect()
    }

    /// Creates its objects.
    pub async fn submit(&self, work: Vec<Work>) {
        join_all(work.iter().map(async |work| {
            if work.kind == Kind::Object {
                self.gangs.create(&PostParams::default(), &work.object()).await.unwrap();
            }
            join_all((0..work.size).map(|rank| self.create_pod(work, rank))).await;
        }))
        .await;
    }

    async fn create_pod(&self, work: &Work, rank: u32) {
        self.pods.create(&PostParams::default(), &work.pod(rank)).await.unwrap();
    }

    /// Deletes its objects.
    pub async fn withdraw(&self, work: Vec<Work>) {
        join_all(work.iter().map(async |work| {
            if work.kind == Kind::Object {
                self.gangs.delete(&work.name, &DeleteParams::default()).await.unwrap();
            }
            join_all((0..work.size).map(|rank| self.delete_pod(work.pod_name(rank)))).await;
        }))
        .await;
    }

    async fn delete_pod(&self, name: String) {
        match self.pods.delete(&name, &DeleteParams::default()).await {
            // The scheduler may have been faster.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => drop(result.unwrap()),
        }
    }

    /// One of these gangs loses a member that is not bound: without it the gang can never be whole.
    ///
    /// Nobody makes that pod again before the others are gone. Another member still waits: if all that are left were
    /// bound, the gang would look like one that was whole and lost a member later, which nobody should undo.
    pub async fn lose_a_member(&self, half_bound: &BTreeSet<String>) {
        for name in half_bound {
            let Some(work) = self.alive.get(name) else { continue };
            if !matches!(work.kind, Kind::Labels | Kind::LabelsInRack) || work.min < work.size {
                continue;
            }
            if let [member, _, ..] = &self.ledger.unbound(name)[..] {
                self.delete_pod(member.clone()).await;
                return;
            }
        }
    }

    /// Does what owners do: makes deleted members of undone gangs again, and new gangs of those that were refused.
    pub async fn repair(&mut self) {
        let refused: Vec<String> = self
            .gangs
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .iter()
            .filter_map(|gang| {
                let phase = gang.status.as_ref().and_then(|status| status.phase);
                (phase == Some(GangPhase::Refused)).then(|| gang.name_any())
            })
            .collect();
        for name in refused {
            let Some(old) = self.dismiss(&name) else { continue };
            self.withdraw(vec![old.clone()]).await;
            let again = self.admit(|name| Work { name, ..old });
            self.submit(vec![again]).await;
        }
        let lost = self.ledger.take_lost();
        // All or nothing for owners too: a member comes back when no other is bound any more.
        let (back, later): (Vec<_>, Vec<_>) =
            lost.into_iter().partition(|(name, _)| self.ledger.bound_of(name) == 0 || self.ledger.is_whole(name));
        self.ledger.put_back_lost(later);
        join_all(
            back.into_iter()
                .filter_map(|(name, rank)| Some((self.alive.get(&name)?, rank)))
                .map(async |(work, rank)| self.create_pod(work, rank).await),
        )
        .await;
    }
}
