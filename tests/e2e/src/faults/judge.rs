//! What runs of members prove. Pure: tables of runs in, verdicts out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::witness::Run;

/// Two runs of one member at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Double {
    /// The one that began first.
    pub one: Run,
    /// The other.
    pub other: Run,
}

impl Double {
    /// In words.
    #[must_use]
    pub fn say(&self) -> String {
        let overlap = self.one.last.min(self.other.last).saturating_sub(self.other.first);
        let side = |run: &Run| format!("incarnation {} on {}", run.incarnation, run.site);
        format!(
            "{}/{} ran twice for {:.2} s: {} and {}",
            self.one.cluster,
            self.one.rank,
            overlap.as_secs_f64(),
            side(&self.one),
            side(&self.other)
        )
    }

    /// What makes it one of its kind.
    #[must_use]
    pub fn key(&self) -> (String, String) {
        (self.one.uid.clone(), self.other.uid.clone())
    }
}

/// All pairs of runs of one member that overlap. Of these Clusters a rank may run twice.
#[must_use]
pub fn doubles(runs: &[Run], may_run_twice: &BTreeSet<String>) -> Vec<Double> {
    let mut members: BTreeMap<(&str, u32), Vec<&Run>> = BTreeMap::new();
    for run in runs.iter().filter(|run| !may_run_twice.contains(&run.cluster)) {
        members.entry((&run.cluster, run.rank)).or_default().push(run);
    }
    let mut found = Vec::new();
    for runs in members.values_mut() {
        runs.sort_by_key(|run| run.first);
        for (index, one) in runs.iter().enumerate() {
            for other in runs.iter().skip(index + 1).filter(|other| one.last > other.first) {
                found.push(Double { one: (*one).clone(), other: (*other).clone() });
            }
        }
    }
    found
}

/// What became of one Cluster in one trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// All as promised.
    Held,
    /// Two incarnations of a member ran at the same time.
    Double,
    /// A member that nothing should have touched ended.
    Disturbed,
    /// A lost member does not run elsewhere.
    NotReplaced,
    /// It ran elsewhere, but later than promised.
    Late,
    /// After the fault not every member runs again, or something else does.
    NotSettled,
}

/// What was promised of a Cluster.
#[derive(Clone, Copy, Debug)]
pub enum Promise<'a> {
    /// Nothing happens to it.
    Undisturbed,
    /// Its members on this Site run elsewhere in time; the others run on, unless `all` start again.
    Moved {
        /// The lost Site.
        site: &'a str,
        /// When the Site got its last lease, at the latest.
        lease: Duration,
        /// How soon after it.
        within: Duration,
        /// A gang: its survivors start again too.
        all: bool,
        /// Until when those on the lost Site run on, if they are to.
        until: Option<Duration>,
    },
    /// Anything but two at once.
    Safe,
}

