//! An operator: leads or waits, decides with `core::cluster`, commits, fences, writes slices.

mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use atoll_core::cluster::{
    self as core, Cause, Deletion, Member, MemberState, Millis, Reservation, SiteState, SiteView, Slice, SliceAction,
    Step,
};
use atoll_core::freeze::{Freeze, Loss};
use atoll_core::member::{MemberPhase, MemberReport, Reason};
use atoll_core::session::SeenLease;

use crate::hub::{Cache, Change, ClusterObject, Key, LeaseObject, SliceObject, Spec, Wants};
use crate::rule::Rule;
use crate::world::{ApiError, Proc, Time, World};

/// The operators' Lease.
const LEADER_LEASE: Duration = Duration::from_secs(15);
const NEVER: Millis = 1 << 50;
/// A write that a process was held up with comes so late at most.
pub const LATEST: Time = 40_000;

/// A request whose answer was lost is not taken any more after this.
const DOUBT: Duration = Duration::from_mins(1);

/// A write that can be repeated as it is.
type Write<R> = Rc<dyn Fn(&mut World) -> Result<R, ApiError>>;

/// An operator's memory.
#[derive(Debug, Default)]
pub struct Operator {
    cache: Cache,
    listed: bool,
    /// The operators' Lease as it was last seen to change, and when.
    leader: Option<(LeaseObject, Duration)>,
    /// Its term, and until when it writes.
    leads: Option<(u64, Duration)>,
    /// Since when Sites are seen lost: number of the session, and boot time.
    lost: BTreeMap<usize, (u64, Duration)>,
    leases: Vec<Option<SeenLease>>,
    freeze: Freeze,
    busy: BTreeSet<usize>,
    /// Commits under way.
    assumed: BTreeMap<usize, Vec<Member>>,
    blocked: BTreeMap<(usize, usize), Time>,
    /// Clusters of which a write was repeated, and until when the first attempt may come.
    doubts: BTreeMap<usize, Duration>,
    states: Vec<bool>,
    passing: bool,
}

/// Name of a Site.
#[must_use]
pub fn site_name(site: usize) -> String {
    format!("s{site}")
}

/// Name of a node.
#[must_use]
pub fn node_name(node: usize) -> String {
    format!("n{node}")
}

/// Number of a Site or node.
#[must_use]
pub fn number(name: &str) -> usize {
    name.get(1..).and_then(|rest| rest.parse().ok()).unwrap_or(0)
}

