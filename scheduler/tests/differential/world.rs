//! A small cluster as this scheduler sees it, and its answers compared with kube-scheduler's.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_core::scheduling::{
    NodeIx, Nodes, Occupant, Shape, Stage, Surroundings, Why, is_coupled, room_for, suits, why_not,
};
use atoll_scheduler::objects::{
    ClaimFacts, Interner, NotSupported, PodFacts, VolumeCatalog, VolumeFacts, VolumeWait, node_state, volume_limits,
};
use atoll_scheduler::proto::{CsiNode, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use prost::Message;

use crate::frames::{self, records, verdicts};
use crate::tally::{Disagreement, Tally};

/// Name of the scheduler in the pods to judge.
const SCHEDULER: &str = "atoll-scheduler";

/// A world and the verdicts about it.
pub struct World {
    number: u64,
    interner: Interner,
    nodes: Nodes,
    /// In the order of the verdicts.
    order: Vec<NodeIx>,
    volumes: VolumeCatalog,
    pods: Vec<Judged>,
}

/// A pod to judge.
struct Judged {
    pod: PodFacts,
    /// Kube-scheduler's, for each node.
    theirs: Vec<u32>,
    /// What it asks together with its claims, or why it is refused before any node is looked at.
    asked: Result<Arc<Shape>, Vec<String>>,
    /// Made when only some were on the nodes.
    kept: Option<Surroundings>,
}

fn read<M: Message + Default>(content: &[u8]) -> M {
    M::decode(content).expect("a message of Kubernetes")
}

impl World {
    /// Reads a frame, and puts everyone who is bound onto the nodes.
    pub fn read(frame: &[u8]) -> Self {
        let mut world = Self {
            number: 0,
            interner: Interner::default(),
            nodes: Nodes::default(),
            order: Vec::new(),
            volumes: VolumeCatalog::default(),
            pods: Vec::new(),
        };
        let (mut names, mut states, mut bound) = (Vec::new(), BTreeMap::new(), Vec::new());
        for (kind, content) in records(frame) {
            match kind {
                frames::WORLD => world.number = u64::from_le_bytes(content.try_into().expect("64 bits")),
                frames::NAMESPACE => {
                    let meta = read::<Namespace>(content).metadata.expect("a name");
                    world.interner.namespace(&meta.name, meta.labels);
                }
                frames::NODE => {
                    let state = node_state(read::<Node>(content));
                    names.push(state.name.clone());
                    states.insert(state.name.clone(), state);
                }
                frames::PERSISTENT_VOLUME => {
                    world.volumes.set_volume(VolumeFacts::of(read::<PersistentVolume>(content)));
                }
                frames::PERSISTENT_VOLUME_CLAIM => {
                    world.volumes.set_claim(ClaimFacts::of(read::<PersistentVolumeClaim>(content)));
                }
                frames::CSI_NODE => {
                    let (node, limits) = volume_limits(read::<CsiNode>(content));
                    states.get_mut(&node).expect("its node").volume_limits = limits;
                }
                frames::BOUND => bound.push(world.pod(content)),
                frames::POD => {
                    let pod = world.pod(content);
                    assert!(pod.waits(), "{} is to be judged", pod.key);
                    let asked = world.asked(&pod);
                    world.pods.push(Judged { pod, theirs: Vec::new(), asked, kept: None });
                }
                frames::VERDICTS => world.pods.last_mut().expect("a pod").theirs = verdicts(content),
                frames::STORAGE_CLASS => {}
                other => panic!("no record is of kind {other}"),
            }
        }
        for (_, state) in states {
            world.nodes.set(state);
        }
        world.order = names.iter().map(|name| world.nodes.ix(name).expect("a node")).collect();
        let some = bound.len() / 2;
        for (n, pod) in bound.iter().enumerate() {
            if n == some {
                world.look_around();
            }
            world.settle(pod);
        }
        world
    }

    fn look_around(&mut self) {
        for judged in &mut self.pods {
            let Ok(shape) = &judged.asked else { continue };
            judged.kept = Some(Surroundings::new(&self.nodes, shape, &judged.pod.identity));
        }
    }

    fn pod(&self, content: &[u8]) -> PodFacts {
        PodFacts::of(read::<Pod>(content), SCHEDULER, &self.interner)
    }

    fn settle(&mut self, pod: &PodFacts) {
        let Some(node) = pod.occupies() else { return };
        let taken = self.volumes.taken(&pod.key.namespace, &pod.claims);
        let shape = pod.shape_with(taken, &self.interner);
        let stage = if pod.deleting { Stage::Terminating } else { Stage::Bound };
        self.nodes.put(node, Occupant { shape, identity: Arc::clone(&pod.identity), stage });
    }

    /// What the pod asks together with its claims, or why it is refused before any node is looked at.
    fn asked(&self, pod: &PodFacts) -> Result<Arc<Shape>, Vec<String>> {
        match &pod.not_supported {
            Some(NotSupported::Features(features)) => {
                return Err(features.iter().map(|feature| (*feature).to_owned()).collect());
            }
            Some(other) => return Err(vec![other.to_string()]),
            None => {}
        }
        match self.volumes.resolve(&pod.key.namespace, &pod.claims) {
            Ok(needs) => Ok(pod.shape_with(needs, &self.interner)),
            Err(VolumeWait::NotBound(_)) => Err(vec!["unbound volumes".to_owned()]),
            // Not an exception: kube-scheduler waits for the claim too.
            Err(_) => Err(Vec::new()),
        }
    }

    /// Judges every pod and node.
    pub fn compare(&self, tally: &mut Tally) {
        for Judged { pod, theirs, asked, kept } in &self.pods {
            assert_eq!(theirs.len(), self.order.len(), "a verdict for each node");
            let asking = asked.as_ref().ok().map(|shape| self.asking(pod, shape, kept.as_ref()));
            // A plugin that says no before nodes are looked at says it of each, and the others were not asked.
            let early = theirs.iter().all(|no| no.is_power_of_two() && *no == theirs[0]);
            for (ix, theirs) in self.order.iter().zip(theirs) {
                let wrong = match (&asking, asked) {
                    (Some(asking), _) => self.judge(asking, *ix, *theirs, early, tally),
                    (None, Err(refused)) => judge_refused(refused, *theirs, tally),
                    (None, Ok(_)) => unreachable!("what is asked is judged"),
                };
                tally.judged(*theirs, asked.is_ok());
                if let Some(wrong) = wrong {
                    tally.disagreements.push(Disagreement {
                        world: self.number,
                        pod: pod.key.to_string(),
                        node: self.nodes.node(*ix).map_or_else(String::new, |(node, _)| node.name.clone()),
                        theirs: tally.names(*theirs),
                        ours: wrong,
                    });
                }
            }
        }
    }

    fn asking<'a>(&self, pod: &PodFacts, shape: &'a Arc<Shape>, kept: Option<&Surroundings>) -> Asking<'a> {
        let fresh = Surroundings::new(&self.nodes, shape, &pod.identity);
        let mut kept = kept.unwrap_or(&fresh).clone();
        kept.follow(&self.nodes);
        Asking { shape, fresh, kept, coupled: is_coupled(&self.nodes, shape, &pod.identity) }
    }

    /// What is wrong with our verdict, if anything.
    fn judge(&self, asking: &Asking, ix: NodeIx, theirs: u32, early: bool, tally: &Tally) -> Option<String> {
        let Asking { shape, fresh, kept, coupled } = asking;
        let alone = why_not(&self.nodes, ix, shape);
        let among = fresh.why_not(&self.nodes, ix);
        let why = alone.as_ref().or(among.as_ref());
        if why.is_none() != (theirs == 0) {
            return Some(why.map_or_else(|| "fits".to_owned(), |why| format!("{why:?}")));
        }
        let names = tally.names(theirs);
        let right = |why: &Why| filters_of(why).iter().any(|filter| names.iter().any(|name| name == filter));
        if let Some(why) = why.filter(|why| !early && !right(why)) {
            return Some(format!("does not fit either, but because of {why:?}"));
        }
        // What decides quickly must say the same as what decides in full.
        let room = room_for(&self.nodes, ix, shape);
        let suits = suits(self.nodes.node(ix)?.0, shape);
        let followed = kept.why_not(&self.nodes, ix);
        let one = (room == 0) == alone.is_some()
            && (suits.is_none() || alone.is_some())
            && (*coupled || among.is_none())
            && followed == among;
        (!one).then(|| {
            format!(
                "is not one with itself: room for {room}, suits {suits:?}, alone {alone:?}, among others {among:?}, \
                 coupled {coupled}, followed {followed:?}"
            )
        })
    }
}

