//! One fault on real processes, as `make fault-real` makes hundreds: a Site whose agent dies is left to the watchdog of
//! its node.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use atoll_e2e::faults::judge::Verdict;
use atoll_e2e::faults::report::line;
use atoll_e2e::faults::trial::Rounds;
use atoll_e2e::faults::{Fault, Times, World};
use atoll_testkit::require;

#[tokio::test(flavor = "multi_thread")]
async fn members_without_an_agent_are_killed_before_others_take_their_place() -> Result<()> {
    require!(Machines, Ok(()));
    let world = World::start(2, Times::TENTH, true).await?;
    let occupied = |index: &usize| {
        let name = world.site(*index).map(|(site, _)| site.options.name.clone());
        world.witness.alive().iter().any(|run| Some(&run.site) == name.as_ref())
    };
    let site = (0..2).find(occupied).expect("a Site with members");
    let (trials, settled) = Rounds::default().round(&world, Fault::AgentDead, site).await?;
    assert!(settled && !trials.is_empty(), "{trials:#?}");
    for (number, trial) in trials.iter().enumerate() {
        println!("{}", line(number, trial));
        // Lateness is judged by `make fault-real` alone: tests share the machine with others.
        assert!(matches!(trial.verdict, Verdict::Held | Verdict::Late), "{trial:#?}");
    }
    Ok(())
}
