use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::GangPhase;
use atoll_core::scheduling::{Decider, GangRequest, MemberRequest, Mode, Nodes, Shape};
use proptest::prelude::*;

use super::world::{GPU, World, key};
use crate::cycle::Action;
use crate::objects::ObjectKey;

#[derive(Clone, Debug)]
enum Step {
    /// A gang of so many members with so many GPUs.
    Create {
        gang: usize,
        hold: bool,
        members: usize,
        gpus: i128,
    },
    Run(usize),
    Pods(usize),
    Delete(usize),
    Single {
        pod: usize,
        gpus: i128,
    },
    EndPod(usize),
    Hear(usize),
    Turn,
    Act {
        which: prop::sample::Index,
        refuse: bool,
    },
    Wait(u64),
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gang = 0..4_usize;
    let step = prop_oneof![
        2 => (gang.clone(), any::<bool>(), 1..5_usize, 1..5_i128)
            .prop_map(|(gang, hold, members, gpus)| Step::Create { gang, hold, members, gpus }),
        2 => gang.clone().prop_map(Step::Run),
        2 => gang.clone().prop_map(Step::Pods),
        1 => gang.prop_map(Step::Delete),
        1 => (0..3_usize, 1..4_i128).prop_map(|(pod, gpus)| Step::Single { pod, gpus }),
        1 => (0..3_usize).prop_map(Step::EndPod),
        4 => (1..5_usize).prop_map(Step::Hear),
        4 => Just(Step::Turn),
        6 => (any::<prop::sample::Index>(), prop::bool::weighted(0.1))
            .prop_map(|(which, refuse)| Step::Act { which, refuse }),
        1 => (1..20_u64).prop_map(Step::Wait),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 1..120)
}

fn gang_name(gang: usize) -> String {
    format!("g{gang}")
}

/// Run gangs whose pods all exist and of which some are bound, others not.
fn half_bound(world: &World) -> BTreeSet<ObjectKey> {
    world
        .gangs
        .values()
        .filter(|gang| gang.spec.mode == Mode::Run)
        .filter(|gang| {
            let pods: Vec<_> =
                gang.spec.members.iter().flatten().filter_map(|m| world.pods.get(&key(&m.pod))).collect();
            let bound = pods.iter().filter(|pod| pod.node.is_some()).count();
            bound > 0 && bound < pods.len()
        })
        .map(|gang| gang.key.clone())
        .collect()
}

/// Whether these fit all together.
pub(super) fn fits(nodes: &mut Nodes, shapes: &[Arc<Shape>]) -> bool {
    let members: Vec<MemberRequest> = shapes
        .iter()
        .map(|shape| MemberRequest { shape: Arc::clone(shape), identity: Arc::default(), node: None })
        .collect();
    let request = GangRequest { minimum: members.len(), members, ..GangRequest::default() };
    Decider::default().decide(nodes, &request).is_ok()
}

/// Without reservations, so that what fits does not wait.
pub(super) fn world() -> World {
    let mut world = World::new(&[("a", 6), ("b", 4), ("c", 3)]);
    world.settings.reserve_after = None;
    world.restart();
    world
}

struct Run {
    world: World,
    /// Gangs that an earlier process left half-bound.
    left: BTreeSet<ObjectKey>,
    /// Those of them that were not decided yet.
    first: BTreeSet<ObjectKey>,
}

impl Run {
    fn step(&mut self, step: &Step) {
        let world = &mut self.world;
        match *step {
            Step::Create { gang, hold, members, gpus } => {
                let name = gang_name(gang);
                if !world.gangs.contains_key(&key(&name)) {
                    let pods: Vec<String> = (0..members).map(|rank| format!("{name}-{rank}-{gpus}")).collect();
                    let members: Vec<_> = pods.iter().map(|pod| (pod.as_str(), gpus, Some("a"))).collect();
                    world.set_gang(&name, if hold { Mode::Hold } else { Mode::Run }, &members);
                }
            }
            Step::Run(gang) => world.set_mode(&gang_name(gang), Mode::Run),
            Step::Pods(gang) => {
                let name = gang_name(gang);
                if world.gangs.get(&key(&name)).is_some_and(|gang| gang.spec.mode == Mode::Run) {
                    world.create_pods_of(&name);
                }
            }
            Step::Delete(gang) => {
                let name = gang_name(gang);
                world.delete_gang(&name);
                let pods: Vec<String> = world
                    .pods
                    .values()
                    .filter(|pod| pod.gang.as_ref().is_some_and(|gang| gang.name() == name))
                    .map(|pod| pod.key.name.to_string())
                    .collect();
                for pod in pods {
                    world.delete_pod(&pod);
                }
                self.first.remove(&key(&name));
            }
            Step::Single { pod, gpus } => world.create_pod(&format!("p{pod}"), gpus, None),
            Step::EndPod(pod) => world.delete_pod(&format!("p{pod}")),
            Step::Hear(count) => {
                for _ in 0..count {
                    world.hear();
                }
            }
            Step::Turn => self.turn(),
            Step::Act { which, refuse } => {
                if !world.outbox.is_empty() {
                    let index = which.index(world.outbox.len());
                    world.act(index, refuse);
                }
            }
            Step::Wait(seconds) => world.now += Duration::from_secs(seconds),
            Step::Kill => {
                world.restart();
                self.left = half_bound(&self.world);
                self.first = self.left.clone();
            }
        }
    }

