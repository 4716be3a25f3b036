//! What the supplier lets members do on its Site: the `SitePolicy` as the agent understands it.
//!
//! It is read by [`keep`], which also writes its status. The manager refuses what may not start, the runtime caps pods and
//! writes the network rules, the session tells the hub the availability. What runs already is not touched by a change,
//! but for a drain whose deadline is over.

mod caps;
pub mod command;
mod drain;
mod images;
pub mod keep;

use std::time::Duration;

use atoll_api::{Availability, ClusterSliceSpec, ImageRules, NetworkRules, SitePolicySpec};
use atoll_core::units::UnitError;

pub use caps::{CapError, Caps};
pub use images::ImageError;

/// A supplier's policy, read and understood.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What the supplier wants; `Paused` until it is known.
    pub availability: Availability,
    /// When what is left of a drain is stopped, by the boot-time clock.
    pub deadline: Option<Duration>,
    /// Which images members may run.
    pub images: ImageRules,
    /// How much members may take.
    pub caps: Caps,
    /// What members may reach.
    pub network: NetworkRules,
    /// Why nothing may start, whatever else is said.
    pub closed: Option<Closed>,
}

/// Why nothing may start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The Site's API server has not said yet what the policy is.
    #[error("the supplier's SitePolicy has not been read yet")]
    Unread,
    /// It says something that this agent cannot understand.
    #[error("the supplier's SitePolicy cannot be understood: spec.members: {0}")]
    NotUnderstood(UnitError),
}

/// Why the supplier does not let a slice's members start here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// Nothing may.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The supplier has paused its Site.
    #[error("the supplier has paused this Site: no members may come")]
    Paused,
    /// The supplier drains its Site.
    #[error("the supplier drains this Site: no members may come")]
    Draining,
    /// An image that may not run here.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// More than a member may have here.
    #[error(transparent)]
    Cap(#[from] CapError),
    /// More members than may be here.
    #[error("there would be {would_be} members on this Site, and its supplier lets {max} be here")]
    Full {
        /// Members with these.
        would_be: usize,
        /// What the policy allows.
        max: usize,
    },
}

impl Policy {
    /// Before anything was read.
    #[must_use]
    pub fn unread() -> Self {
        Self { availability: Availability::Paused, closed: Some(Closed::Unread), ..Self::default() }
    }

    /// What a supplier's policy means; `deadline` is when its drain, if it is one, is over.
    #[must_use]
    pub fn new(spec: &SitePolicySpec, deadline: Option<Duration>) -> Self {
        let (caps, closed) = match Caps::new(&spec.members) {
            Ok(caps) => (caps, None),
            Err(error) => (Caps::default(), Some(Closed::NotUnderstood(error))),
        };
        Self {
            availability: spec.availability,
            deadline,
            images: spec.images.clone(),
            caps,
            network: spec.network.clone(),
            closed,
        }
    }

    /// Whether it was read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.closed != Some(Closed::Unread)
    }

    /// Whether members of such a slice may start. `would_be`: how many members would be on the Site with them.
    pub fn admit(&self, spec: &ClusterSliceSpec, would_be: usize) -> Result<(), Objection> {
        if let Some(closed) = &self.closed {
            return Err(closed.clone().into());
        }
        match self.availability {
            Availability::Accepting => {}
            Availability::Paused => return Err(Objection::Paused),
            Availability::Draining => return Err(Objection::Draining),
        }
        images::check(&self.images, &spec.template.spec)?;
        self.caps.check(&spec.template.spec)?;
        match self.caps.max {
            Some(max) if would_be > max => Err(Objection::Full { would_be, max }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::slice_spec;

    fn policy(spec: serde_json::Value) -> Policy {
        Policy::new(&serde_json::from_value(spec).unwrap(), None)
    }

    fn admit(policy: &Policy, would_be: usize) -> Result<(), String> {
        let spec = serde_json::from_value(slice_spec(|_| {})).unwrap();
        policy.admit(&spec, would_be).map_err(|objection| objection.to_string())
    }

    #[test]
    fn without_a_policy_everything_restricted_may_come_and_before_it_is_read_nothing() {
        assert_eq!(policy(json!({})), Policy::default());
        assert_eq!(admit(&Policy::default(), 1_000_000), Ok(()));
        assert!(admit(&Policy::unread(), 1).unwrap_err().contains("not been read"));
        assert!(!Policy::unread().is_read() && Policy::default().is_read());
        assert_eq!(Policy::unread().availability, Availability::Paused);
    }

    #[test]
    fn nothing_comes_to_a_site_that_is_paused_draining_full_or_not_understood() {
        for (spec, would_be, says) in [
            (json!({"availability": "Paused"}), 1, "paused"),
            (json!({"availability": "Draining"}), 1, "drains"),
            (
                json!({"members": {"max": 2}}),
                3,
                "there would be 3 members on this Site, and its supplier lets 2 be here",
            ),
            (json!({"members": {"max": 0}}), 1, "lets 0 be here"),
            (json!({"members": {"cpu": "much"}}), 1, "cannot be understood"),
            (json!({"images": {"requireDigest": true}}), 1, "by digest only"),
            (json!({"images": {"registries": ["registry.example"]}}), 1, "docker.io/library/x"),
        ] {
            let why = admit(&policy(spec.clone()), would_be).expect_err(&spec.to_string());
            assert!(why.contains(says), "{spec}: {why}");
        }
        assert_eq!(admit(&policy(json!({"members": {"max": 2}})), 2), Ok(()));
    }
}
