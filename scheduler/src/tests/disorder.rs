//! Gangs of labels and pods of several priorities, over kills, refusals, deletions and nodes that come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::properties::{fits, world};
use super::world::{World, key};
use crate::objects::{GangName, PodFacts};

/// Size, minimum, GPUs of a member, priority.
const GANGS: [(u32, u32, i128, i32); 3] = [(3, 3, 2, 0), (4, 2, 1, 5), (2, 2, 4, 9)];

#[derive(Clone, Debug)]
enum Step {
    Member { gang: usize, rank: u32 },
    Gang(usize),
    Single { pod: usize, gpus: i128, priority: i32 },
    Delete(usize),
    Cordon(usize),
    Hear(usize),
    Turn,
    Act { which: usize, refuse: bool },
    End,
    Wait(u64),
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let gang = 0..GANGS.len();
    let step = prop_oneof![
        3 => (gang.clone(), 0..4_u32).prop_map(|(gang, rank)| Step::Member { gang, rank }),
        2 => gang.prop_map(Step::Gang),
        2 => (0..4_usize, 1..4_i128, 0..10).prop_map(|(pod, gpus, priority)| Step::Single { pod, gpus, priority }),
        1 => (0..64_usize).prop_map(Step::Delete),
        1 => (0..3_usize).prop_map(Step::Cordon),
        4 => (1..5_usize).prop_map(Step::Hear),
        4 => Just(Step::Turn),
        6 => (0..64_usize, prop::bool::weighted(0.1))
            .prop_map(|(which, refuse)| Step::Act { which, refuse }),
        2 => Just(Step::End),
        1 => (1..20_u64).prop_map(Step::Wait),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 1..120)
}

fn create_member(world: &mut World, gang: usize, rank: u32) {
    let (size, min, gpus, priority) = GANGS[gang];
    let name = format!("g{gang}-{rank}");
    if rank < size && !world.pods.contains_key(&key(&name)) {
        let pod = world.pod(&name, gpus);
        let gang = Some(GangName::Label { name: format!("g{gang}"), size, min });
        world.set_pod(PodFacts { gang, rank: Some(rank), priority, ..pod });
    }
}

fn step(world: &mut World, step: &Step) {
    match step {
        Step::Member { gang, rank } => create_member(world, *gang, *rank),
        Step::Gang(gang) => (0..4).for_each(|rank| create_member(world, *gang, rank)),
        Step::Single { pod, gpus, priority } => {
            let name = format!("p{pod}");
            if !world.pods.contains_key(&key(&name)) {
                let pod = world.pod(&name, *gpus);
                world.set_pod(PodFacts { priority: *priority, ..pod });
            }
        }
        Step::Delete(which) => {
            let pods: Vec<_> = world.pods.keys().map(|key| key.name.clone()).collect();
            if !pods.is_empty() {
                world.delete_pod(&pods[which % pods.len()]);
            }
        }
        Step::Cordon(index) => {
            let mut node = world.nodes.values().nth(*index).cloned().unwrap();
            node.unschedulable = !node.unschedulable;
            world.set_node(node);
        }
        Step::Hear(count) => {
            for _ in 0..*count {
                world.hear();
            }
        }
        Step::Turn => {
            world.turn();
        }
        Step::Act { which, refuse } => {
            if !world.outbox.is_empty() {
                let index = which % world.outbox.len();
                world.act(index, *refuse);
            }
        }
        Step::End => {
            world.end_one();
        }
        Step::Wait(seconds) => world.now += Duration::from_secs(*seconds),
        Step::Kill => world.restart(),
    }
}

/// Everything is let run out; then all is whole, true and counted once.
fn judge(world: &mut World) {
    world.settle();
    let mut counted = world.counted();
    for name in world.nodes.keys() {
        assert_eq!(world.scheduler.cache().nodes().used(name), counted.used(name), "what counts on {name}");
    }
    assert_eq!(world.scheduler.cache().holds_in_all(), 0);
    assert_eq!(world.scheduler.counts().victims, 0);
    let mut gangs: BTreeMap<&str, Vec<&PodFacts>> = BTreeMap::new();
    for pod in world.pods.values() {
        assert_eq!(pod.nominated, None, "{}", pod.key);
        match &pod.gang {
            Some(gang) => gangs.entry(gang.name()).or_default().push(pod),
            None if pod.node.is_none() => {
                assert!(!fits(&mut counted, &[Arc::clone(&pod.shape)]), "{} waits and fits", pod.key);
                assert!(pod.unschedulable.is_some());
            }
            None => {}
        }
    }
    for (name, pods) in gangs {
        let Some(GangName::Label { min, .. }) = pods[0].gang else { continue };
        let min = usize::try_from(min).unwrap();
        let (waiting, bound): (Vec<&PodFacts>, Vec<_>) = pods.into_iter().partition(|pod| pod.node.is_none());
        // Of the first pod that was bound, also if it is gone: who came later may take the place of one that ended, and a
        // process that has seen both cannot know that the gang was never whole.
        let begun = world.begun.get(&key(name));
        let whole = world.whole.contains(&key(name));
        let left_behind = !whole && waiting.iter().any(|pod| begun.is_some_and(|begun| pod.created < *begun));
        assert!(bound.is_empty() || bound.len() >= min || !left_behind, "{name} is half-bound");
        let wanted = if bound.is_empty() { min } else { 1 };
        if waiting.len() >= wanted {
            let shapes: Vec<_> = waiting[..wanted].iter().map(|pod| Arc::clone(&pod.shape)).collect();
            assert!(!fits(&mut counted, &shapes), "{name} waits and fits");
        }
        assert!(waiting.iter().all(|pod| pod.unschedulable.is_some()), "{name} was not told");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The API server in memory checks every binding: no node is ever over capacity.
    #[test]
    fn whatever_happens_gangs_are_whole_at_rest_and_nothing_is_forgotten(steps in steps()) {
        let mut world = world();
        for one in &steps {
            step(&mut world, one);
        }
        judge(&mut world);
    }
}
