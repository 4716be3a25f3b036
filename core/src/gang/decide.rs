//! The decision: every member gets a node, or the gang is refused.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::amounts::{Amounts, is_device};
use super::node::{NodeState, Nodes, Shape, short, unsuitable};
use super::refusal::GangRefusal;

/// How many placements of one member are tried before a gang of several shapes is given up. Gangs of one shape, the
/// usual ones, are decided exactly without trying.
const MAX_TRIES: u32 = 20_000;

/// A member that has no node yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRequest {
    /// Name of its pod.
    pub pod: String,
    /// What its pod asks for.
    pub shape: Arc<Shape>,
    /// The node to take if it fits: held for it already, or chosen by the hub.
    pub node: Option<String>,
}

/// Members that get a node each, or none.
///
/// What this gang holds already must not count in the [`Nodes`] that it is decided on, and members that are bound
/// are not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GangRequest {
    /// The members.
    pub members: Vec<MemberRequest>,
}

/// A node for each member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Names of nodes, in the order of the request's members.
    pub nodes: Vec<String>,
}

/// Gives every member a node with room for it, or says why not.
///
/// Members get the node that they name where that fits; the others the node that is left fullest, GPUs first, so
/// that whole nodes stay free for members that need them. Equal nodes are taken by name. A gang of one shape is
/// refused only if no assignment exists; with several shapes a bounded search looks for one before it is refused.
///
/// # Errors
/// [`GangRefusal`] when the members do not fit all together.
pub fn decide(nodes: &Nodes, request: &GangRequest) -> Result<Assignment, Box<GangRefusal>> {
    let kinds = Kinds::of(request);
    if let Some(assignment) = greedy(nodes, request, &kinds) {
        return Ok(assignment);
    }
    for (kind, shape) in kinds.shapes.iter().enumerate() {
        let wanted = kinds.members(kind).count();
        let room = room_for(nodes, shape, wanted);
        if room < wanted {
            return Err(Box::new(GangRefusal::of_shape(nodes, shape, wanted, room)));
        }
    }
    search(nodes, request, &kinds).ok_or_else(|| Box::new(GangRefusal::together(nodes, request.members.len())))
}

/// The distinct shapes of a request, and which one each member has.
struct Kinds<'a> {
    shapes: Vec<&'a Shape>,
    of_member: Vec<usize>,
}

impl<'a> Kinds<'a> {
    fn of(request: &'a GangRequest) -> Self {
        let mut known: BTreeMap<&Shape, usize> = BTreeMap::new();
        let mut shapes: Vec<&Shape> = Vec::new();
        let mut of_member = Vec::with_capacity(request.members.len());
        let mut last: Option<(&Arc<Shape>, usize)> = None;
        for member in &request.members {
            let kind = match last {
                Some((shape, kind)) if Arc::ptr_eq(shape, &member.shape) => kind,
                _ => *known.entry(&member.shape).or_insert_with(|| {
                    shapes.push(&member.shape);
                    shapes.len() - 1
                }),
            };
            last = Some((&member.shape, kind));
            of_member.push(kind);
        }
        Self { shapes, of_member }
    }

    fn members(&self, kind: usize) -> impl Iterator<Item = usize> {
        self.of_member.iter().enumerate().filter(move |(_, k)| **k == kind).map(|(member, _)| member)
    }
}

/// The nodes with what a decision has put on them so far.
struct Trial<'a> {
    nodes: &'a Nodes,
    put: HashMap<&'a str, Amounts>,
}

impl<'a> Trial<'a> {
    fn new(nodes: &'a Nodes) -> Self {
        Self { nodes, put: HashMap::new() }
    }

    fn has_room(&self, node: &str, shape: &Shape) -> bool {
        self.nodes
            .room(node)
            .is_some_and(|(name, state, used)| short(state, used, self.put.get(name), &shape.requests).is_none())
    }

    fn put(&mut self, node: &'a str, shape: &Shape) {
        self.put.entry(node).or_default().add(&shape.requests);
    }

    fn take_back(&mut self, node: &str, shape: &Shape) {
        if let Some(put) = self.put.get_mut(node) {
            put.subtract(&shape.requests);
        }
    }

    /// Every node that suits the shape and has room for one, the one that is left fullest first.
    fn candidates(&self, shape: &Shape) -> Vec<&'a str> {
        let asked = shape.requests.device().unwrap_or("cpu");
        let mut candidates: Vec<_> = self
            .nodes
            .rooms()
            .filter(|(name, state, used)| {
                unsuitable(state, shape).is_none() && short(state, used, self.put.get(name), &shape.requests).is_none()
            })
            .map(|(name, state, used)| {
                let put = self.put.get(name).map_or(0, |p| p.get(asked));
                let free = state.allocatable.get(asked) - used.get(asked) - put;
                (wasted(state, used, shape), free, name)
            })
            .collect();
        candidates.sort_unstable();
        candidates.into_iter().map(|(_, _, name)| name).collect()
    }
}

/// Free devices that the shape does not ask for: a pod without a GPU should not fill up a node with free ones.
fn wasted(state: &NodeState, used: &Amounts, shape: &Shape) -> i128 {
    state
        .allocatable
        .iter()
        .filter(|(resource, _)| is_device(resource) && shape.requests.get(resource) == 0)
        .map(|(resource, milli)| (milli - used.get(resource)).max(0))
        .sum()
}

