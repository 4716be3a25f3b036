//! What may happen next in a simulated life.

use proptest::prelude::*;

use crate::cluster::{MemberState, Millis};

pub(super) const SITES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
pub(super) enum Op {
    /// All goes well for one round.
    Flow,
    /// The operator sees all that the API holds, commits and writes slices.
    Operate,
    /// All Sites act on what is listed for them, and their reports are late.
    Silence,
    /// The operator's watches catch up with one Site's slices, or with the Cluster.
    Watch(usize),
    /// Its watch of Sites catches up with one.
    See(usize),
    /// It decides; its writes happen, or only so many of the slices' do, or the commit is lost.
    Decide {
        writes: usize,
        commits: bool,
    },
    /// The gateway hands a Site what the hub lists for it.
    Deliver(usize),
    /// A Site acts on what it was told.
    Act(usize),
    /// The gateway writes what a Site says.
    Report(usize),
    /// The n-th live member ends.
    Ends(usize, MemberState),
    Cut(usize),
    Return(usize),
    Advance(Millis),
    /// A Site will refuse the next capacity that it is asked for.
    Refuse(usize),
    /// A supplier wants its members to leave, or not any more.
    Drain(usize, bool),
    /// Replacing is frozen, or not any more.
    Freeze(bool),
    Count(u32),
    Suspend(bool),
    Delete,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let site = 0..SITES.len();
    let end = prop_oneof![
        3 => Just(MemberState::Failed),
        1 => Just(MemberState::Succeeded),
        3 => Just(MemberState::Lost),
    ];
    prop_oneof![
        12 => Just(Op::Flow),
        6 => Just(Op::Operate),
        3 => Just(Op::Silence),
        8 => (0..=SITES.len()).prop_map(Op::Watch),
        12 => (0_usize..5, prop::bool::weighted(0.8)).prop_map(|(writes, commits)| Op::Decide { writes, commits }),
        10 => site.clone().prop_map(Op::Deliver),
        10 => site.clone().prop_map(Op::Act),
        10 => site.clone().prop_map(Op::Report),
        3 => (0_usize..8, end).prop_map(|(n, end)| Op::Ends(n, end)),
        2 => site.clone().prop_map(Op::Cut),
        2 => site.clone().prop_map(Op::Return),
        4 => (1_i64..130_000).prop_map(Op::Advance),
        6 => site.clone().prop_map(Op::See),
        2 => site.clone().prop_map(Op::Refuse),
        2 => (site, any::<bool>()).prop_map(|(site, on)| Op::Drain(site, on)),
        1 => prop::bool::weighted(0.3).prop_map(Op::Freeze),
        4 => (1_u32..6).prop_map(Op::Count),
        1 => any::<bool>().prop_map(Op::Suspend),
        1 => Just(Op::Delete),
    ]
}
