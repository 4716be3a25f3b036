//! Decisions: what is dirty and who waits, in order, one after the other on one inventory.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use atoll_api::conditions::member_reason;
use atoll_api::{Cluster, ClusterSlice, ClusterStatus, PlacementStatus};
use atoll_convert::{ClusterTerms, cluster_state, committed, holdings, orphan_state, slice_state};
use atoll_core::cluster::{self as core, Member, SliceAction, Step};
use atoll_core::inventory::Holding;
use atoll_core::placement::{self, Decision, Refusal, RefusalKind, Request};
use kube::ResourceExt;

use super::commit::{Frame, commit, placed};
use super::entry::{Entry, Order};
use super::notes::notes;
use super::slices::{Wanted, build, instead};
use super::state::{Now, State};
use super::status::{Ailing, Facts, compose, invalid, is_transition};
use super::writer::{Job, SliceWrite};

/// Between two writes of a status that only tell numbers and words.
const STATUS_PACE: std::time::Duration = std::time::Duration::from_secs(1);

/// What is remembered within one round of decisions.
pub(super) struct Pass {
    now: Now,
    /// Requests that were refused, without who asked: the same is refused again while nothing was freed.
    refused: HashMap<String, Refusal>,
    /// The inventory's revision that `refused` is true for.
    revision: u64,
}

/// What was asked, decided and refused for one Cluster.
struct Verdict<'a> {
    uid: &'a str,
    object: &'a Arc<Cluster>,
    terms: &'a ClusterTerms,
    /// What its lifecycle asks for.
    step: Step,
    /// Where its new members go.
    decision: Option<Decision>,
    /// Why they go nowhere.
    refusal: Option<Refusal>,
    /// Why members on draining Sites go nowhere.
    stuck: Option<Refusal>,
    now: Now,
}

impl State {
    /// One round of decisions.
    pub(super) fn pass(&mut self, now: Now) {
        let mut todo = std::mem::take(&mut self.dirty);
        // What is held is brought up to date first, so that what became free is seen by who is first in the queue.
        for uid in &todo {
            if self.entries.get(uid).is_some_and(|entry| !entry.busy(now.boot)) {
                self.hold(uid);
            }
        }
        if self.inventory.revision() != self.tried {
            todo.extend(self.waiting.iter().cloned());
        }
        let revision = self.inventory.revision();
        self.tried = revision;
        let mut order: Vec<Order> = todo.iter().filter_map(|uid| Some(self.entries.get(uid)?.order(uid))).collect();
        order.sort_unstable();
        let mut pass = Pass { now, refused: HashMap::new(), revision };
        for (_, _, uid) in order {
            let timer = self.metrics.decision_seconds.start_timer();
            self.decide(&uid, &mut pass);
            timer.observe_duration();
        }
        self.metrics.waiting.set(i64::try_from(self.waiting.len()).unwrap_or(i64::MAX));
    }

    /// Sets what a Cluster holds to what the API says.
    fn hold(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.promised = false;
        let held = holdings(entry.cluster.as_deref(), entry.slices.values().map(|slice| &**slice));
        self.set_holdings(uid, held);
    }

    fn set_holdings(&mut self, uid: &str, held: Vec<Holding>) {
        if self.inventory.holdings(uid) != held {
            self.inventory.set_holdings(uid, held);
            self.unshown = true;
        }
    }

