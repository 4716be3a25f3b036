//! `Cluster.status` from what was decided: pure, and the same for the same facts, so that nothing is written twice.

use std::collections::BTreeSet;

use atoll_api::conditions::{self, cluster as types, cluster_reason as reason};
use atoll_api::names::LABEL_CLUSTER_UID;
use atoll_api::{ClusterStatus, PlacementStatus};
use atoll_core::cluster::{Cause, End, Kind, Step, Terms};
use atoll_core::placement::{Refusal, RefusalKind};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::commit::price_per_hour;

/// Words for `status.state`.
mod state {
    pub(super) const PENDING: &str = "Pending";
    pub(super) const STARTING: &str = "Starting";
    pub(super) const RUNNING: &str = "Running";
    pub(super) const DEGRADED: &str = "Degraded";
    pub(super) const SUSPENDED: &str = "Suspended";
    pub(super) const COMPLETE: &str = "Complete";
    pub(super) const FAILED: &str = "Failed";
}

/// Most characters of a message that lists names.
const LONGEST: usize = 500;

/// What a status is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// UID of the Cluster.
    pub uid: &'a str,
    /// Generation of the spec that was decided on.
    pub generation: Option<i64>,
    /// What was asked for.
    pub terms: &'a Terms,
    /// What was decided.
    pub step: &'a Step,
    /// Why wanted members were not placed.
    pub refusal: Option<&'a Refusal>,
    /// Why members on draining Sites were not placed elsewhere.
    pub stuck: Option<&'a Refusal>,
    /// The highest epoch ever used.
    pub epoch: u64,
    /// The commit.
    pub placement: Option<PlacementStatus>,
    /// Members on GPUs that are Unhealthy, in order of rank.
    pub ailing: &'a [Ailing],
    /// Address of rank 0, when its Site says so.
    pub endpoint: Option<String>,
    /// Now.
    pub now: Timestamp,
}

/// A member that holds a GPU that is Unhealthy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ailing {
    /// Its rank.
    pub rank: i32,
    /// Name of its Site.
    pub site: String,
    /// Name of its Node there.
    pub node: String,
    /// Which GPU, and what is wrong with it, as the Site says.
    pub what: String,
}

/// What the Cluster's conditions say, in one place.
struct Story {
    state: &'static str,
    ready: bool,
    reason: &'static str,
    message: String,
}

/// The status that follows from `facts`. `name_of` turns a Site's name into the one for people.
#[must_use]
pub fn compose(old: &ClusterStatus, facts: &Facts<'_>, name_of: &dyn Fn(&str) -> String) -> ClusterStatus {
    let step = facts.step;
    let placed = facts.placement.as_ref().map_or(0, members);
    let story = story(facts, placed, name_of);
    let mut status = old.clone();
    status.observed_generation = facts.generation;
    status.state = Some(story.state.to_owned());
    status.epoch = i64::try_from(facts.epoch).unwrap_or(i64::MAX);
    // What has left the commit with this step is not Ready any more.
    let ready = if step.recommits() { step.tally.ready.min(count(step.keep.len())) } else { step.tally.ready };
    status.ready = signed(if placed == 0 { 0 } else { ready });
    status.total = signed(placed);
    status.ready_members = Some(format!("{}/{}", status.ready, facts.terms.count));
    status.gpus = facts.placement.as_ref().map_or(0, |placement| placement.gpus.saturating_mul(signed(placed)));
    status.price_per_hour = facts.placement.as_ref().map(|placement| price_per_hour(placement).to_string());
    status.location = facts.placement.as_ref().and_then(|placement| location(placement, name_of));
    status.endpoint = facts.placement.as_ref().and(facts.endpoint.clone());
    status.failures = signed(step.failures);
    if step.started && status.started_at.is_none() {
        status.started_at = Some(Time(facts.now));
    }
    if step.end.is_some() && status.finished_at.is_none() {
        status.finished_at = Some(Time(facts.now));
    }
    status.selector = Some(format!("{LABEL_CLUSTER_UID}={}", facts.uid));
    status.message = Some(story.message.clone());
    status.placement.clone_from(&facts.placement);
    set_conditions(&mut status.conditions, facts, placed, &story, name_of);
    status
}

/// The status of a Cluster whose spec cannot be understood: what it holds stays as it is.
#[must_use]
pub fn invalid(old: &ClusterStatus, generation: Option<i64>, message: &str, now: Timestamp) -> ClusterStatus {
    let mut status = old.clone();
    status.observed_generation = generation;
    status.state.get_or_insert_with(|| state::PENDING.to_owned());
    status.message = Some(message.to_owned());
    let conditions = &mut status.conditions;
    conditions::set_condition(conditions, types::READY, false, reason::INVALID, message, generation, now);
    status
}