fn signed(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

/// What a report says of a member.
#[must_use]
pub fn state_of(report: &MemberReport) -> MemberState {
    match report.phase {
        MemberPhase::Pending => MemberState::Pending,
        MemberPhase::Starting => MemberState::Starting,
        MemberPhase::Ready => MemberState::Ready,
        MemberPhase::Stopping => MemberState::Stopping,
        MemberPhase::Succeeded => MemberState::Succeeded,
        MemberPhase::Failed => MemberState::Failed,
        MemberPhase::Lost if report.reason == Reason::LeaseExpired => MemberState::Expired,
        MemberPhase::Lost => MemberState::Lost,
    }
}

/// A slice as `core` decides on it.
#[must_use]
pub fn slice_state(slice: &SliceObject) -> Slice {
    let (spec, status) = (&slice.spec, slice.status.as_ref());
    let answers = status.filter(|status| status.epoch == spec.epoch);
    let seen = answers.is_some_and(|status| status.generation == slice.generation);
    Slice {
        name: format!("c{}-{}", slice.key.0, slice.key.1),
        site: site_name(slice.key.1),
        index: 0,
        epoch: spec.epoch,
        phase: spec.phase,
        members: spec.members.clone(),
        older_may_run: !seen && slice.generation != 1,
        reservation: answers.map_or(Reservation::Pending, |status| status.reservation),
        reports: status
            .map(|status| status.members.iter().map(|(key, (state, _))| (*key, *state)).collect())
            .unwrap_or_default(),
        fence: Millis::try_from(spec.times.2).unwrap_or(0) * 1_000,
        deletion: match slice.deleting {
            false => Deletion::None,
            true if status.is_some_and(|status| status.stopped) => Deletion::Stopped,
            true => Deletion::Started,
        },
    }
}

impl World {
    /// An operator starts.
    pub fn start_operator(&mut self, o: usize) {
        let proc = Proc::Operator(o);
        self.set_up(proc, true);
        self.operators[o] = Operator { leases: vec![None; 2], ..Operator::default() };
        self.trace(|| format!("operator {o} starts"));
        self.list_operator(o);
        self.elect(o);
        self.look(o);
    }

    fn list_operator(&mut self, o: usize) {
        self.ask_hub(
            Proc::Operator(o),
            |world| Ok(world.hub.list()),
            move |world, result| match result {
                Ok(cache) => {
                    world.operators[o].cache = cache;
                    world.operators[o].listed = true;
                    world.see_sites(o);
                }
                Err(_) => world.after(Proc::Operator(o), 500, move |world| world.list_operator(o)),
            },
        );
    }

    fn elect(&mut self, o: usize) {
        let proc = Proc::Operator(o);
        let now = self.boot(proc);
        self.after(proc, 3_000, move |world| world.elect(o));
        if let Some((term, until)) = self.operators[o].leads {
            if now >= until {
                self.trace(|| format!("operator {o} leads no more"));
                // The process ends, and another takes its place.
                self.set_up(proc, false);
                self.at(self.now + 1_000, move |world| world.start_operator(o));
                return;
            }
            let version = self.operators[o].leader.as_ref().map_or(0, |(lease, _)| lease.version);
            self.ask_hub(
                proc,
                move |world| world.take_leader(o, version, true),
                move |world, result| match result {
                    Ok(lease) if lease.term == term => {
                        world.operators[o].leader = Some((lease, now));
                        world.operators[o].leads = Some((term, now + LEADER_LEASE * 2 / 3));
                    }
                    Err(ApiError::Conflict) => {
                        // The answer to an earlier renewal was lost, or somebody else leads.
                        world.ask_hub(
                            proc,
                            |world| Ok(world.hub.leader.clone()),
                            move |world, result| match result {
                                Ok(lease) if lease.holder == Some(o) => world.operators[o].leader = Some((lease, now)),
                                Ok(_) => world.operators[o].leads = Some((term, Duration::ZERO)),
                                Err(_) => {}
                            },
                        );
                    }
                    _ => {}
                },
            );
            return;
        }
        self.ask_hub(
            proc,
            |world| Ok(world.hub.leader.clone()),
            move |world, result| {
                let (Ok(lease), now) = (result, world.boot(proc)) else { return };
                let known = world.operators[o].leader.as_ref().filter(|(known, _)| known.version == lease.version);
                let since = known.map_or(now, |(_, since)| *since);
                let version = lease.version;
                let free = lease.version == 0 || now.saturating_sub(since) > LEADER_LEASE;
                world.operators[o].leader = Some((lease, since));
                if free && world.operators[o].listed {
                    let sent = now;
                    world.ask_hub(
                        proc,
                        move |world| world.take_leader(o, version, false),
                        move |world, result| {
                            let Ok(lease) = result else { return };
                            let until = sent + LEADER_LEASE * 2 / 3;
                            let term = lease.term;
                            world.operators[o].leader = Some((lease, sent));
                            world.wait_alone(o, term, until);
                        },
                    );
                }
            },
        );
    }

    /// What former leaders wrote is read before anything is decided, and nothing of theirs is taken any more then.
    fn wait_alone(&mut self, o: usize, term: u64, until: Duration) {
        let proc = Proc::Operator(o);
        let late = move |world: &mut World| world.admit(term - 1);
        self.ask_hub(proc, late, move |world, result| {
            if result == Err(ApiError::Refused) || !world.holds(Rule::TermChecked) {
                world.begin_leading(o, term, until);
            } else if world.boot(proc) < until {
                world.after(proc, 20, move |world| world.wait_alone(o, term, until));
            }
        });
    }

    fn begin_leading(&mut self, o: usize, term: u64, until: Duration) {
        let list = |world: &mut World| Ok((world.hub.clusters.clone(), world.hub.slices.clone()));
        self.ask_hub(Proc::Operator(o), list, move |world, result| match result {
            Ok((clusters, slices)) => {
                world.trace(|| format!("operator {o} leads, term {term}"));
                let cache = &mut world.operators[o].cache;
                for (at, cluster) in clusters.into_iter().enumerate() {
                    cache.take(Change::Cluster(at, cluster));
                }
                let gone: Vec<Key> = cache.slices.keys().filter(|key| !slices.contains_key(key)).copied().collect();
                for key in gone {
                    let version = cache.slices.get(&key).map_or(0, |slice| slice.version);
                    cache.take(Change::SliceGone(key, version));
                }
                for slice in slices.into_values() {
                    cache.take(Change::Slice(slice));
                }
                world.operators[o].leads = Some((term, until));
                world.pass_soon(o);
            }
            Err(_) if world.boot(Proc::Operator(o)) < until => {
                world.after(Proc::Operator(o), 500, move |world| world.begin_leading(o, term, until));
            }
            Err(_) => {}
        });
    }

    fn may_write(&self, o: usize) -> bool {
        self.operators[o].leads.is_some_and(|(_, until)| self.boot(Proc::Operator(o)) < until)
    }

    /// Looks at Leases and losses.
    fn look(&mut self, o: usize) {
        let proc = Proc::Operator(o);
        self.after(proc, 1_000, move |world| world.look(o));
        if !self.operators[o].listed {
            return;
        }
        self.see_sites(o);
        let now = self.boot(proc);
        let live: Vec<bool> =
            (0..self.setup.sites.len()).map(|site| self.site_state(o, site) == SiteState::Live).collect();
        let suppliers: Vec<String> = self.setup.sites.iter().map(|site| site.supplier.to_string()).collect();
        let operator = &mut self.operators[o];
        let losses: Vec<Loss<'_>> = operator
            .lost
            .iter()
            .filter(|(site, _)| !live[**site])
            .map(|(site, (_, at))| Loss { at: signed(*at), supplier: &suppliers[*site] })
            .collect();
        let was = operator.freeze.is_on();
        operator.freeze.look(&losses, live.iter().filter(|live| **live).count(), signed(now));
        let frozen = operator.freeze.is_on();
        let changed = operator.states != live || was != frozen;
        operator.states = live;
        if was != frozen {
            self.trace(|| format!("operator {o}: frozen: {frozen}"));
        }
        if changed {
            self.pass_soon(o);
        }
    }

    fn see_sites(&mut self, o: usize) {
        let now = self.boot(Proc::Operator(o));
        let lasts = Duration::from_millis(self.setup.lease);
        let operator = &mut self.operators[o];
        for (at, lease) in operator.cache.leases.iter().enumerate() {
            let version = (lease.version > 0).then(|| lease.version.to_string());
            let lasts = if lease.holder.is_some() { lasts } else { Duration::ZERO };
            match &mut operator.leases[at] {
                Some(seen) => seen.see(version, lasts, now),
                seen => *seen = Some(SeenLease::new(version, lasts, now)),
            }
        }
        for (at, site) in operator.cache.sites.iter().enumerate() {
            if site.connected {
                operator.lost.remove(&at);
            } else if site.number > 0 && operator.lost.get(&at).is_none_or(|(number, _)| *number != site.number) {
                operator.lost.insert(at, (site.number, now));
            }
        }
    }

    fn site_state(&self, o: usize, site: usize) -> SiteState {
        let proc = Proc::Operator(o);
        let now = self.boot(proc);
        let operator = &self.operators[o];
        let object = &operator.cache.sites[site];
        if object.number == 0 {
            return SiteState::Lost { ago: NEVER };
        }
        let ago = if object.connected {
            let end = operator.leases[object.gateway].as_ref().map_or(now, SeenLease::end);
            let over = if self.holds(Rule::LeaseAsObserved) {
                signed(now) - signed(end)
            } else {
                let lasts = Millis::try_from(self.setup.lease).unwrap_or(0);
                self.wall(proc) - operator.cache.leases[object.gateway].renewed - lasts
            };
            if over <= 0 {
                return SiteState::Live;
            }
            over
        } else if self.holds(Rule::AgeOfGrant) {
            let since = operator.lost.get(&site).map_or(now, |(_, since)| *since);
            let age = object.lost_age.and_then(|age| Millis::try_from(age).ok()).unwrap_or(0);
            signed(now.saturating_sub(since)) + age
        } else {
            self.wall(proc) - object.lost_wall.unwrap_or(0)
        };
        SiteState::Lost { ago: if self.holds(Rule::FenceAwaited) { ago } else { NEVER } }
    }

    fn site_view(&self, o: usize, cluster: usize, site: usize) -> SiteView {
        let object = &self.operators[o].cache.sites[site];
        let fenced = object.fenced.iter().find(|(uid, _)| *uid == cluster).map_or(0, |(_, epoch)| *epoch);
        SiteView {
            state: self.site_state(o, site),
            fenced,
            draining: object.wants == Wants::Draining,
            frozen: self.operators[o].freeze.is_on() && self.holds(Rule::Freeze),
        }
    }

    /// A watch shows something.
    pub fn operator_sees(&mut self, o: usize, change: Change) {
        if !self.operators[o].listed {
            return;
        }
        self.operators[o].cache.take(change);
        self.see_sites(o);
        self.pass_soon(o);
    }

    fn pass_soon(&mut self, o: usize) {
        if self.operators[o].leads.is_some() && !std::mem::replace(&mut self.operators[o].passing, true) {
            let wait = self.rng.between(1, 5);
            self.after(Proc::Operator(o), wait, move |world| {
                world.operators[o].passing = false;
                for cluster in 0..world.setup.clusters.len() {
                    world.decide(o, cluster);
                }
            });
        }
    }

    fn decide(&mut self, o: usize, c: usize) {
        if !self.may_write(o) || self.operators[o].busy.contains(&c) {
            return;
        }
        let object = Rc::clone(&self.operators[o].cache.clusters[c]);
        let objects: Vec<Rc<SliceObject>> =
            self.operators[o].cache.slices.range((c, 0)..(c + 1, 0)).map(|(_, slice)| Rc::clone(slice)).collect();
        let slices: Vec<Slice> = objects.iter().map(|slice| slice_state(slice)).collect();
        let revoked = self.revoked(o, c);
        let view = |name: &str| self.site_view(o, c, number(name));
        let mut step = core::next(&object.state, &slices, &view, &revoked, self.wall(Proc::Operator(o)));
        if let Some(wait) = step.wake {
            let wait = Time::try_from(wait).unwrap_or(0) + 1;
            self.after(Proc::Operator(o), wait, move |world| world.decide(o, c));
        }
        if let Some(fencing) = step.fence.first() {
            let (site, epoch) = (number(&fencing.site), fencing.epoch);
            return self.fence(o, c, site, epoch);
        }
        let mut placed = step.want.clone().and_then(|want| self.place(o, c, &step.keep, &want));
        if let Some(drain) = step.drain.clone().filter(|_| placed.is_none() && step.want.is_none()) {
            placed = self.place(o, c, &drain.keep, &drain.want);
            if let Some(placed) = &placed {
                step.drained(&placed.iter().map(|member| member.rank).collect());
            }
        }
        for (site, nodes) in &step.refused {
            for node in nodes {
                let until = self.now + 30_000;
                self.operators[o].blocked.insert((number(site), number(node)), until);
            }
        }
        if step.recommits() || placed.is_some() {
            return self.commit(o, c, &object, &step, placed.unwrap_or_default());
        }
        if !step.slices.is_empty() {
            return self.follow(o, c, step.slices, &objects);
        }
        let over = self.operators[o].cache.sites.iter().enumerate().find_map(|(site, seen)| {
            let (_, epoch) = seen.fenced.iter().find(|(uid, _)| *uid == c)?;
            core::fence_is_over(&site_name(site), *epoch, &object.state, &slices).then_some((site, seen.version))
        });
        if let Some((site, version)) = over {
            self.dispatch(
                o,
                c,
                move |world| world.patch_site(site, Some(version), |object| object.fenced.retain(|(uid, _)| *uid != c)),
                move |world, object| world.operators[o].cache.take(Change::Site(site, object)),
            );
        }
    }

    fn term(&self, o: usize) -> u64 {
        self.operators[o].leads.map_or(0, |(term, _)| term)
    }

    /// Writes something of a Cluster, at times late; nothing else is decided for it meanwhile.
    fn dispatch<R: 'static>(
        &mut self,
        o: usize,
        c: usize,
        write: impl Fn(&mut World) -> Result<R, ApiError> + 'static,
        then: impl FnOnce(&mut World, R) + 'static,
    ) {
        self.dispatch_after(o, c, None, write, then);
    }

    /// As [`World::dispatch`]; `late`: it is late for sure, by so much.
    fn dispatch_after<R: 'static>(
        &mut self,
        o: usize,
        c: usize,
        late: Option<Time>,
        write: impl Fn(&mut World) -> Result<R, ApiError> + 'static,
        then: impl FnOnce(&mut World, R) + 'static,
    ) {
        let proc = Proc::Operator(o);
        self.operators[o].busy.insert(c);
        // A machine may stand still between the decision and the write, and write when another leads.
        let often = if self.held_up { 30 } else { 3 };
        if self.setup.scene.is_rough() && self.awake(proc) && (late.is_some() || self.rng.percent(often)) {
            let wait = late.unwrap_or_else(|| self.rng.between(1_000, LATEST));
            self.judge.count("late write of an operator");
            self.trace(|| format!("operator {o} stands still for {wait} ms before it writes"));
            let life = self.life(proc).number;
            self.sleep(proc, wait, false);
            self.at(self.now + wait, move |world| {
                if world.life(proc).number == life {
                    world.write_until_known(o, c, Rc::new(write), then);
                }
            });
        } else {
            self.write_until_known(o, c, Rc::new(write), then);
        }
    }

    /// What became of a write may not be known: then it is repeated as it is.
    fn write_until_known<R: 'static>(
        &mut self,
        o: usize,
        c: usize,
        write: Write<R>,
        then: impl FnOnce(&mut World, R) + 'static,
    ) {
        let (proc, once) = (Proc::Operator(o), Rc::clone(&write));
        self.ask_hub(
            proc,
            move |world| once(world),
            move |world, result| {
                let unknown = matches!(result, Err(ApiError::Timeout | ApiError::Unavailable));
                if unknown && world.may_write(o) {
                    let until = world.boot(proc) + DOUBT;
                    world.operators[o].doubts.insert(c, until);
                    return world.after(proc, 200, move |world| world.write_until_known(o, c, write, then));
                }
                let wait = if result.is_ok() { 0 } else { 200 };
                if let Ok(result) = result {
                    then(world, result);
                }
                world.after(proc, wait, move |world| {
                    world.operators[o].busy.remove(&c);
                    world.operators[o].assumed.remove(&c);
                    world.pass_soon(o);
                });
            },
        );
    }

    fn fence(&mut self, o: usize, c: usize, site: usize, epoch: u64) {
        let object = Rc::clone(&self.operators[o].cache.sites[site]);
        let on = self.holds(Rule::FenceChecked).then_some(object.version);
        self.trace(|| format!("operator {o}: fences Cluster {c} up to epoch {epoch} at site {site}"));
        let write = move |world: &mut World| {
            world.patch_site(site, on, |object| {
                object.fenced.retain(|(uid, _)| *uid != c);
                object.fenced.push((c, epoch));
            })
        };
        let (before, after) = self.about_to_fence(site).unzip();
        let then = move |world: &mut World, object| {
            world.operators[o].cache.take(Change::Site(site, object));
            if let Some(after) = after.filter(|after| *after > 0) {
                world.trace(|| format!("operator {o} stands still for {after} ms after it wrote the fence"));
                world.sleep(Proc::Operator(o), after, false);
            }
        };
        if !object.connected {
            return self.dispatch_after(o, c, before.filter(|before| *before > 0), write, then);
        }
        // A watch that stands still shows no renewals either: the Lease is read before it is believed to be over.
        let gateway = object.gateway;
        let seen = self.operators[o].cache.leases[gateway].version;
        self.operators[o].busy.insert(c);
        let proc = Proc::Operator(o);
        let get = move |world: &mut World| Ok(Rc::clone(&world.hub.leases[gateway]));
        self.ask_hub(proc, get, move |world, result| {
            world.operators[o].busy.remove(&c);
            match result {
                Ok(lease) if lease.version == seen => world.dispatch(o, c, write, then),
                Ok(lease) => {
                    world.operators[o].cache.take(Change::Lease(gateway, lease));
                    world.see_sites(o);
                    world.pass_soon(o);
                }
                Err(_) => world.after(proc, 500, move |world| world.pass_soon(o)),
            }
        });
    }

    fn commit(&mut self, o: usize, c: usize, object: &ClusterObject, step: &Step, placed: Vec<Member>) {
        let epoch = object.state.epoch.max(step.adopt.unwrap_or(0)) + 1;
        let mut members = step.keep.clone();
        members.extend(placed.into_iter().map(|member| Member { incarnation: epoch, ..member }));
        members.sort();
        let mut state = object.state.clone();
        state.epoch = epoch;
        state.failures = step.failures;
        if step.end.is_some() || state.finished_at.is_some() {
            members.clear();
            state.finished_at = Some(self.wall(Proc::Operator(o)));
        }
        self.trace(|| {
            let shown: Vec<String> =
                members.iter().map(|m| format!("{}.{}@{}{}", m.rank, m.incarnation, m.site, m.node)).collect();
            format!("operator {o}: commits Cluster {c} epoch {epoch} because {:?}: {}", step.cause, shown.join(" "))
        });
        if step.cause.is_some_and(|cause| cause != Cause::Refused) {
            self.judge.count("members leave a commit");
        }
        state.members.clone_from(&members);
        self.operators[o].assumed.insert(c, members);
        let term = self.term(o);
        let on = self.holds(Rule::CommitChecked).then_some(object.version);
        let object = ClusterObject { version: 0, state, term };
        self.dispatch(
            o,
            c,
            move |world| world.admit(term).and_then(|()| world.put_cluster(c, on, object.clone())),
            move |world, object| world.operators[o].cache.take(Change::Cluster(c, object)),
        );
    }

    fn follow(&mut self, o: usize, c: usize, mut actions: Vec<SliceAction>, known: &[Rc<SliceObject>]) {
        let now = self.boot(Proc::Operator(o));
        let doubt = self.operators[o].doubts.get(&c).copied().filter(|until| *until > now);
        if let Some(until) = doubt.filter(|_| self.holds(Rule::CreatedOnce)) {
            // As long as there is one of that name, the same creation is refused however late it comes.
            actions.retain(|action| !matches!(action, SliceAction::Release { .. }));
            let wait = Time::try_from(until.saturating_sub(now).as_millis()).unwrap_or(Time::MAX) + 1;
            self.after(Proc::Operator(o), wait, move |world| world.pass_soon(o));
        }
        let setup = &self.setup.clusters[c];
        let (times, autonomous) = (setup.times, setup.autonomous());
        let known: BTreeMap<String, (Key, u64, u64)> = known
            .iter()
            .map(|slice| (format!("c{}-{}", slice.key.0, slice.key.1), (slice.key, slice.uid, slice.version)))
            .collect();
        // One after the other; the rest is decided anew: the same, unless something changed.
        let Some(action) = actions.into_iter().next() else { return };
        let (checked, term) = (self.holds(Rule::SlicesChecked), self.term(o));
        let write = move |world: &mut World| -> Result<Change, ApiError> {
            let on = |name: &str| checked.then(|| known.get(name).map_or(0, |(.., version)| *version));
            match action.clone() {
                SliceAction::Apply { site, epoch, phase, members, .. } => {
                    let spec = Spec { epoch, phase, members, times, autonomous };
                    let site = number(&site);
                    world.admit(term)?;
                    world.apply_slice((c, site), on(&format!("c{c}-{site}")), spec).map(Change::Slice)
                }
                // Carries no term: what it is decided on is its version.
                SliceAction::Delete { name } => {
                    let (key, uid, _) = known.get(&name).copied().ok_or(ApiError::NotFound)?;
                    world.delete_slice(key, uid, on(&name)).map(Change::Slice)
                }
                SliceAction::Release { name } => {
                    let (key, uid, _) = known.get(&name).copied().ok_or(ApiError::NotFound)?;
                    world.admit(term)?;
                    world.release_slice(key, uid, on(&name)).map(|version| Change::SliceGone(key, version))
                }
            }
        };
        self.dispatch(o, c, write, move |world, change| world.operators[o].cache.take(change));
    }
}
