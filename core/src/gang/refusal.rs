//! Why a gang does not fit, with numbers.

use std::collections::BTreeMap;
use std::fmt;

use super::amounts::{Amount, Amounts};
use super::node::{Effect, Nodes, Shape, Why, why};

/// The most kinds of reasons that a message lists; the rest are summed up.
const MAX_REASONS: usize = 6;

/// Why the members of a gang do not fit all together. Its text is what people read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct GangRefusal {
    /// Members that were asked for, of the shape that does not fit.
    pub members: usize,
    /// How many of them there is room for.
    pub room_for: usize,
    /// What each of them takes; empty when every shape fits alone but not all together.
    pub needs: Amounts,
    /// Nodes of the Site.
    pub nodes: usize,
    /// Nodes that are out, by the first reason.
    pub out: BTreeMap<Why, usize>,
    /// The scarce device, and the most that is free of it on one suitable node, in thousandths.
    pub most_free: Option<(String, i128)>,
}

impl GangRefusal {
    pub(super) fn of_shape(nodes: &Nodes, shape: &Shape, members: usize, room_for: usize) -> Self {
        let mut refusal =
            Self { members, room_for, needs: shape.requests.clone(), nodes: 0, out: BTreeMap::new(), most_free: None };
        let device = shape.requests.device();
        for (_, state, used) in nodes.rooms() {
            refusal.nodes += 1;
            let why = why(state, used, shape);
            if let Some(device) = device
                && matches!(why, None | Some(Why::TooSmall(_) | Why::InUse(_)))
            {
                let free = (state.allocatable.get(device) - used.get(device)).max(0);
                let most = refusal.most_free.get_or_insert_with(|| (device.to_owned(), 0));
                most.1 = most.1.max(free);
            }
            if let Some(why) = why {
                *refusal.out.entry(why).or_default() += 1;
            }
        }
        refusal
    }

    pub(super) fn together(nodes: &Nodes, members: usize) -> Self {
        Self {
            members,
            room_for: 0,
            needs: Amounts::default(),
            nodes: nodes.iter().count(),
            out: BTreeMap::new(),
            most_free: None,
        }
    }
}

impl fmt::Display for GangRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.needs.is_empty() {
            return write!(
                f,
                "each member of the {} would fit alone on the {} nodes, but not all together",
                self.members, self.nodes
            );
        }
        if self.members == 1 {
            write!(f, "needs {} on one node; ", self.needs)?;
        } else {
            write!(f, "{} members need {} each; room for {} of them; ", self.members, self.needs, self.room_for)?;
        }
        if self.nodes == 0 {
            return f.write_str("there are no nodes");
        }
        let out: usize = self.out.values().sum();
        write!(f, "{} of {} nodes have room", self.nodes - out, self.nodes)?;
        let mut reasons: Vec<(&Why, usize)> = self.out.iter().map(|(why, count)| (why, *count)).collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (index, (why, count)) in reasons.iter().take(MAX_REASONS).enumerate() {
            f.write_str(if index == 0 { ": " } else { ", " })?;
            write_reason(f, why, *count)?;
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
    let (is, have) = if count == 1 { ("is", "has") } else { ("are", "have") };
    match why {
        Why::NotReady => write!(f, "{count} {is} not ready"),
        Why::Cordoned => write!(f, "{count} {is} cordoned"),
        Why::Tainted(taint) => {
            let effect = match taint.effect {
                Effect::NoSchedule => "NoSchedule",
                Effect::NoExecute => "NoExecute",
            };
            let equals = if taint.value.is_empty() { "" } else { "=" };
            write!(f, "{count} {have} the taint {}{equals}{}:{effect}", taint.key, taint.value)
        }
        Why::NotSelected => write!(f, "{count} {have} other labels than asked"),
        Why::TooSmall(resource) => write!(f, "{count} {have} too little {resource} in all"),
        Why::InUse(resource) => write!(f, "{count} {have} too little {resource} free"),
    }
}
