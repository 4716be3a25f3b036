//! Members that were stopped for good, and why.

/// Why members are stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// For want of a lease.
    Lease,
    /// The supplier's Site was still draining at its deadline.
    Drain,
}

/// Up to which incarnation members were stopped for good, for each cause; 0: none. They never start again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// For want of a lease.
    pub lease: u64,
    /// At the deadline of a drain.
    pub drain: u64,
}

impl Stopped {
    /// Members of this and lower incarnations were stopped, whatever for.
    #[must_use]
    pub fn newest(self) -> u64 {
        self.lease.max(self.drain)
    }

    /// The higher mark of both, for each cause.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { lease: self.lease.max(other.lease), drain: self.drain.max(other.drain) }
    }

    /// With members up to `incarnation` stopped for `cause`.
    #[must_use]
    pub fn with(self, cause: Cause, incarnation: u64) -> Self {
        self.or(match cause {
            Cause::Lease => Self { lease: incarnation, drain: 0 },
            Cause::Drain => Self { lease: 0, drain: incarnation },
        })
    }

    /// Why members of `incarnation` were stopped; `None`: they were not. Where both marks cover it, the lower one came first,
    /// because a mark is only made above those that are there.
    #[must_use]
    pub fn cause(self, incarnation: u64) -> Option<Cause> {
        [(self.lease, Cause::Lease), (self.drain, Cause::Drain)]
            .into_iter()
            .filter(|(mark, _)| incarnation <= *mark)
            .min()
            .map(|(_, cause)| cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_was_stopped_by_the_mark_that_covered_it_first() {
        let stopped = Stopped::default();
        assert_eq!((stopped.newest(), stopped.cause(1)), (0, None));
        let stopped = stopped.with(Cause::Lease, 3).with(Cause::Drain, 5).with(Cause::Drain, 4);
        assert_eq!(stopped, Stopped { lease: 3, drain: 5 });
        assert_eq!(stopped.newest(), 5);
        for (incarnation, cause) in
            [(1, Some(Cause::Lease)), (3, Some(Cause::Lease)), (4, Some(Cause::Drain)), (6, None)]
        {
            assert_eq!(stopped.cause(incarnation), cause, "{incarnation}");
        }
        assert_eq!(stopped.or(Stopped { lease: 9, drain: 1 }), Stopped { lease: 9, drain: 5 });
    }
}
