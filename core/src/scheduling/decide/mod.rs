//! The decision: every member gets a node, or the gang is refused.

mod class;
mod cost;
mod coupled;
mod domains;
mod mixed;
mod pricing;
mod request;
#[cfg(test)]
mod tests;
mod topology;
mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::request::{Assignment, GangRequest, Level, MemberRequest};

use self::class::Classes;
use self::domains::View;
use self::request::Kinds;
use self::topology::Keys;
use self::trial::Trial;
use super::between::is_coupled;
use super::filter::{Why, why_not};
use super::nodes::{NodeIx, Nodes};
use super::pod::Shape;
use super::refusal::{DomainRoom, GangRefusal};

/// Decides gangs on the nodes of one Site.
///
/// Remembers of the shapes that it met lately which nodes have room for them, and looks at changed nodes only. That makes
/// it fast and changes no answer. Which of the nodes with room is taken is up to [`crate::packing`], which learns what pods
/// usually ask for ([`Decider::observe`]). One belongs to one [`Nodes`], from the first decision on.
#[derive(Clone, Debug, Default)]
pub struct Decider {
    classes: Classes,
}

impl Decider {
    /// Some pods of a shape were placed: what is asked for is kept possible. Decisions alone teach nothing, as many are
    /// about what might be, and one request may be decided often.
    pub fn observe(&mut self, shape: &Shape, count: u32) {
        self.classes.pricing.observe(shape, count);
    }

    /// Gives every member a node with room for it, or says why not. The nodes are left as they were.
    ///
    /// Members get the node that they name where that fits. The others are put together as the gang's topology asks,
    /// and within that on the nodes that they prefer, of these on those where they take the least from what is usually
    /// asked for; equal nodes are taken by name. Members of one shape are in rank order along the topology.
    ///
    /// A gang of one shape is refused only if no assignment exists, and where it may be smaller than it wishes, it
    /// gets as many members as fit. With several shapes a bounded search looks for an assignment before it is refused.
    /// Members whose nodes depend on who is on other nodes are placed one after the other, without going back.
    ///
    /// # Errors
    /// [`GangRefusal`] when the members do not fit all together.
    pub fn decide(&mut self, nodes: &mut Nodes, request: &GangRequest) -> Result<Assignment, Box<GangRefusal>> {
        self.assign(nodes, request).ok_or_else(|| Box::new(self.refusal(nodes, request)))
    }

    /// [`Decider::decide`] for those who do not ask why: to find out why looks at every node.
    pub fn assign(&mut self, nodes: &mut Nodes, request: &GangRequest) -> Option<Assignment> {
        self.classes.pricing.open();
        let kinds = Kinds::of(&request.members);
        let keys = Keys::of(&request.topology);
        if any_coupled(nodes, request) {
            return Trial::new(&mut self.classes, nodes, request, &kinds, &keys).most(coupled::place);
        }
        match &kinds.shapes[..] {
            [] => Some(Assignment::default()),
            [shape] => self.assign_alike(nodes, request, shape, &keys),
            _ => Trial::new(&mut self.classes, nodes, request, &kinds, &keys).most(mixed::place),
        }
    }

    /// Why such a gang, which was not assigned, does not fit.
    fn refusal(&mut self, nodes: &mut Nodes, request: &GangRequest) -> GangRefusal {
        self.classes.pricing.close();
        let kinds = Kinds::of(&request.members);
        let keys = Keys::of(&request.topology);
        if any_coupled(nodes, request) {
            return coupled::refusal(&mut Trial::new(&mut self.classes, nodes, request, &kinds, &keys));
        }
        self.short_of_one(nodes, request, &kinds, &keys).unwrap_or_else(|| together(nodes, request, &keys))
    }

    /// Whether the gang may fit: `false` says that [`Decider::decide`] would refuse it. Exact for a gang of one shape
    /// whose nodes do not depend on who is on other nodes.
    pub fn might_fit(&mut self, nodes: &Nodes, request: &GangRequest) -> bool {
        self.classes.pricing.close();
        let kinds = Kinds::of(&request.members);
        let keys = Keys::of(&request.topology);
        let wanted = kinds.counts(request.least());
        let mut common: Option<Vec<Vec<Option<Arc<str>>>>> = None;
        for (shape, wanted) in kinds.shapes.iter().zip(wanted).filter(|(_, wanted)| *wanted > 0) {
            let view = View::new(self.classes.get(nodes, shape, &keys), &keys, &request.closed);
            let fitting = view.groups().into_iter().filter(|group| group.room >= wanted);
            let fitting: Vec<_> = match &common {
                None => fitting.map(|group| group.values.to_vec()).collect(),
                Some(common) => fitting
                    .filter(|group| common.binary_search_by(|values| values[..].cmp(group.values)).is_ok())
                    .map(|group| group.values.to_vec())
                    .collect(),
            };
            if fitting.is_empty() {
                return false;
            }
            common = Some(fitting);
        }
        true
    }