    fn decide(&mut self, uid: &str, pass: &mut Pass) {
        let Some(entry) = self.entries.get(uid) else { return };
        if entry.busy(pass.now.boot) {
            if let Some(until) = entry.paused_until.filter(|until| *until > pass.now.boot) {
                self.schedule(uid, until);
            }
            return self.promise(uid, pass);
        }
        if entry.is_empty() {
            self.unschedule(uid);
            self.entries.remove(uid);
            self.waiting.remove(uid);
            if let Some(lead) = &self.lead {
                lead.writer.forget(uid);
            }
            return;
        }
        let slices: Vec<core::Slice> = entry.slices.values().map(|slice| slice_state(slice)).collect();
        let Some(object) = entry.cluster.clone() else { return self.orphan(uid, &slices, pass) };
        if object.metadata.deletion_timestamp.is_some() {
            let step = self.next(uid, &orphan_state(), &slices, &BTreeSet::new(), pass.now);
            self.forget(uid);
            return self.follow(uid, None, step, pass.now);
        }
        let terms = match ClusterTerms::new(&object) {
            Ok(terms) => terms,
            Err(error) => {
                self.forget(uid);
                let old = object.status.clone().unwrap_or_default();
                let status = invalid(&old, object.metadata.generation, &error.to_string(), pass.now.wall);
                return self.tell(uid, &object, &old, status, pass.now);
            }
        };
        let state = cluster_state(&object, &terms);
        let revoked = self.revoked(uid, &state.members);
        let mut step = self.next(uid, &state, &slices, &revoked, pass.now);
        for (site, nodes) in &step.refused {
            self.inventory.block(site, nodes, pass.now.boot);
            self.blocked_at = Some(pass.now.boot);
        }
        let answer = step.want.as_ref().map(|want| {
            let inventory = &self.inventory;
            let request = terms.request(want, &step.keep, |site| Some(inventory.site(site)?.region.clone()));
            self.ask(uid, &object, &step, request, pass)
        });
        let (mut decision, refusal) = match answer {
            Some(Ok(decision)) => (Some(decision), None),
            Some(Err(refusal)) => (None, Some(refusal)),
            None => (None, None),
        };
        let mut stuck = None;
        if let Some(drain) = step.drain.clone().filter(|_| decision.is_none() && !step.recommits()) {
            let inventory = &self.inventory;
            let request = terms.request(&drain.want, &drain.keep, |site| Some(inventory.site(site)?.region.clone()));
            match self.ask(uid, &object, &step, request, pass) {
                Ok(found) => {
                    step.drained(&placed(&found, u64::MAX).into_iter().map(|member| member.rank).collect());
                    decision = Some(found);
                }
                Err(refusal) => stuck = Some(refusal),
            }
        }
        if refusal.is_none() && stuck.is_none() {
            self.forget(uid);
        }
        self.unschedule(uid);
        if let Some(wait) = step.wake {
            self.schedule(uid, pass.now.after(wait));
        }
        let verdict = Verdict { uid, object: &object, terms: &terms, step, decision, refusal, stuck, now: pass.now };
        if verdict.step.recommits() || verdict.decision.is_some() {
            self.commit(&verdict);
        } else if !verdict.step.slices.is_empty() || verdict.step.delete {
            self.follow(uid, Some(&object), verdict.step, pass.now);
        } else if state.finished_at.is_none() {
            let placement = object.status.as_ref().and_then(|status| status.placement.clone());
            let status = self.compose(&verdict, state.epoch, placement);
            self.tell(uid, &object, &object.status.clone().unwrap_or_default(), status, pass.now);
        }
    }

    fn next(
        &mut self,
        uid: &str,
        state: &core::Cluster,
        slices: &[core::Slice],
        revoked: &BTreeSet<u32>,
        now: Now,
    ) -> Step {
        let frozen = self.freezing.is_on();
        let site = |name: &str| self.sites.view(name, uid, now.boot, frozen);
        let step = core::next(state, slices, &site, revoked, now.millis());
        self.want_fences(uid, &step.fence);
        step
    }

    /// Asks for a place beside what the Cluster keeps and what its Sites have not stopped yet.
    fn ask(
        &mut self,
        uid: &str,
        object: &Cluster,
        step: &Step,
        request: Request,
        pass: &mut Pass,
    ) -> Result<Decision, Refusal> {
        let own = self.kept(uid, object, &step.keep);
        self.set_holdings(uid, own);
        let answer = self.place(&request, pass);
        let result = match &answer {
            Ok(_) => "placed",
            Err(refusal) if refusal.kind == RefusalKind::NoSuchGpu => "no_such_gpu",
            Err(_) => "insufficient_capacity",
        };
        let known = self.entries.get(uid).is_some_and(|entry| entry.unmet.is_some());
        if answer.is_ok() || !known {
            self.metrics.placements.with_label_values(&[result]).inc();
        }
        if answer.is_err() {
            self.waiting.insert(uid.to_owned());
            if let Some(entry) = self.entries.get_mut(uid) {
                entry.unmet = Some(request);
            }
        }
        answer
    }

