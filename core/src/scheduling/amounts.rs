//! Amounts of resources.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The resource that counts pods: each pod takes [`POD_SLOT`] of it.
pub const RESOURCE_PODS: &str = "pods";
/// What one pod takes of [`RESOURCE_PODS`].
pub const POD_SLOT: i128 = 1000;

const CPU: &str = "cpu";
const MEMORY: &str = "memory";
const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

/// Amounts of resources by name, in thousandths of their unit: one GPU is 1000, one core is 1000, one byte is 1000.
///
/// The resources that every pod asks for have places of their own, so that comparing a pod with a node is a handful of
/// integer comparisons. No entry of `others` is zero, so that equal amounts compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amounts {
    cpu: i128,
    memory: i128,
    ephemeral_storage: i128,
    pods: i128,
    /// Devices and everything else, by name.
    others: Vec<(Arc<str>, i128)>,
}

impl Amounts {
    /// Amount of one resource; 0 when there is none.
    #[must_use]
    pub fn get(&self, resource: &str) -> i128 {
        match resource {
            CPU => self.cpu,
            MEMORY => self.memory,
            EPHEMERAL_STORAGE => self.ephemeral_storage,
            RESOURCE_PODS => self.pods,
            _ => self.find(resource).map_or(0, |at| self.others[at].1),
        }
    }

    /// Replaces the amount of one resource.
    pub fn set(&mut self, resource: &str, milli: i128) {
        match resource {
            CPU => self.cpu = milli,
            MEMORY => self.memory = milli,
            EPHEMERAL_STORAGE => self.ephemeral_storage = milli,
            RESOURCE_PODS => self.pods = milli,
            _ => match (self.find(resource), milli) {
                (Ok(at), 0) => {
                    self.others.remove(at);
                }
                (Ok(at), _) => self.others[at].1 = milli,
                (Err(_), 0) => {}
                (Err(at), _) => self.others.insert(at, (Arc::from(resource), milli)),
            },
        }
    }

    /// Adds every amount of `other`.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, |mine, theirs| mine + theirs);
    }

    /// Takes every amount of `other` away.
    pub fn subtract(&mut self, other: &Self) {
        self.merge(other, |mine, theirs| mine - theirs);
    }

    /// Raises every amount to that of `other` where that is more.
    pub fn raise_to(&mut self, other: &Self) {
        self.merge(other, i128::max);
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every resource with its amount: CPU, memory, ephemeral storage, pods, then the others by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i128)> {
        [
            (CPU, self.cpu),
            (MEMORY, self.memory),
            (EPHEMERAL_STORAGE, self.ephemeral_storage),
            (RESOURCE_PODS, self.pods),
        ]
        .into_iter()
        .filter(|(_, milli)| *milli != 0)
        .chain(self.others.iter().map(|(resource, milli)| (&**resource, *milli)))
    }

    /// The extended resource (a device, such as "nvidia.com/gpu") that most is asked of.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.iter()
            .filter(|(r, _)| is_device(r))
            .max_by_key(|(r, milli)| (*milli, std::cmp::Reverse(*r)))
            .map(|(r, _)| r)
    }

    /// How many times `requests` goes into what `self` leaves of `allocatable`; `u32::MAX` when it asks for nothing.
    #[must_use]
    pub fn copies(&self, allocatable: &Self, requests: &Self) -> u32 {
        let times = |asked: i128, free: i128| {
            if asked <= 0 { u32::MAX } else { u32::try_from((free / asked).max(0)).unwrap_or(u32::MAX) }
        };
        let mut copies = times(requests.cpu, allocatable.cpu - self.cpu)
            .min(times(requests.memory, allocatable.memory - self.memory))
            .min(times(requests.ephemeral_storage, allocatable.ephemeral_storage - self.ephemeral_storage))
            .min(times(requests.pods, allocatable.pods - self.pods));
        for (resource, asked) in &requests.others {
            if copies == 0 {
                break;
            }
            copies = copies.min(times(*asked, allocatable.get(resource) - self.get(resource)));
        }
        copies
    }

    fn find(&self, resource: &str) -> Result<usize, usize> {
        self.others.binary_search_by(|(name, _)| (**name).cmp(resource))
    }

    fn merge(&mut self, other: &Self, with: impl Fn(i128, i128) -> i128) {
        self.cpu = with(self.cpu, other.cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = with(self.pods, other.pods);
        for (resource, theirs) in &other.others {
            match self.find(resource) {
                Ok(at) => {
                    self.others[at].1 = with(self.others[at].1, *theirs);
                    if self.others[at].1 == 0 {
                        self.others.remove(at);
                    }
                }
                Err(at) => {
                    let milli = with(0, *theirs);
                    if milli != 0 {
                        self.others.insert(at, (Arc::clone(resource), milli));
                    }
                }
            }
        }
    }
}

impl FromIterator<(String, i128)> for Amounts {
    fn from_iter<I: IntoIterator<Item = (String, i128)>>(amounts: I) -> Self {
        let mut all = BTreeMap::<String, i128>::new();
        for (resource, milli) in amounts {
            *all.entry(resource).or_default() += milli;
        }
        let mut amounts = Self::default();
        for (resource, milli) in all {
            amounts.set(&resource, milli);
        }
        amounts
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