    /// One turn; what an earlier process left half-bound is bound before all else.
    fn turn(&mut self) {
        let before = self.world.outbox.len();
        self.world.turn();
        for action in &self.world.outbox[before..] {
            if let Action::Bind(binding) = action {
                let mine = binding.gang.as_ref().is_some_and(|gang| self.left.contains(&gang.key));
                // Gangs that are deleted, and the scheduler has not heard of it, do not matter.
                let there = binding.gang.as_ref().is_none_or(|gang| self.world.gangs.contains_key(&gang.key));
                assert!(mine || !there || self.first.is_empty(), "{binding:?} before {:?}", self.first);
            }
        }
        for action in &self.world.outbox[before..] {
            if let Action::Bind(binding) = action
                && let Some(gang) = &binding.gang
            {
                self.first.remove(&gang.key);
            }
        }
    }

    /// Everything is let run out; then all is whole, true and counted once.
    fn judge(&mut self) {
        let world = &mut self.world;
        for gang in 0..4 {
            if world.gangs.get(&key(&gang_name(gang))).is_some_and(|gang| gang.spec.mode == Mode::Run) {
                world.create_pods_of(&gang_name(gang));
            }
        }
        world.settle();
        let mut counted = world.counted();
        for name in world.nodes.keys() {
            assert_eq!(world.scheduler.cache().nodes().used(name), counted.used(name), "what counts on {name}");
        }
        assert_eq!(world.scheduler.cache().holds_in_all(), 0);
        for gang in world.gangs.values() {
            let members = gang.spec.members.clone().unwrap();
            let status = gang.status.clone().unwrap_or_default();
            assert_eq!(status.observed_generation, Some(gang.spec.generation), "{status:?}");
            let bound = members.iter().filter(|m| world.node_of(&m.pod).is_some()).count();
            if gang.spec.mode == Mode::Hold {
                assert_eq!((bound, status.phase), (0, Some(GangPhase::Refused)));
                continue;
            }
            assert!(bound == 0 || bound == members.len(), "{} is half-bound", gang.key);
            if bound > 0 {
                assert_eq!(status.phase, Some(GangPhase::Bound));
                for place in &status.nodes {
                    assert_eq!(world.node_of(&place.pod), Some(place.node.as_str()));
                }
                assert_eq!(status.nodes.len(), members.len());
            } else {
                assert_eq!(status.phase, Some(GangPhase::Refused));
                let shapes: Vec<_> = members.iter().map(|member| Arc::clone(&member.shape)).collect();
                assert!(!fits(&mut counted, &shapes), "{} waits and fits", gang.key);
            }
        }
        for pod in world.pods.values().filter(|pod| pod.gang.is_none() && pod.node.is_none()) {
            let fits = fits(&mut counted, &[Arc::clone(&pod.shape)]);
            assert!(!fits, "{} waits and fits: {} GPUs", pod.key, pod.shape.requests.get(GPU) / 1000);
            assert!(pod.unschedulable.is_some());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The API server in memory checks every binding: no node over capacity, no hold that a status promises taken
    /// away, over kills, refused bindings and events in any order.
    #[test]
    fn gangs_are_whole_at_rest_whatever_happened(steps in steps()) {
        let mut run = Run { world: world(), left: BTreeSet::new(), first: BTreeSet::new() };
        for step in &steps {
            run.step(step);
        }
        run.judge();
    }
}
