//! What an agent knows of the watchdogs of its Site's nodes, and how long something may still run that the Site's API
//! does not show any more.
//!
//! A watchdog's lease begins no later than the agent answers it, and the watchdog kills a member at the latest when that
//! lease is as old as the member's kill time. So whatever became of a node and of the way to it: some time after the last
//! answer nothing of the member runs. Before that, only the watchdog itself can say so.
//!
//! Times are instants of the agent's boot-time clock.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lease::Times;
use crate::member::{Member, Orphan};

/// A node whose watchdog has not asked for so long has none.
pub const SILENCE: Duration = Duration::from_secs(30);
/// What a watchdog may need to kill, counted from the end of its lease.
pub const KILLING: Duration = Duration::from_secs(2);
/// A node that has been silent for so long, longer than any lease, is as one that never asked.
const FORGOTTEN: Duration = Duration::from_hours(3);

/// A member of which something runs on a node, as its watchdog says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Running {
    /// UID of its Cluster.
    pub cluster_uid: String,
    /// The member.
    pub member: Member,
    /// UID of its pod.
    pub pod_uid: String,
}

/// What a watchdog said in one request.
#[derive(Clone, Debug)]
struct Word {
    at: Duration,
    running: Vec<Running>,
}

impl Word {
    fn names(&self, cluster_uid: &str, member: Member) -> bool {
        self.running.iter().any(|running| running.member == member && running.cluster_uid == cluster_uid)
    }
}

#[derive(Clone, Debug)]
struct Node {
    boot_id: String,
    last: Word,
    /// The request before, of the same boot.
    previous: Option<Word>,
    /// When a lease was answered last.
    answered: Option<Duration>,
}

/// The watchdogs of a Site, as one process of the agent has heard them.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    /// When this process had its first grant: what other processes of the agent, earlier ones or one that was cut off,
    /// have answered stems from grants before that.
    granted: Option<Duration>,
    nodes: BTreeMap<String, Node>,
}

impl Nodes {
    /// The hub has granted a lease to this process.
    pub fn grant(&mut self, now: Duration) {
        self.granted.get_or_insert(now);
    }

    /// The watchdog of `node` asks, and says what runs there.
    pub fn ask(&mut self, node: &str, boot_id: &str, running: Vec<Running>, now: Duration) {
        self.nodes.retain(|_, node| now.saturating_sub(node.last.at) < FORGOTTEN);
        let last = Word { at: now, running };
        if let Some(known) = self.nodes.get_mut(node) {
            let before = std::mem::replace(&mut known.last, last);
            known.previous = (known.boot_id == boot_id).then_some(before);
            boot_id.clone_into(&mut known.boot_id);
        } else {
            let new = Node { boot_id: boot_id.to_owned(), last, previous: None, answered: None };
            self.nodes.insert(node.to_owned(), new);
        }
    }

