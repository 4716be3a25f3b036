//! The rules that the fence holds by, each of which a trial can do without.

/// A rule. What is said of each is what happens without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Rule {
    /// 1: the agent counts a lease from when it received the grant.
    CountedFromSending,
    /// 1: the agent takes grants of sessions that it has ended for those of its present one.
    OwnSession,
    /// 1: the gateway notes only the grant before the last.
    NotedBeforeSent,
    /// 2: a gateway grants on when its own Lease is over.
    UnderOwnLease,
    /// 2: a Site's later sessions begin without being written.
    NumberedSession,
    /// 3: the operator takes the wall-clock time of the last grant instead of its age.
    AgeOfGrant,
    /// 3: a gateway's Lease is judged by its holder's wall clock.
    LeaseAsObserved,
    /// 3: a lost Site's members are replaced when the loss is seen, and not when their fence has expired.
    FenceAwaited,
    /// 4: the fenced list is written on whatever version is there.
    FenceChecked,
    /// 4: gateways deliver slices of fenced epochs.
    FencedWithheld,
    /// 5: no watchdog kills.
    WatchdogKills,
    /// 5: the watchdog's lease begins when it is answered, whatever age the agent says.
    LeaseFromAsking,
    /// 5: a watchdog that starts anew counts from its start.
    LeaseKeptOverRestart,
    /// 5: a wall clock that jumps against boot time is not noticed.
    JumpIsExpiry,
    /// 5: containers start without a lease.
    LeaseToStart,
    /// 6: a member whose pod vanished counts as stopped at once.
    NodesOwnLease,
    /// 7: an incarnation that was stopped for want of a lease is started again.
    StoppedForGood,
    /// 7: members start before those that the hub does not list are gone.
    UnlistedFirst,
    /// Commits are written on whatever version is there.
    CommitChecked,
    /// Slices are written and deleted on whatever version is there.
    SlicesChecked,
    /// What a former leader writes is taken.
    TermChecked,
    /// A slice goes while a lost creation of it may still come.
    CreatedOnce,
    /// What a Site said in an older session is written over what it said in a newer one.
    NewestReport,
    /// Many Sites lost at once are replaced like one.
    Freeze,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::CountedFromSending,
        Self::OwnSession,
        Self::NotedBeforeSent,
        Self::UnderOwnLease,
        Self::NumberedSession,
        Self::AgeOfGrant,
        Self::LeaseAsObserved,
        Self::FenceAwaited,
        Self::FenceChecked,
        Self::FencedWithheld,
        Self::WatchdogKills,
        Self::LeaseFromAsking,
        Self::LeaseKeptOverRestart,
        Self::JumpIsExpiry,
        Self::LeaseToStart,
        Self::NodesOwnLease,
        Self::StoppedForGood,
        Self::UnlistedFirst,
        Self::CommitChecked,
        Self::SlicesChecked,
        Self::TermChecked,
        Self::CreatedOnce,
        Self::NewestReport,
        Self::Freeze,
    ];
}
