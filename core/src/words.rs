//! Words that several decisions share; each means what it means in a manifest.

/// What the members of a Cluster do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Long-running training.
    Training,
    /// Serving a model.
    Inference,
    /// Work without a deadline.
    Batch,
    /// A chain's validator.
    Validator,
    /// Zero-knowledge proofs.
    ZkProver,
    /// A rollup's sequencer.
    Sequencer,
}

/// How far apart members may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// All on one Site.
    Site,
    /// On Sites of one region.
    Region,
    /// Anywhere.
    Any,
}

/// How far a Site is trusted, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trust {
    /// Anybody's machine.
    Untrusted,
    /// A data center with a contract.
    Contracted,
    /// Hardware that attests what it runs.
    Attested,
}

/// What a Site says about the capacity of a slice's new members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reservation {
    /// Not decided yet.
    #[default]
    Pending,
    /// Held, or bound already.
    Reserved,
    /// Not to be had.
    Refused,
}

/// Names to choose from and names to leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these; empty: all.
    pub only: Vec<String>,
    /// None of these.
    pub except: Vec<String>,
}

impl Selection {
    /// Whether `name` may be chosen.
    #[must_use]
    pub fn admits(&self, name: &str) -> bool {
        (self.only.is_empty() || self.only.iter().any(|n| n == name)) && !self.except.iter().any(|n| n == name)
    }
}