/// A pod that is judged against one node after the other.
struct Asking<'a> {
    shape: &'a Shape,
    fresh: Surroundings,
    /// Made earlier, and brought up to date.
    kept: Surroundings,
    coupled: bool,
}

/// Only pods with something on the list may be refused where kube-scheduler says yes.
fn judge_refused(refused: &[String], theirs: u32, tally: &mut Tally) -> Option<String> {
    for what in refused {
        if !crate::REFUSED.iter().any(|(known, _)| known == what) {
            return Some(format!("refused: {what}"));
        }
        *tally.refused.entry(what.clone()).or_default() += 1;
    }
    (refused.is_empty() && theirs == 0).then(|| "waits for a claim".to_owned())
}

/// The plugins that could have said it.
fn filters_of(why: &Why) -> &'static [&'static str] {
    match why {
        Why::Cordoned => &["NodeUnschedulable"],
        Why::Tainted(_) => &["TaintToleration"],
        Why::NotSelected => &["NodeAffinity"],
        Why::PortTaken => &["NodePorts"],
        Why::TooSmall(_) | Why::InUse(_) => &["NodeResourcesFit"],
        Why::VolumeElsewhere => &["VolumeBinding", "VolumeZone"],
        Why::VolumeTaken => &["VolumeRestrictions"],
        Why::TooManyVolumes(_) => &["NodeVolumeLimits"],
        Why::NotBeside | Why::Repels | Why::Repelled => &["InterPodAffinity"],
        Why::Uneven => &["PodTopologySpread"],
        Why::NoDomain(_) => &["PodTopologySpread", "InterPodAffinity"],
        Why::Unusable | Why::OutsideDomain => &[],
    }
}