/// Whether the difference must be seen at once. The rest may wait, so that no object is written more than once a second.
#[must_use]
pub fn is_transition(old: &ClusterStatus, new: &ClusterStatus) -> bool {
    let shape = |status: &ClusterStatus| -> Vec<(String, String, String)> {
        let of = |c: &Condition| (c.type_.clone(), c.status.clone(), c.reason.clone());
        status.conditions.iter().map(of).collect()
    };
    old.state != new.state
        || old.placement != new.placement
        || old.epoch != new.epoch
        || old.failures != new.failures
        || old.observed_generation != new.observed_generation
        || old.started_at != new.started_at
        || old.finished_at != new.finished_at
        || shape(old) != shape(new)
}

fn set_conditions(
    conditions: &mut Vec<Condition>,
    facts: &Facts<'_>,
    placed: u32,
    story: &Story,
    name_of: &dyn Fn(&str) -> String,
) {
    let (generation, now) = (facts.generation, facts.now);
    let mut set = |type_: &str, holds: bool, reason: &str, message: &str| {
        conditions::set_condition(conditions, type_, holds, reason, message, generation, now);
    };
    set(types::READY, story.ready, story.reason, &story.message);
    if placed > 0 {
        set(types::PLACED, true, reason::PLACED, &format!("{placed} of {} members are placed", facts.terms.count));
    } else {
        set(types::PLACED, false, story.reason, &story.message);
    }
    if let Some(end) = facts.step.end {
        let type_ = if end.well() { types::COMPLETE } else { types::FAILED };
        set(type_, true, story.reason, &story.message);
    }
    let suspended = facts.terms.suspend && facts.step.end.is_none();
    if suspended || conditions::condition(conditions, types::SUSPENDED).is_some() {
        let message = if suspended { "spec.suspend is true" } else { "spec.suspend is false" };
        conditions::set_condition(conditions, types::SUSPENDED, suspended, reason::SUSPENDED, message, generation, now);
    }
    let well = facts.ailing.is_empty();
    if !well || conditions::condition(conditions, types::GPUS_HEALTHY).is_some() {
        let reason = if well { reason::ALL_HEALTHY } else { reason::GPU_UNHEALTHY };
        let message = ailing_words(facts.ailing, name_of);
        conditions::set_condition(conditions, types::GPUS_HEALTHY, well, reason, &message, generation, now);
    }
}

/// The first of them in full, the others as a number.
fn ailing_words(ailing: &[Ailing], name_of: &dyn Fn(&str) -> String) -> String {
    const TOLD: usize = 3;
    if ailing.is_empty() {
        return "no member runs on a GPU that is Unhealthy".to_owned();
    }
    let told = ailing.iter().take(TOLD);
    let told = told.map(|member| {
        format!(
            "rank {} on {} of {}: {}",
            member.rank,
            member.node,
            name_of(&member.site),
            clip(member.what.clone(), 200)
        )
    });
    let more = ailing.len().saturating_sub(TOLD);
    let more = (more > 0).then(|| format!("and {more} more members"));
    told.chain(more).collect::<Vec<_>>().join("; ")
}

fn story(facts: &Facts<'_>, placed: u32, name_of: &dyn Fn(&str) -> String) -> Story {
    let (terms, step) = (facts.terms, facts.step);
    let told = |state, ready, reason, message| Story { state, ready, reason, message };
    if let Some(end) = step.end {
        let state = if end.well() { state::COMPLETE } else { state::FAILED };
        let (reason, message) = ended(end, terms, step, name_of);
        return told(state, false, reason, message);
    }
    if terms.suspend {
        return told(state::SUSPENDED, false, reason::SUSPENDED, "spec.suspend is true".to_owned());
    }
    if placed == 0 {
        let (reason, message) = unplaced(facts);
        return told(state::PENDING, false, reason, message);
    }
    let up = step.tally.ready + step.tally.succeeded;
    let recommits = step.recommits() || step.want.is_some() && facts.refusal.is_none();
    let ready = up >= terms.min && !recommits;
    let state = match up {
        _ if recommits && facts.refusal.is_none() => state::STARTING,
        up if up >= terms.count => state::RUNNING,
        up if up > 0 && (ready || step.tally.cut_off > 0 || facts.refusal.is_some()) => state::DEGRADED,
        _ if step.tally.cut_off > 0 => state::DEGRADED,
        _ => state::STARTING,
    };
    let (reason, message) = placed_words(facts, placed, up, recommits, name_of);
    told(state, ready, reason, message)
}