    fn place(&self, request: &Request, pass: &mut Pass) -> Result<Decision, Refusal> {
        if pass.revision != self.inventory.revision() {
            pass.refused.clear();
            pass.revision = self.inventory.revision();
        }
        let shape = shape(request);
        if let Some(refusal) = pass.refused.get(&shape) {
            return Err(refusal.clone());
        }
        placement::place(&self.inventory, request).inspect_err(|refusal| {
            pass.refused.insert(shape, refusal.clone());
        })
    }

    /// A Cluster that waits and is busy keeps its turn: what fits it now is held until it can be decided.
    fn promise(&mut self, uid: &str, pass: &mut Pass) {
        // Not while its writes are refused: nobody knows when that ends.
        let free = |entry: &&Entry| !entry.promised && entry.pause_left(pass.now.boot).is_none();
        let Some(entry) = self.entries.get(uid).filter(free) else { return };
        let Some(request) = entry.unmet.clone() else { return };
        if let Ok(decision) = self.place(&request, pass) {
            let mut held = self.inventory.holdings(uid).to_vec();
            held.extend(placed(&decision, u64::MAX).into_iter().map(|member| holding(member, request.gpus_per_member)));
            self.set_holdings(uid, held);
            if let Some(entry) = self.entries.get_mut(uid) {
                entry.promised = true;
            }
        }
    }

