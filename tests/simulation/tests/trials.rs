//! All trials end well, and without any one rule some do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use atoll_simulation::judge::Crime;
use atoll_simulation::rule::Rule;
use atoll_simulation::setup::Scene;
use atoll_simulation::{run, trials};

/// The same seeds for everybody; `make simulate` plays others.
const TRIALS: u64 = 10_000;

#[test]
fn whatever_fails_nothing_runs_twice_and_all_comes_to_rest() {
    let tally = trials::play(0, TRIALS, None, 10);
    if let Some((seed, verdict)) = tally.failed.first_key_value() {
        let trace = run(*seed, None, true).lines;
        let last = trace.len().saturating_sub(60);
        panic!(
            "seed {seed}: {verdict:?}\n{}\nreplay: cargo run -p atoll-simulation -- --seed {seed} --trace",
            trace[last..].join("\n")
        );
    }
    assert_eq!(tally.trials, TRIALS);
    // What never happened was not tried.
    for what in [
        "a Site cut off from the hub",
        "a gateway cut off from the hub's API",
        "the hub's API is out",
        "an operator crashes",
        "a gateway crashes",
        "an agent crashes",
        "an agent's machine sleeps",
        "a node's machine sleeps",
        "a node is a paused virtual machine",
        "a node boots",
        "a node is cut off and its Node deleted",
        "a watchdog restarts again and again",
        "a watchdog kills",
        "late write of an operator",
        "a container without a lease waits",
        "replaced in time",
        "moved off a draining Site in time",
        "most of many Sites cut off at once",
        "a request is taken late",
        "sessions in quick succession",
        "a Site returns when it is fenced",
        "a node hears of a member too late",
        "a Site returns with members that are not listed",
        "members fail again and again",
        "leaders are held up",
        "a Site hears late, and is not heard then",
        "nodes are paused beyond a fence",
    ] {
        assert!(tally.counts.get(what).is_some_and(|count| *count >= 10), "{what}: {:?}", tally.counts.get(what));
    }
}

#[test]
fn without_any_one_rule_some_trial_fails() {
    for rule in Rule::ALL {
        // A storm shows most of them.
        let first = scene_of(rule).and_then(Scene::first_seed).unwrap_or(0);
        // That all does not come to rest may be how a process is played without its rule.
        let wrong = (0..SEARCHED).step_by(100).find_map(|n| {
            let failed = trials::play(first + n, 100, Some(rule), usize::MAX).failed;
            failed.into_iter().find(|(_, verdict)| verdict.crime != Crime::Restless)
        });
        let (seed, _) = wrong.unwrap_or_else(|| panic!("nothing goes wrong without {rule:?}"));
        assert!(run(seed, None, false).verdict.is_none(), "seed {seed} fails with all rules");
    }
}

#[test]
fn a_seed_is_the_same_trial_each_time() {
    for seed in 0..20 {
        let (one, other) = (run(seed, None, true), run(seed, None, true));
        assert_eq!(one.lines, other.lines);
        assert_eq!(one.acts, other.acts);
    }
}

/// A rule is shown by one of so many seeds.
const SEARCHED: u64 = 2_000;

/// The scene in which a rule matters that chance seldom makes matter.
fn scene_of(rule: Rule) -> Option<Scene> {
    match rule {
        Rule::CountedFromSending => Some(Scene::Slow),
        Rule::OwnSession => Some(Scene::Replayed),
        Rule::FenceChecked | Rule::FencedWithheld => Some(Scene::Returning),
        Rule::JumpIsExpiry => Some(Scene::Paused),
        Rule::LeaseToStart => Some(Scene::Starting),
        Rule::UnlistedFirst => Some(Scene::Unlisted),
        Rule::CommitChecked | Rule::SlicesChecked | Rule::CreatedOnce => Some(Scene::Failing),
        Rule::TermChecked => Some(Scene::Deposed),
        _ => None,
    }
}
