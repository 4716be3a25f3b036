//! Random lives of a Cluster: an operator that forgets everything between two decisions, sees late and loses writes,
//! against naive Sites that are cut off, come back, refuse, and whose members fail.

mod op;
mod world;

use proptest::prelude::*;

use self::op::{Op, op};
use self::world::World;
use super::{Kind, Policy};

/// Orders that chance seldom finds.
#[test]
fn late_news_of_a_site_never_makes_a_rank_run_twice() {
    let lives = [
        // A Site runs a member that it has not reported, and has not seen yet that the member left its slice.
        vec![Op::Operate, Op::Silence, Op::Count(1), Op::Operate, Op::Count(2), Op::Operate, Op::Silence],
        // A Site that never got its slice is fenced, and comes back before the slice is gone.
        vec![Op::Operate, Op::Cut(0), Op::Cut(1), Op::Advance(120_000), Op::Return(2), Op::Flow],
        // Sites come back when the operator takes them for lost still: it fences nobody.
        vec![
            Op::Flow,
            Op::Flow,
            Op::Cut(0),
            Op::Cut(1),
            Op::Cut(2),
            Op::See(0),
            Op::See(1),
            Op::See(2),
            Op::Advance(70_000),
        ]
        .into_iter()
        .chain([Op::Return(0), Op::Return(1), Op::Return(2), Op::Advance(60_000)])
        .chain([Op::Decide { writes: 100, commits: true }, Op::Decide { writes: 100, commits: true }, Op::Flow])
        .collect(),
        // Sites come back between their fence and the commit that follows from it.
        vec![
            Op::Flow,
            Op::Flow,
            Op::Cut(0),
            Op::Cut(1),
            Op::Cut(2),
            Op::See(0),
            Op::See(1),
            Op::See(2),
            Op::Advance(120_000),
        ]
        .into_iter()
        .chain([Op::Decide { writes: 100, commits: false }, Op::Return(0), Op::Return(1), Op::Return(2)])
        .chain([Op::Silence, Op::Silence, Op::Operate, Op::Silence, Op::Flow, Op::Flow])
        .collect(),
    ];
    for ops in lives {
        let mut world = World::new(Kind::Torch, Policy::Restart, 2);
        for op in &ops {
            world.apply(op);
            world.check();
        }
        world.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_runs_twice_and_all_comes_to_rest(
        kind in prop_oneof![3 => Just(Kind::Pods), 2 => Just(Kind::Torch), 1 => Just(Kind::Ray)],
        policy in prop_oneof![Just(Policy::Replace), Just(Policy::Restart), Just(Policy::Fail), Just(Policy::Autonomous)],
        count in 1_u32..6,
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let kind = if policy == Policy::Autonomous { Kind::Pods } else { kind };
        let mut world = World::new(kind, policy, count);
        for op in &ops {
            let epoch = world.cluster.epoch;
            let members = world.cluster.members.clone();
            world.apply(op);
            world.check();
            prop_assert!(world.cluster.epoch >= epoch);
            prop_assert!(world.cluster.members == members || world.cluster.epoch > epoch, "members changed in an epoch");
        }
        world.settle();
    }
}