/// Judges one Cluster by its members that ran before the fault and all runs since; says how long after the last lease
/// the last lost member ran elsewhere.
#[must_use]
pub fn judge(before: &[Run], after: &[Run], promise: Promise<'_>) -> (Verdict, String, Option<Duration>) {
    let now = |run: &Run| after.iter().find(|later| later.uid == run.uid);
    let ended = |run: &&Run| now(run).is_none_or(|later| later.ended);
    let name = |run: &Run| format!("{}/{} on {}", run.cluster, run.rank, run.site);
    match promise {
        Promise::Safe => (Verdict::Held, String::new(), None),
        Promise::Undisturbed => match before.iter().find(ended) {
            Some(run) => (Verdict::Disturbed, format!("{} ended", name(run)), None),
            None => (Verdict::Held, String::new(), None),
        },
        Promise::Moved { site, lease, within, all, until } => {
            if let Some(run) = before.iter().filter(|run| !all && run.site != site).find(ended) {
                return (Verdict::Disturbed, format!("{}, a survivor, ended", name(run)), None);
            }
            let stopped =
                |run: &&Run| now(run).is_none_or(|later| later.ended && until.is_some_and(|until| later.last < until));
            if let Some(run) = before.iter().filter(|run| until.is_some() && run.site == site).find(stopped) {
                return (Verdict::Disturbed, format!("{} ended, and was to run on", name(run)), None);
            }
            let mut slowest = Duration::ZERO;
            for lost in before.iter().filter(|run| run.site == site) {
                let mut next = after.iter().filter(|run| {
                    run.cluster == lost.cluster && run.rank == lost.rank && run.uid != lost.uid && run.site != site
                });
                let Some(replaced) = next.find(|run| run.first > lost.first) else {
                    return (Verdict::NotReplaced, format!("{} runs nowhere else", name(lost)), None);
                };
                slowest = slowest.max(replaced.first.saturating_sub(lease));
            }
            let verdict = if slowest > within { Verdict::Late } else { Verdict::Held };
            (verdict, String::new(), Some(slowest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rank: u32, site: &str, uid: &str, first: u64, last: u64, ended: bool) -> Run {
        let at = Duration::from_secs;
        let (cluster, incarnation) = ("c".to_owned(), 1);
        Run { cluster, rank, incarnation, site: site.into(), uid: uid.into(), first: at(first), last: at(last), ended }
    }

    #[test]
    fn only_runs_of_one_member_that_overlap_are_double() {
        let none = BTreeSet::new();
        let runs = [run(0, "a", "1", 0, 10, true), run(0, "b", "2", 10, 20, false), run(1, "b", "3", 5, 20, false)];
        assert_eq!(doubles(&runs, &none), []);
        let twice = [run(0, "b", "2", 9, 20, false), run(0, "a", "1", 0, 10, true)];
        let found = doubles(&twice, &none);
        assert_eq!(found.len(), 1);
        assert!(found[0].say().contains("ran twice for 1.00 s"), "{}", found[0].say());
        assert_eq!(doubles(&twice, &BTreeSet::from(["c".to_owned()])), []);
    }

    fn moved(all: bool) -> Promise<'static> {
        Promise::Moved { site: "a", lease: Duration::from_secs(100), within: Duration::from_secs(17), all, until: None }
    }

    #[test]
    fn a_lost_member_runs_elsewhere_in_time_and_survivors_run_on() {
        let before = [run(0, "a", "1", 0, 99, false), run(1, "b", "2", 0, 99, false)];
        let old = run(0, "a", "1", 0, 108, true);
        let survivor = run(1, "b", "2", 0, 130, false);
        let at = |first| [old.clone(), survivor.clone(), run(0, "b", "3", first, 130, false)];
        assert_eq!(judge(&before, &at(114), moved(false)).0, Verdict::Held);
        assert_eq!(
            judge(&before, &at(118), moved(false)),
            (Verdict::Late, String::new(), Some(Duration::from_secs(18)))
        );
        assert_eq!(judge(&before, &[old.clone(), survivor], moved(false)).0, Verdict::NotReplaced);
        let again = [old, run(1, "b", "2", 0, 113, true), run(0, "b", "3", 114, 130, false)];
        assert_eq!(judge(&before, &again, moved(false)).0, Verdict::Disturbed);
        assert_eq!(judge(&before, &again, moved(true)).0, Verdict::Held, "a gang starts again as a whole");
    }

    #[test]
    fn an_autonomous_member_runs_on_until_its_site_is_back() {
        let before = [run(0, "a", "1", 0, 99, false)];
        let after = |last| [run(0, "a", "1", 0, last, true), run(0, "b", "2", 114, 130, false)];
        let promise = |until| Promise::Moved {
            site: "a",
            lease: Duration::from_secs(100),
            within: Duration::from_secs(17),
            all: false,
            until: Some(Duration::from_secs(until)),
        };
        assert_eq!(judge(&before, &after(121), promise(120)).0, Verdict::Held);
        assert_eq!(judge(&before, &after(119), promise(120)).0, Verdict::Disturbed);
    }

    #[test]
    fn what_should_not_be_touched_runs_on() {
        let before = [run(0, "a", "1", 0, 99, false)];
        let undisturbed = |after: &[Run]| judge(&before, after, Promise::Undisturbed).0;
        assert_eq!(undisturbed(&[run(0, "a", "1", 0, 120, false)]), Verdict::Held);
        assert_eq!(undisturbed(&[run(0, "a", "1", 0, 110, true)]), Verdict::Disturbed);
        assert_eq!(undisturbed(&[]), Verdict::Disturbed);
    }
}