fn greedy(nodes: &Nodes, request: &GangRequest, kinds: &Kinds<'_>) -> Option<Assignment> {
    let mut trial = Trial::new(nodes);
    let mut chosen: Vec<Option<&str>> = vec![None; request.members.len()];
    for (member, chosen) in request.members.iter().zip(&mut chosen) {
        let named = member.node.as_deref().and_then(|name| nodes.room(name));
        if let Some((name, state, _)) = named
            && unsuitable(state, &member.shape).is_none()
            && trial.has_room(name, &member.shape)
        {
            trial.put(name, &member.shape);
            *chosen = Some(name);
        }
    }
    for kind in kinds.by_size() {
        let shape = kinds.shapes[kind];
        let mut rest = kinds.members(kind).filter(|m| chosen[*m].is_none()).collect::<Vec<_>>().into_iter().peekable();
        if rest.peek().is_none() {
            continue;
        }
        for node in trial.candidates(shape) {
            while trial.has_room(node, shape)
                && let Some(member) = rest.next()
            {
                trial.put(node, shape);
                chosen[member] = Some(node);
            }
        }
        if rest.peek().is_some() {
            return None;
        }
    }
    Some(Assignment { nodes: chosen.into_iter().flatten().map(str::to_owned).collect() })
}

impl Kinds<'_> {
    /// Kinds, the hardest to place first.
    fn by_size(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.shapes.len()).collect();
        order.sort_by_key(|kind| {
            let requests = &self.shapes[*kind].requests;
            Reverse((requests.device().map_or(0, |d| requests.get(d)), requests.get("cpu"), requests.get("memory")))
        });
        order
    }
}

/// How many members of this shape fit if there is nothing else, counted up to `most`.
fn room_for(nodes: &Nodes, shape: &Shape, most: usize) -> usize {
    let mut room = 0_usize;
    for (_, state, used) in nodes.rooms() {
        if unsuitable(state, shape).is_some() {
            continue;
        }
        let copies = shape
            .requests
            .iter()
            .filter(|(_, milli)| *milli > 0)
            .map(|(r, milli)| (state.allocatable.get(r) - used.get(r)).max(0) / milli)
            .min();
        let copies = copies.and_then(|c| usize::try_from(c).ok()).unwrap_or(usize::MAX);
        room = room.saturating_add(copies);
        if room >= most {
            return most;
        }
    }
    room
}

/// Looks for an assignment of members of several shapes, without regard to the nodes that they name.
fn search(nodes: &Nodes, request: &GangRequest, kinds: &Kinds<'_>) -> Option<Assignment> {
    let mut trial = Trial::new(nodes);
    let candidates: Vec<Vec<&str>> = kinds.shapes.iter().map(|shape| trial.candidates(shape)).collect();
    // The fewest choices first: what cannot be had is found out early.
    let mut order: Vec<usize> = kinds.by_size();
    order.sort_by_key(|kind| candidates[*kind].len());
    let order: Vec<usize> = order.into_iter().flat_map(|kind| kinds.members(kind)).collect();
    let mut choice: Vec<usize> = Vec::with_capacity(order.len());
    let mut tries = 0;
    let mut from = 0;
    while choice.len() < order.len() {
        let kind = kinds.of_member[order[choice.len()]];
        let shape = kinds.shapes[kind];
        let mut next = from;
        while next < candidates[kind].len() && !trial.has_room(candidates[kind][next], shape) {
            next += 1;
            tries += 1;
        }
        tries += 1;
        if tries > MAX_TRIES {
            return None;
        }
        if let Some(node) = candidates[kind].get(next) {
            trial.put(node, shape);
            choice.push(next);
            // Members of one shape are alike, so only ascending choices are looked at.
            let alike = choice.len() < order.len() && kinds.of_member[order[choice.len()]] == kind;
            from = if alike { next } else { 0 };
        } else {
            let last = choice.pop()?;
            let kind = kinds.of_member[order[choice.len()]];
            trial.take_back(candidates[kind][last], kinds.shapes[kind]);
            from = last + 1;
        }
    }
    let mut chosen: Vec<&str> = vec![""; order.len()];
    for (member, choice) in order.iter().zip(&choice) {
        chosen[*member] = candidates[kinds.of_member[*member]][*choice];
    }
    keep_named(request, kinds, &mut chosen);
    Some(Assignment { nodes: chosen.into_iter().map(str::to_owned).collect() })
}

/// Swaps nodes among members of one shape, so that as many as possible get the node that they name.
fn keep_named(request: &GangRequest, kinds: &Kinds<'_>, chosen: &mut [&str]) {
    for kind in 0..kinds.shapes.len() {
        let members: Vec<usize> = kinds.members(kind).collect();
        let named = |member: usize| request.members[member].node.as_deref();
        for &member in &members {
            if named(member).is_none() || named(member) == Some(chosen[member]) {
                continue;
            }
            let other = members.iter().find(|o| Some(chosen[**o]) == named(member) && named(**o) != Some(chosen[**o]));
            if let Some(&other) = other {
                chosen.swap(member, other);
            }
        }
    }
}