    /// The watchdog of `node` is answered with a lease; to be called before the answer is sent.
    pub fn answer(&mut self, node: &str, now: Duration) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.answered = Some(now);
        }
    }

    /// Whether the watchdog of `node` was ever answered with a lease.
    #[must_use]
    pub fn has_answered(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| node.answered.is_some())
    }

    /// Nodes with a watchdog, in order.
    pub fn watched(&self, now: Duration) -> impl Iterator<Item = &str> {
        self.nodes
            .iter()
            .filter(move |(_, node)| now.saturating_sub(node.last.at) < SILENCE)
            .map(|(name, _)| name.as_str())
    }

    /// When a node will have been silent for too long next, if none asks.
    #[must_use]
    pub fn next_silence(&self, now: Duration) -> Option<Duration> {
        self.nodes.values().map(|node| node.last.at.saturating_add(SILENCE)).filter(|at| *at > now).min()
    }

    /// What runs on a node, as its watchdog said last.
    pub fn running(&self, node: &str) -> impl Iterator<Item = &Running> {
        self.nodes.get(node).into_iter().flat_map(|node| &node.last.running)
    }

    /// Whether anything of an orphan may still run. Not when its watchdog has said so in two requests since: the first may
    /// have been on its way when the pod vanished. Nor when no lease can keep it alive any more.
    #[must_use]
    pub fn may_run(&self, cluster_uid: &str, member: Member, orphan: &Orphan, times: Times, now: Duration) -> bool {
        let node = self.nodes.get(&orphan.node);
        let denied =
            node.and_then(|node| Some((&node.last, node.previous.as_ref()?))).is_some_and(|(last, previous)| {
                previous.at > orphan.since && !previous.names(cluster_uid, member) && !last.names(cluster_uid, member)
            });
        !denied && self.end(&orphan.node, times).is_none_or(|end| now < end)
    }

    /// When nothing runs any more of a member with these times on a node that is not heard any more; `None`: not known.
    ///
    /// A member that runs on without a lease is counted as running for as long as its node has a watchdog: where it is cut
    /// off with its node it may run twice, which is what its Cluster has chosen.
    #[must_use]
    pub fn end(&self, node: &str, times: Times) -> Option<Duration> {
        let granted = self.granted?;
        let node = self.nodes.get(node);
        Some(match times.kill() {
            Some(kill) => {
                let answered = node.and_then(|node| node.answered).unwrap_or_default();
                granted.max(answered).saturating_add(kill).saturating_add(KILLING)
            }
            None => granted.max(node.map_or(Duration::ZERO, |node| node.last.at)).saturating_add(SILENCE),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMES: Times = Times::At { stop: Duration::from_mins(1), kill: Duration::from_secs(90) };
    const MEMBER: Member = Member { rank: 0, incarnation: 1 };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn running(incarnation: u64) -> Vec<Running> {
        let member = Member { rank: 0, incarnation };
        vec![Running { cluster_uid: "c".into(), member, pod_uid: format!("pod-{incarnation}") }]
    }

    fn orphan(since: u64) -> Orphan {
        Orphan { node: "n".into(), since: s(since) }
    }

    fn nodes() -> Nodes {
        let mut nodes = Nodes::default();
        nodes.grant(s(10));
        nodes
    }

    #[test]
    fn a_node_has_a_watchdog_until_it_was_silent_for_long() {
        let mut nodes = nodes();
        nodes.ask("n", "b", vec![], s(100));
        for (now, there) in [(100, true), (129, true), (130, false)] {
            assert_eq!(nodes.watched(s(now)).count() == 1, there, "at {now}");
        }
        assert_eq!(nodes.next_silence(s(100)), Some(s(130)));
        assert_eq!(nodes.next_silence(s(130)), None);
        nodes.ask("m", "b", vec![], s(100) + FORGOTTEN);
        assert_eq!(nodes.nodes.len(), 1, "the other is forgotten");
    }

    #[test]
    fn two_requests_since_tell_that_nothing_runs() {
        let mut nodes = nodes();
        let may_run = |nodes: &Nodes, now| nodes.may_run("c", MEMBER, &orphan(100), TIMES, s(now));
        nodes.ask("n", "b", running(1), s(99));
        nodes.answer("n", s(99));
        assert!(may_run(&nodes, 100));
        nodes.ask("n", "b", vec![], s(101));
        assert!(may_run(&nodes, 101), "it may have been sent before");
        nodes.ask("n", "b", running(2), s(103));
        assert!(!may_run(&nodes, 103), "another incarnation is another member");
        nodes.ask("n", "b", running(1), s(105));
        assert!(may_run(&nodes, 105), "the newest word counts");
        assert!(nodes.may_run("other", MEMBER, &orphan(104), TIMES, s(105)));
    }

    #[test]
    fn a_word_from_before_a_reboot_is_none() {
        let mut nodes = nodes();
        nodes.ask("n", "b", vec![], s(101));
        nodes.answer("n", s(101));
        nodes.ask("n", "another", vec![], s(103));
        assert!(nodes.may_run("c", MEMBER, &orphan(100), TIMES, s(103)));
        nodes.ask("n", "another", vec![], s(105));
        assert!(!nodes.may_run("c", MEMBER, &orphan(100), TIMES, s(105)));
    }

    #[test]
    fn a_silent_node_is_waited_for_until_its_last_lease_has_run_out() {
        let mut nodes = nodes();
        nodes.ask("n", "b", running(1), s(100));
        nodes.answer("n", s(100));
        nodes.ask("n", "b", running(1), s(150));
        for (times, last) in [(TIMES, 191), (Times::from_seconds(5, 10), 111), (Times::Never, 179)] {
            assert!(nodes.may_run("c", MEMBER, &orphan(100), times, s(last)), "{times}");
            assert!(!nodes.may_run("c", MEMBER, &orphan(100), times, s(last + 1)), "{times}");
        }
    }

    #[test]
    fn leases_of_an_earlier_process_count_until_this_one_was_granted_one() {
        let mut nodes = Nodes::default();
        assert!(nodes.may_run("c", MEMBER, &orphan(100), TIMES, s(100_000)), "no grant yet");
        nodes.grant(s(200));
        nodes.grant(s(300));
        assert!(nodes.may_run("c", MEMBER, &orphan(100), TIMES, s(291)), "a node that was never heard");
        assert!(!nodes.may_run("c", MEMBER, &orphan(100), TIMES, s(292)));
    }

    proptest! {
        /// A watchdog that holds a lease as the protocol says never runs a member that counts as gone.
        #[test]
        fn what_counts_as_gone_does_not_run(
            asks in prop::collection::vec((1u64..40, 0u64..3, any::<bool>(), any::<bool>()), 1..40),
            dies in 0u64..600,
            since in 0u64..600,
        ) {
            let mut nodes = Nodes::default();
            nodes.grant(s(0));
            // The member runs until `dies`: it is stopped then, or its lease has run out earlier.
            let (mut now, mut lease, mut dies) = (0, 0, dies);
            for (gap, flight, heard, back) in asks {
                now += gap;
                dies = dies.min(if now >= lease + 90 { lease + 90 } else { dies });
                let arrival = now + flight;
                if heard {
                    nodes.ask("n", "b", if now < dies { running(1) } else { vec![] }, s(arrival));
                    nodes.answer("n", s(arrival));
                    if back {
                        lease = now;
                    }
                }
                now = arrival;
                let end = dies.min(lease + 90);
                if now > since && !nodes.may_run("c", MEMBER, &orphan(since), TIMES, s(now)) {
                    prop_assert!(now >= end, "runs at {now} until {end}");
                }
            }
        }
    }
}
