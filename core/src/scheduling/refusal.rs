//! Why a gang does not fit, with numbers.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::BitOr;

use super::amounts::{Amount, Amounts};
use super::filter::Why;
use super::node::{Effect, Taint};
use super::nodes::{NodeIx, Nodes};
use super::pod::Shape;

/// The most kinds of reasons that a message lists; the rest are summed up.
const MAX_REASONS: usize = 6;
/// Taints by which a Site says that a node does not answer.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Kinds of events that may turn a refusal. Who was refused need not be tried again before one of them.
///
/// That nodes which were closed for others are open again is none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Helps(u8);

impl Helps {
    /// A node came, or changed.
    pub const NODES: Self = Self(1);
    /// A pod went from a node, or takes less there.
    pub const ROOM: Self = Self(1 << 1);
    /// Pods came or went, or have other labels: affinities and spread constraints look at them.
    pub const PODS: Self = Self(1 << 2);
    /// Claims, volumes, or how many of them a node can attach.
    pub const VOLUMES: Self = Self(1 << 3);

    /// Whether an event of these kinds may help.
    #[must_use]
    pub fn intersects(self, events: Self) -> bool {
        self.0 & events.0 != 0
    }
}

impl BitOr for Helps {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl From<&Why> for Helps {
    /// What may make this reason go away.
    fn from(why: &Why) -> Self {
        match why {
            Why::Unusable
            | Why::Cordoned
            | Why::Tainted(_)
            | Why::NotSelected
            | Why::TooSmall(_)
            | Why::NoDomain(_) => Self::NODES,
            Why::PortTaken | Why::InUse(_) => Self::ROOM,
            Why::VolumeElsewhere => Self::NODES | Self::VOLUMES,
            Why::VolumeTaken => Self::ROOM | Self::VOLUMES,
            Why::TooManyVolumes(_) => Self::NODES | Self::ROOM | Self::VOLUMES,
            Why::NotBeside | Why::Repels | Why::Repelled | Why::Uneven | Why::OutsideDomain => Self::ROOM | Self::PODS,
        }
    }
}

/// What a refused gang finds in the domains of which it requires one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainRoom {
    /// What such a domain is called, from its label: "rack".
    pub kind: String,
    /// The domain with the most room, by the values of its labels; `None` when none has any.
    pub best: Option<String>,
    /// How many members there is room for in it.
    pub room_for: usize,
}

/// Why the members of a gang do not fit all together. Its text is what people read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct GangRefusal {
    /// Members that were asked for, of the shape that does not fit.
    pub members: usize,
    /// The fewest of them that would do.
    pub minimum: usize,
    /// How many of them there is room for, wherever they are.
    pub room_for: usize,
    /// The domains, when members are required to be in one together.
    pub domain: Option<DomainRoom>,
    /// What each of them takes; empty when every shape fits alone but not all together.
    pub needs: Amounts,
    /// Nodes of the Site.
    pub nodes: usize,
    /// Nodes that are out, by the first reason.
    pub out: BTreeMap<Why, usize>,
    /// Nodes that have room and are reserved for another gang, which waits.
    pub reserved: usize,
    /// The scarce device, and the most that is free of it on one suitable node, in thousandths.
    pub most_free: Option<(String, i128)>,
    /// What may turn the refusal.
    pub helped_by: Helps,
}

impl GangRefusal {
    /// Members of one shape do not find enough room. `why` says why a node is out; the nodes must be as they were
    /// when the room was counted.
    pub(super) fn of_shape(
        nodes: &Nodes,
        shape: &Shape,
        is_reserved: impl Fn(NodeIx) -> bool,
        why: impl Fn(NodeIx) -> Option<Why>,
    ) -> Self {
        let mut refusal = Self { needs: shape.requests.clone(), ..Self::empty() };
        let device = shape.requests.device();
        for (ix, state, room) in nodes.iter() {
            refusal.nodes += 1;
            let why = why(ix);
            if why.is_none() && is_reserved(ix) {
                refusal.reserved += 1;
                continue;
            }
            if let Some(device) = device
                && matches!(why, None | Some(Why::TooSmall(_) | Why::InUse(_)))
            {
                let free = (state.allocatable.get(device) - room.used.get(device)).max(0);
                let most = refusal.most_free.get_or_insert_with(|| (device.to_owned(), 0));
                most.1 = most.1.max(free);
            }
            match why {
                Some(why) => *refusal.out.entry(plain(why)).or_default() += 1,
                None => refusal.helped_by = refusal.helped_by | Helps::ROOM,
            }
        }
        let by_reason = refusal.out.keys().map(Helps::from);
        refusal.helped_by = by_reason.fold(refusal.helped_by | Helps::NODES, BitOr::bitor);
        if refusal.reserved > 0 {
            refusal.helped_by = refusal.helped_by | Helps::ROOM;
        }
        refusal
    }

    /// Members of several shapes each find enough room, but not all together.
    pub(super) fn together(nodes: &Nodes) -> Self {
        Self { nodes: nodes.iter().count(), helped_by: Helps::NODES | Helps::ROOM, ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            members: 1,
            minimum: 1,
            room_for: 0,
            domain: None,
            needs: Amounts::default(),
            nodes: 0,
            out: BTreeMap::new(),
            reserved: 0,
            most_free: None,
            helped_by: Helps::default(),
        }
    }