fn placed_words(
    facts: &Facts<'_>,
    placed: u32,
    up: u32,
    recommits: bool,
    name_of: &dyn Fn(&str) -> String,
) -> (&'static str, String) {
    let (terms, step) = (facts.terms, facts.step);
    let tally = &step.tally;
    if tally.cut_off > 0 && !recommits {
        let sites: Vec<String> = tally.lost_sites.iter().map(|site| name_of(site)).collect();
        let (reason, what) = if tally.frozen > 0 {
            let why = "replacing is frozen because so many Sites vanished at once that the fault is more likely the hub's; \
                       they are replaced when that is over, unless their Sites are back";
            (reason::REPLACING_FROZEN, why)
        } else {
            (reason::SITE_LOST, "they count as stopped when their fence expires")
        };
        let message =
            format!("{} of {} members are cut off with {}; {what}", tally.cut_off, terms.count, sites.join(", "));
        return (reason, clip(message, LONGEST));
    }
    if let Some(refusal) = facts.refusal {
        let message = format!("{placed} of {} members are placed. For the others: {}", terms.count, refusal.message());
        return (reason::MEMBERS_MISSING, message);
    }
    if tally.draining > 0 && !recommits {
        let sites: Vec<String> = tally.draining_sites.iter().map(|site| name_of(site)).collect();
        let why = facts.stuck.map_or_else(
            || "they stay until their supplier's deadline".to_owned(),
            |refusal| {
                format!("they stay until another place is found or their supplier's deadline: {}", refusal.message())
            },
        );
        let message =
            format!("{} of {} members are on draining {}; {why}", tally.draining, terms.count, sites.join(", "));
        return (reason::SITE_DRAINING, clip(message, LONGEST));
    }
    if tally.stopping > 0 {
        let message =
            format!("{placed} of {} members are placed, others wait for {} to stop", terms.count, tally.stopping);
        return (reason::REPLACING, message);
    }
    if tally.reserving > 0 && !recommits {
        let sites = facts.placement.as_ref().map_or(0, |placement| site_names(placement).len());
        if sites > 1 {
            return (reason::RESERVING, format!("{sites} Sites are reserving capacity; members start when all have"));
        }
    }
    if up >= terms.count && !recommits {
        return (reason::MEMBERS_READY, format!("all {} members are Ready", terms.count));
    }
    (reason::MEMBERS_STARTING, format!("{} of {} members are Ready", up.min(placed), terms.count))
}

fn unplaced(facts: &Facts<'_>) -> (&'static str, String) {
    if let Some(refusal) = facts.refusal {
        let reason = match refusal.kind {
            RefusalKind::NoSuchGpu => reason::NO_SUCH_GPU,
            RefusalKind::InsufficientCapacity => reason::INSUFFICIENT_CAPACITY,
        };
        return (reason, refusal.message());
    }
    let again = facts.terms.kind != Kind::Pods;
    match facts.step.cause {
        Some(Cause::Refused) => (reason::SITE_REFUSED, "a Site refused the members that were placed there".to_owned()),
        Some(Cause::Revoked) => (reason::PLACEMENT_REVOKED, "another commit holds the GPUs; placing again".to_owned()),
        Some(Cause::Failed | Cause::Lost) if again => {
            (reason::RESTARTING, "the gang starts again when all its members have stopped".to_owned())
        }
        _ if facts.step.tally.stopping > 0 => {
            let reason = if again { reason::RESTARTING } else { reason::REPLACING };
            (reason, format!("{} former members have not stopped yet", facts.step.tally.stopping))
        }
        _ => (reason::REPLACING, "members are being placed".to_owned()),
    }
}

fn ended(end: End, terms: &Terms, step: &Step, name_of: &dyn Fn(&str) -> String) -> (&'static str, String) {
    match end {
        End::Succeeded if terms.kind == Kind::Ray => (reason::SUCCEEDED, "rank 0 succeeded".to_owned()),
        End::Succeeded => (reason::SUCCEEDED, format!("all {} members succeeded", step.tally.succeeded)),
        End::DurationReached => (reason::DURATION_REACHED, "it ran as long as spec.duration says".to_owned()),
        End::BackoffLimitExceeded => {
            let message = format!("{} failures, spec.backoffLimit is {}", step.failures, terms.backoff_limit);
            (reason::BACKOFF_LIMIT_EXCEEDED, message)
        }
        End::MembersLost => {
            let sites: Vec<String> = step.tally.lost_sites.iter().map(|site| name_of(site)).collect();
            let place = if sites.is_empty() { "a Site".to_owned() } else { sites.join(", ") };
            (
                reason::MEMBERS_LOST,
                clip(format!("members were lost with {place} and the disconnection policy is Fail"), LONGEST),
            )
        }
    }
}

fn members(placement: &PlacementStatus) -> u32 {
    let nodes = placement.sites.iter().flat_map(|site| &site.nodes);
    nodes.map(|node| u32::try_from(node.count).unwrap_or_default()).sum()
}

fn site_names(placement: &PlacementStatus) -> BTreeSet<&str> {
    placement.sites.iter().map(|site| site.site.as_str()).collect()
}

fn location(placement: &PlacementStatus, name_of: &dyn Fn(&str) -> String) -> Option<String> {
    let sites = site_names(placement);
    match sites.len() {
        0 => None,
        1 => sites.first().map(|site| name_of(site)),
        many => Some(format!("{many} Sites")),
    }
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn clip(text: String, most: usize) -> String {
    if text.chars().count() <= most { text } else { text.chars().take(most - 1).chain(['…']).collect() }
}
