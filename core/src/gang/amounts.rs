//! Amounts of resources.

use std::collections::BTreeMap;
use std::fmt;

/// The resource that counts pods: each pod takes [`POD_SLOT`] of it.
pub const RESOURCE_PODS: &str = "pods";
/// What one pod takes of [`RESOURCE_PODS`].
pub const POD_SLOT: i128 = 1000;

/// Amounts of resources by name, in thousandths of their unit: one GPU is 1000, one core is 1000, one byte is 1000.
///
/// No entry is zero, so that equal amounts compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amounts(BTreeMap<String, i128>);

impl Amounts {
    /// Amount of one resource; 0 when there is none.
    #[must_use]
    pub fn get(&self, resource: &str) -> i128 {
        self.0.get(resource).copied().unwrap_or(0)
    }

    /// Replaces the amount of one resource.
    pub fn set(&mut self, resource: &str, milli: i128) {
        if milli == 0 {
            self.0.remove(resource);
        } else if let Some(amount) = self.0.get_mut(resource) {
            *amount = milli;
        } else {
            self.0.insert(resource.to_owned(), milli);
        }
    }

    /// Adds every amount of `other`.
    pub fn add(&mut self, other: &Self) {
        for (resource, milli) in other.iter() {
            self.set(resource, self.get(resource) + milli);
        }
    }

    /// Takes every amount of `other` away.
    pub fn subtract(&mut self, other: &Self) {
        for (resource, milli) in other.iter() {
            self.set(resource, self.get(resource) - milli);
        }
    }

    /// Raises every amount to that of `other` where that is more.
    pub fn raise_to(&mut self, other: &Self) {
        for (resource, milli) in other.iter() {
            if milli > self.get(resource) {
                self.set(resource, milli);
            }
        }
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every resource with its amount, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i128)> {
        self.0.iter().map(|(resource, milli)| (resource.as_str(), *milli))
    }

    /// The extended resource (a device, such as "nvidia.com/gpu") that most is asked of.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.iter()
            .filter(|(r, _)| is_device(r))
            .max_by_key(|(r, milli)| (*milli, std::cmp::Reverse(*r)))
            .map(|(r, _)| r)
    }
}

impl FromIterator<(String, i128)> for Amounts {
    fn from_iter<I: IntoIterator<Item = (String, i128)>>(amounts: I) -> Self {
        let mut all = Self::default();
        for (resource, milli) in amounts {
            all.set(&resource, all.get(&resource) + milli);
        }
        all
    }
}

/// Whether a resource is an extended one: devices, counted in whole ones.
pub(super) fn is_device(resource: &str) -> bool {
    resource.contains('/')
}

/// For people: "8 nvidia.com/gpu, 500m cpu, 16Gi memory"; the pod's own slot is left out.
impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices = self.iter().filter(|(r, _)| is_device(r));
        let rest = self.iter().filter(|(r, _)| !is_device(r) && *r != RESOURCE_PODS);
        let mut first = true;
        for (resource, milli) in devices.chain(rest) {
            if !first {
                f.write_str(", ")?;
            }
            first = false;
            write!(f, "{} {resource}", Amount(milli))?;
        }
        if first {
            f.write_str("room for a pod")?;
        }
        Ok(())
    }
}

/// One amount for people: binary suffixes where they lose nothing, thousandths with an "m".
pub(super) struct Amount(pub(super) i128);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % 1000 != 0 {
            return write!(f, "{}m", self.0);
        }
        let mut value = self.0 / 1000;
        let mut suffix = "";
        for next in ["Ki", "Mi", "Gi", "Ti", "Pi"] {
            if value == 0 || value % 1024 != 0 {
                break;
            }
            value /= 1024;
            suffix = next;
        }
        write!(f, "{value}{suffix}")
    }
}