    fn forget(&mut self, uid: &str) {
        self.waiting.remove(uid);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.unmet = None;
        }
    }

    /// Members that stay, and what the Sites still hold of others.
    fn kept(&self, uid: &str, object: &Cluster, keep: &[Member]) -> Vec<Holding> {
        let Some(entry) = self.entries.get(uid) else { return Vec::new() };
        let stays: HashSet<(u32, u64)> = keep.iter().map(|member| (member.rank, member.incarnation)).collect();
        let by_slices = holdings(None, entry.slices.values().map(|slice| &**slice));
        let live: HashSet<(u32, u64)> = by_slices.iter().map(|held| (held.rank, held.incarnation)).collect();
        let mut all = holdings(Some(object), entry.slices.values().map(|slice| &**slice));
        all.retain(|held| {
            let key = (held.rank, held.incarnation);
            stays.contains(&key) || live.contains(&key)
        });
        all
    }

    /// Ranks of undelivered members on nodes that are overbooked, where others go before: who runs already, then the
    /// commit of the higher term, then the older Cluster.
    fn revoked(&self, uid: &str, members: &[Member]) -> BTreeSet<u32> {
        let overbooked: HashSet<(&str, &str)> = self.inventory.overbooked().collect();
        let mut revoked = BTreeSet::new();
        if overbooked.is_empty() {
            return revoked;
        }
        let Some(entry) = self.entries.get(uid) else { return revoked };
        for member in members {
            let place = (member.site.as_str(), member.node.as_str());
            if overbooked.contains(&place)
                && !entry.delivered(member.rank, member.incarnation)
                && !self.fits(uid, member)
            {
                revoked.insert(member.rank);
            }
        }
        revoked
    }

    /// Whether a member has its GPUs when all that share its node are served in order.
    fn fits(&self, uid: &str, member: &Member) -> bool {
        let place = (member.site.clone(), member.node.clone());
        let mut left = self.capacity.get(&place).copied().unwrap_or_default();
        let mut holders: Vec<_> = self
            .inventory
            .holders(&member.site, &member.node)
            .into_iter()
            .filter_map(|(holder, held)| {
                let entry: &Entry = self.entries.get(holder)?;
                let undelivered = !entry.delivered(held.rank, held.incarnation);
                let (_, created, _) = entry.order(holder);
                Some((undelivered, std::cmp::Reverse(entry.term()), created, holder, held))
            })
            .collect();
        holders.sort_by(|a, b| (a.0, a.1, a.2, a.3, a.4.rank).cmp(&(b.0, b.1, b.2, b.3, b.4.rank)));
        for (_, _, _, holder, held) in holders {
            let fits = held.gpus <= left;
            left = left.saturating_sub(held.gpus);
            if holder == uid && (held.rank, held.incarnation) == (member.rank, member.incarnation) {
                return fits;
            }
        }
        true
    }

    /// Slices whose Cluster is gone. A watch of Clusters that lags behind that of slices must not stop anybody's members.
    fn orphan(&mut self, uid: &str, slices: &[core::Slice], pass: &Pass) {
        self.forget(uid);
        let Some(entry) = self.entries.get(uid) else { return };
        if entry.confirmed_gone || slices.iter().all(|slice| slice.deletion != core::Deletion::None) {
            let step = self.next(uid, &orphan_state(), slices, &BTreeSet::new(), pass.now);
            return self.follow(uid, None, step, pass.now);
        }
        if let Some(slice) = entry.slices.values().next() {
            let job = Job::Confirm {
                namespace: slice.namespace().unwrap_or_default(),
                name: slice.spec.cluster.clone(),
                uid: uid.to_owned(),
            };
            self.dispatch(uid, job);
        }
    }

    /// Writes slices, or deletes the Cluster.
    fn follow(&mut self, uid: &str, object: Option<&Arc<Cluster>>, step: Step, now: Now) {
        self.unschedule(uid);
        if let Some(wait) = step.wake {
            self.schedule(uid, now.after(wait));
        }
        let (Some(entry), Some(lead)) = (self.entries.get(uid), &self.lead) else { return };
        let placement = object.and_then(|object| object.status.as_ref()?.placement.as_ref());
        let known = |name: &str| entry.slices.get(name).cloned();
        let mut writes = Vec::new();
        let mut doubt: Option<std::time::Duration> = None;
        for action in step.slices {
            writes.extend(match action {
                SliceAction::Apply { site, index, epoch, phase, members } => {
                    let wanted = Wanted { site, index, epoch, phase, members };
                    let built = object.zip(placement);
                    let built = built.and_then(|(object, placement)| build(object, placement, wanted, lead.term));
                    built.map(|slice: ClusterSlice| match known(&slice.name_any()) {
                        Some(known) => SliceWrite::Replace(Box::new(instead(&known, slice))),
                        None => SliceWrite::Create(Box::new(slice)),
                    })
                }
                SliceAction::Delete { name } => known(&name).map(SliceWrite::Delete),
                SliceAction::Release { name } => match entry.doubt(&name, now.boot) {
                    None => known(&name).map(SliceWrite::Release),
                    Some(until) => {
                        doubt = Some(doubt.map_or(until, |earlier| earlier.min(until)));
                        None
                    }
                },
            });
        }
        if let Some(until) = doubt {
            self.schedule(uid, until);
        }
        if !writes.is_empty() {
            tracing::debug!(uid, writes = writes.len(), at = %now.wall, "slices");
            self.dispatch(uid, Job::Slices(writes));
        } else if let Some(object) = object.filter(|_| step.delete) {
            self.dispatch(uid, Job::Delete(Arc::clone(object)));
        }
    }

    /// The one commit point: one PUT with the placement and everything that is said about it.
    fn commit(&mut self, verdict: &Verdict<'_>) {
        let Some(term) = self.lead.as_ref().map(|lead| lead.term) else { return };
        let Verdict { uid, object, terms, step, decision, .. } = verdict;
        let old = object.status.clone().unwrap_or_default();
        let used = u64::try_from(old.epoch).unwrap_or_default();
        let frame = Frame {
            epoch: used.max(step.adopt.unwrap_or_default()).saturating_add(1),
            term,
            now: verdict.now.wall,
            gpus: terms.gpus_per_member,
            fence: object.spec.disconnection.times.clone(),
        };
        let placement = commit(old.placement.as_ref(), &step.keep, decision.as_ref(), &frame);
        let mut held = self.kept(uid, object, &step.keep);
        let new = decision.as_ref().map(|decision| placed(decision, frame.epoch)).unwrap_or_default();
        held.extend(new.into_iter().map(|member| holding(member, terms.gpus_per_member)));
        held.sort();
        let status = if old.finished_at.is_some() {
            ClusterStatus { placement: None, epoch: i64::try_from(frame.epoch).unwrap_or(i64::MAX), ..old.clone() }
        } else {
            self.compose(verdict, frame.epoch, placement)
        };
        tracing::info!(
            cluster = object.name_any(), namespace = object.namespace(), epoch = frame.epoch, term,
            members = status.total, cause = ?step.cause, end = ?step.end, "commit"
        );
        self.set_holdings(uid, held);
        self.put(uid, object, &old, status);
    }

    /// What the Cluster's status says of a verdict, with this epoch as the highest ever used and this commit.
    fn compose(&self, verdict: &Verdict<'_>, epoch: u64, placement: Option<PlacementStatus>) -> ClusterStatus {
        let Verdict { uid, object, terms, step, refusal, stuck, .. } = verdict;
        let facts = Facts {
            uid,
            generation: object.metadata.generation,
            terms: &terms.lifecycle,
            step,
            refusal: refusal.as_ref(),
            stuck: stuck.as_ref(),
            epoch,
            placement,
            ailing: &self.ailing(uid),
            endpoint: self.endpoint(uid, object, terms),
            now: verdict.now.wall,
        };
        let name_of =
            |site: &str| self.inventory.site(site).map_or_else(|| site.to_owned(), |site| site.display.clone());
        compose(&object.status.clone().unwrap_or_default(), &facts, &name_of)
    }

    /// Members that run on GPUs that are Unhealthy, as their Sites say.
    fn ailing(&self, uid: &str) -> Vec<Ailing> {
        let slices = self.entries.get(uid).into_iter().flat_map(|entry| entry.slices.values());
        let members = slices.flat_map(|slice| {
            let members = slice.status.iter().flat_map(|status| &status.members);
            members.map(|member| (slice.spec.site.as_str(), member))
        });
        let ailing = members.filter(|(_, member)| {
            member.reason.as_deref() == Some(member_reason::GPU_UNHEALTHY) && !member.phase.has_ended()
        });
        let mut ailing: Vec<Ailing> = ailing
            .map(|(site, member)| Ailing {
                rank: member.rank,
                site: site.to_owned(),
                node: member.node.clone().unwrap_or_default(),
                what: member.message.clone().unwrap_or_default(),
            })
            .collect();
        ailing.sort();
        ailing
    }

    /// Address of rank 0 where members look for it.
    fn endpoint(&self, uid: &str, object: &Cluster, terms: &ClusterTerms) -> Option<String> {
        if terms.lifecycle.kind == core::Kind::Pods {
            return None;
        }
        let leader = committed(object).into_iter().find(|member| member.rank == 0)?;
        let slices = self.entries.get(uid)?.slices.values();
        let mut members = slices.filter_map(|slice| slice.status.as_ref()).flat_map(|status| &status.members);
        let found = members.find(|m| m.rank == 0 && u64::try_from(m.incarnation) == Ok(leader.incarnation))?;
        found.address.clone()
    }

    /// Writes a status that commits nothing, when it says something new.
    fn tell(&mut self, uid: &str, object: &Arc<Cluster>, old: &ClusterStatus, status: ClusterStatus, now: Now) {
        if *old == status {
            return;
        }
        let next = self.entries.get(uid).and_then(|entry| entry.written).map(|written| written + STATUS_PACE);
        if let Some(next) = next.filter(|next| *next > now.boot && !is_transition(old, &status)) {
            return self.schedule(uid, next);
        }
        self.put(uid, object, old, status);
    }

    fn put(&mut self, uid: &str, object: &Arc<Cluster>, old: &ClusterStatus, status: ClusterStatus) {
        let Some(term) = self.lead.as_ref().map(|lead| lead.term) else { return };
        let notes = notes(old, &status);
        let mut cluster = Cluster::clone(object);
        cluster.status = Some(ClusterStatus { term, ..status });
        self.dispatch(uid, Job::Status { cluster: Box::new(cluster), notes });
    }
}

fn holding(member: Member, gpus: u32) -> Holding {
    Holding { rank: member.rank, incarnation: member.incarnation, site: member.site, node: member.node, gpus }
}

/// A request without who asks: equal ones are refused alike. Which ranks does not matter, how many does.
fn shape(request: &Request) -> String {
    let anonymous = Request { cluster: String::new(), ranks: Vec::new(), ..request.clone() };
    format!("{}/{anonymous:?}", request.ranks.len())
}
