//! How long a Site may be silent: the rules are `atoll_core::session`'s.

use std::time::Duration;

use atoll_api::ClusterSlice;
pub use atoll_core::session::{Answer, Pulse, Rhythm};

/// The shortest time after which members of these slices are asked to stop; those that run on without a lease never are.
pub fn shortest_stop<'a>(slices: impl Iterator<Item = &'a ClusterSlice>) -> Option<Duration> {
    slices
        .filter(|slice| !slice.spec.autonomous)
        .map(|slice| Duration::from_secs(u64::try_from(slice.spec.fence.stop_seconds).unwrap_or(0).max(1)))
        .min()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_shortest_stop_of_all_slices_counts() {
        let mut slices = ["a", "b"].map(|name| fixtures::slice("default", name, "site-a", 1));
        assert_eq!(shortest_stop(slices.iter()), Some(s(60)));
        slices[1].spec.fence.stop_seconds = 5;
        assert_eq!(shortest_stop(slices.iter()), Some(s(5)));
        slices[1].spec.autonomous = true;
        assert_eq!(shortest_stop(slices.iter()), Some(s(60)));
        assert_eq!(shortest_stop([].iter()), None);
    }
}