    fn write_ask(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.members == 1 {
            return write!(f, "needs {} on one node; ", self.needs);
        }
        if self.minimum < self.members {
            write!(f, "at least {} of ", self.minimum)?;
        }
        write!(f, "{} members need {} each", self.members, self.needs)?;
        let Some(domain) = &self.domain else { return write!(f, "; room for {} of them; ", self.room_for) };
        let kind = &domain.kind;
        write!(f, " in one {kind}; ")?;
        match &domain.best {
            Some(name) => {
                write!(f, "the best {kind} ({name}) has room for {} of {}; ", domain.room_for, self.members)
            }
            None => write!(f, "no {kind} has room for any; "),
        }
    }
}

/// A node that is not ready has a taint of either effect, or both; for people that is one reason.
fn plain(why: Why) -> Why {
    match why {
        Why::Tainted(taint) if is_silent(&taint) => {
            Why::Tainted(Taint { value: String::new(), effect: Effect::NoSchedule, ..taint })
        }
        why => why,
    }
}

fn is_not_ready(why: &Why) -> bool {
    matches!(why, Why::Tainted(taint) if is_silent(taint))
}

fn is_silent(taint: &Taint) -> bool {
    taint.key == NOT_READY || taint.key == UNREACHABLE
}

impl fmt::Display for GangRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.needs.is_empty() {
            write!(
                f,
                "each member of the {} would fit alone on the {} nodes, but not all together",
                self.members, self.nodes
            )?;
            return self.domain.as_ref().map_or(Ok(()), |domain| write!(f, " in one {}", domain.kind));
        }
        self.write_ask(f)?;
        if self.nodes == 0 {
            return f.write_str("there are no nodes");
        }
        let out = self.out.values().sum::<usize>() + self.reserved;
        write!(f, "{} of {} nodes have room", self.nodes - out, self.nodes)?;
        let mut reasons: Vec<(Option<&Why>, usize)> = self.out.iter().map(|(why, count)| (Some(why), *count)).collect();
        if self.reserved > 0 {
            reasons.push((None, self.reserved));
        }
        reasons.sort_by_key(|(why, count)| (Reverse(*count), !why.is_some_and(is_not_ready)));
        for (index, (why, count)) in reasons.iter().take(MAX_REASONS).enumerate() {
            f.write_str(if index == 0 { ": " } else { ", " })?;
            match why {
                Some(why) => write_reason(f, why, *count)?,
                None => write!(f, "{count} {} reserved for a waiting gang", if *count == 1 { "is" } else { "are" })?,
            }
        }
        let more: usize = reasons.iter().skip(MAX_REASONS).map(|(_, count)| count).sum();
        if more > 0 {
            write!(f, ", {more} for other reasons")?;
        }
        if let Some((device, milli)) = &self.most_free {
            write!(f, "; most free on one node: {} {device}", Amount(*milli))?;
        }
        Ok(())
    }
}

fn write_reason(f: &mut fmt::Formatter<'_>, why: &Why, count: usize) -> fmt::Result {
    let (is, have, lack) = if count == 1 { ("is", "has", "lacks") } else { ("are", "have", "lack") };
    match why {
        Why::Unusable => write!(f, "{count} cannot be used"),
        Why::Cordoned => write!(f, "{count} {is} cordoned"),
        Why::Tainted(taint) if taint.key == NOT_READY => write!(f, "{count} {is} not ready"),
        Why::Tainted(taint) if taint.key == UNREACHABLE => write!(f, "{count} {is} unreachable"),
        Why::Tainted(taint) => {
            let effect = match taint.effect {
                Effect::NoSchedule => "NoSchedule",
                Effect::NoExecute => "NoExecute",
                Effect::PreferNoSchedule => "PreferNoSchedule",
            };
            let equals = if taint.value.is_empty() { "" } else { "=" };
            write!(f, "{count} {have} the taint {}{equals}{}:{effect}", taint.key, taint.value)
        }
        Why::NotSelected => write!(f, "{count} {have} other labels than asked"),
        Why::PortTaken => write!(f, "{count} {have} a port in use that is asked for"),
        Why::TooSmall(resource) => write!(f, "{count} {have} too little {resource} in all"),
        Why::InUse(resource) => write!(f, "{count} {have} too little {resource} free"),
        Why::VolumeElsewhere => write!(f, "{count} cannot reach a volume"),
        Why::VolumeTaken => write!(f, "{count} {is} out because another pod has a volume that is asked for"),
        Why::TooManyVolumes(driver) => write!(f, "{count} cannot attach more volumes of {driver}"),
        Why::NotBeside => write!(f, "{count} {lack} a pod nearby that must be there"),
        Why::Repels => write!(f, "{count} {have} a pod nearby that must not be there"),
        Why::Repelled => write!(f, "{count} {have} a pod nearby that keeps this one away"),
        Why::Uneven => write!(f, "{count} would break the even spread"),
        Why::NoDomain(label) => write!(f, "{count} {lack} the label {label}"),
        Why::OutsideDomain => write!(f, "{count} {is} outside of the gang's domain"),
    }
}