    /// A gang of one shape: exact, by counting.
    fn assign_alike(
        &mut self,
        nodes: &Nodes,
        request: &GangRequest,
        shape: &Arc<Shape>,
        keys: &Keys,
    ) -> Option<Assignment> {
        let mut view = View::new(self.classes.get(nodes, shape, keys), keys, &request.closed);
        let groups = view.groups();
        let most = groups.iter().map(|group| group.room).max()?;
        let count = request.members.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        if count < request.least() {
            return None;
        }
        let wishes = wishes(nodes, &request.members[..count], &view);
        let named: Vec<NodeIx> = wishes.iter().map(|(_, ix)| *ix).collect();
        let group = view.choose(&groups, count as u64, &named)?;
        let mut chosen: Vec<Option<NodeIx>> = vec![None; request.members.len()];
        let mut fixed = Vec::with_capacity(wishes.len());
        for (member, ix) in wishes {
            if view.is_in(&group, ix) {
                chosen[member] = Some(ix);
                fixed.push(ix);
            }
        }
        let rest = view.fill(&group, (count - fixed.len()) as u64, &fixed);
        let open = chosen[..count].iter_mut().filter(|node| node.is_none());
        for (node, ix) in open.zip(rest) {
            *node = Some(ix);
        }
        Some(Assignment::of(nodes, &chosen))
    }

    /// The refusal, if there is too little room for the members of one of the shapes whatever becomes of the others.
    fn short_of_one(
        &mut self,
        nodes: &Nodes,
        request: &GangRequest,
        kinds: &Kinds,
        keys: &Keys,
    ) -> Option<GangRefusal> {
        let wanted = kinds.counts(request.least());
        let all = kinds.counts(request.members.len());
        for (kind, shape) in kinds.shapes.iter().enumerate() {
            let class = self.classes.get(nodes, shape, keys);
            let groups = View::new(class, keys, &request.closed).groups();
            let best = groups.iter().max_by(|a, b| a.room.cmp(&b.room).then_with(|| b.values.cmp(a.values)));
            if best.map_or(0, |best| best.room) >= wanted[kind] {
                continue;
            }
            let members = usize::try_from(all[kind]).unwrap_or(usize::MAX);
            let counted = |room: u64| usize::try_from(room).unwrap_or(usize::MAX).min(members);
            let is_reserved = |ix| request.closed.contains(&ix);
            let outside = |ix| if class.domain_of(keys, ix).is_some() { None } else { no_domain(nodes, ix, keys) };
            let why = |ix| why_not(nodes, ix, shape).or_else(|| outside(ix));
            return Some(GangRefusal {
                members,
                minimum: usize::try_from(wanted[kind]).unwrap_or(usize::MAX),
                room_for: counted(groups.iter().map(|group| group.room).sum()),
                domain: keys.kind().map(|kind| DomainRoom {
                    kind: kind.to_owned(),
                    best: best.filter(|best| best.room > 0).and_then(|best| domain_name(best.values)),
                    room_for: counted(best.map_or(0, |best| best.room)),
                }),
                ..GangRefusal::of_shape(nodes, shape, is_reserved, why)
            });
        }
        None
    }
}

/// The members that name a node that has room for them, with the node.
fn wishes(nodes: &Nodes, members: &[MemberRequest], view: &View<'_>) -> Vec<(usize, NodeIx)> {
    let mut granted: BTreeMap<NodeIx, u32> = BTreeMap::new();
    let mut wishes = Vec::new();
    for (member, request) in members.iter().enumerate() {
        let Some(ix) = request.node.as_deref().and_then(|name| nodes.ix(name)) else { continue };
        let granted = granted.entry(ix).or_default();
        if *granted < view.copies(ix) {
            *granted += 1;
            wishes.push((member, ix));
        }
    }
    wishes
}

fn any_coupled(nodes: &Nodes, request: &GangRequest) -> bool {
    let mut last: Option<&MemberRequest> = None;
    request.members.iter().any(|member| {
        let alike = last.is_some_and(|last| {
            Arc::ptr_eq(&last.shape, &member.shape) && Arc::ptr_eq(&last.identity, &member.identity)
        });
        last = Some(member);
        !alike && is_coupled(nodes, &member.shape, &member.identity)
    })
}

/// Members of several shapes that would fit each, but were not found to fit together.
fn together(nodes: &Nodes, request: &GangRequest, keys: &Keys) -> GangRefusal {
    GangRefusal {
        members: request.members.len(),
        minimum: request.least(),
        domain: keys.kind().map(|kind| DomainRoom { kind: kind.to_owned(), best: None, room_for: 0 }),
        ..GangRefusal::together(nodes)
    }
}

fn no_domain(nodes: &Nodes, ix: NodeIx, keys: &Keys) -> Option<Why> {
    let (state, _) = nodes.node(ix)?;
    keys.lacks(state).map(|label| Why::NoDomain(label.to_owned()))
}

/// The finest of the required values, which people know a domain by.
fn domain_name(values: &[Option<Arc<str>>]) -> Option<String> {
    values.iter().flatten().next_back().map(|value| (**value).to_owned())
}
