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
        policy in prop_oneof![Just(Policy::Replace), Just(Policy::Restart), Just(Policy::Fail)],
        count in 1_u32..6,
        ops in prop::collection::vec(op(), 1..250),
    ) {
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
