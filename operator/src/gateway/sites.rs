//! What the gateway writes of a Site: its session and whether it is connected.
//!
//! Every write carries the resourceVersion that it was decided on. So sessions are numbered without gaps or twins, and
//! a gateway that has lost a Site to another one cannot call it absent afterwards.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::conditions::{self, set_condition, site_reason};
use atoll_api::names::FIELD_MANAGER_GATEWAY;
use atoll_api::{Availability, Site, SiteSession, Supplier};
use atoll_runtime::clock::boot_time;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::cache::{Cache, lean};
use super::coalesce::Outcome;
use super::metrics::{Metrics, Written};
use super::pace::{LossSeen, Pace, Turn};

/// How often a write is decided anew when somebody else's came in between.
const CONFLICTS: usize = 16;
/// Pause before a failed write is tried again; doubled each time up to [`RETRY_CAP`].
const RETRY: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(10);

/// A session could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// No such Site.
    #[error("this Site is not known to the hub any more; join again with a new token")]
    Unknown,
    /// `spec.suspended` is true.
    #[error("this Site is suspended; ask the operators of the hub")]
    Suspended,
    /// `spec.suspended` of its Supplier is true.
    #[error("the supplier of this Site is suspended; ask the operators of the hub")]
    SupplierSuspended,
    /// The API server did not take it.
    #[error("the hub cannot note the session: {0}")]
    Api(#[from] kube::Error),
    /// Others kept changing the Site.
    #[error("the hub cannot note the session: too many changes at the same time")]
    Contended,
}

/// Who begins a session.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// Name of the gateway's Lease.
    pub gateway: String,
    /// The agent's boot id.
    pub boot_id: String,
    /// The agent's version.
    pub agent_version: String,
    /// What the supplier wants.
    pub availability: Availability,
}

/// A session that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The gateway that held it.
    pub gateway: String,
    /// Its number.
    pub number: i64,
    /// When its last lease was granted, or later; boot time of this process's machine.
    pub last_grant: Duration,
    /// Reason of the condition.
    pub reason: &'static str,
}

/// Writes of Sites.
#[derive(Clone)]
pub struct Sites {
    api: Api<Site>,
    cache: Arc<Cache<Site>>,
    suppliers: Arc<Cache<Supplier>>,
    metrics: Metrics,
    events: Recorder,
    pace: Arc<Pace>,
}

impl Sites {
    /// Writes through `api` and compares with `cache`.
    pub fn new(
        api: Api<Site>,
        cache: Arc<Cache<Site>>,
        suppliers: Arc<Cache<Supplier>>,
        metrics: Metrics,
        events: Recorder,
    ) -> Self {
        Self { api, cache, suppliers, metrics, events, pace: Arc::default() }
    }

    /// How many cached Sites are like this.
    #[must_use]
    pub fn count(&self, like: impl Fn(&Site) -> bool) -> usize {
        self.cache.count(like)
    }

    /// The Site as cached, or as the API has it when it is too new for that.
    pub async fn find(&self, name: &str) -> Result<Option<Site>, kube::Error> {
        match self.cache.get(name) {
            Some(site) => Ok(Some((*site).clone())),
            None => self.api.get_opt(name).await,
        }
    }

    /// Begins a session: its number is noted before anything is granted in it.
    pub async fn claim(&self, name: &str, claimant: &Claimant, turn: Turn) -> Result<Site, ClaimError> {
        let mut site = self.find(name).await?.ok_or(ClaimError::Unknown)?;
        let mut _turn = None;
        if !site.spec.suspended {
            _turn = self.pace.turn(turn).await;
            // The line may have been long.
            site = self.find(name).await?.ok_or(ClaimError::Unknown)?;
        }
        for _ in 0..CONFLICTS {
            if site.spec.suspended {
                return Err(ClaimError::Suspended);
            }
            if self.suppliers.get(&site.spec.supplier).is_some_and(|supplier| supplier.spec.suspended) {
                return Err(ClaimError::SupplierSuspended);
            }
            let patch = claimed(&site, claimant, Timestamp::now());
            match self.write(name, &patch).await {
                Ok(site) => return Ok(site),
                Err(kube::Error::Api(status)) if status.is_conflict() => {
                    site = self.api.get_opt(name).await?.ok_or(ClaimError::Unknown)?;
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => return Err(ClaimError::Unknown),
                Err(error) => return Err(error.into()),
            }
        }
        Err(ClaimError::Contended)
    }

    /// Notes that a session is over, unless a newer one has begun; tries until it is done or `until` is cancelled.
    pub async fn lose(&self, name: &str, loss: &Loss, until: &CancellationToken) {
        let mut pause = RETRY;
        loop {
            let result = tokio::select! {
                () = until.cancelled() => return,
                result = self.lose_once(name, loss) => result,
            };
            let Err(error) = result else { return };
            tracing::warn!(site = name, %error, "cannot note that the Site is absent; trying again");
            tokio::select! {
                () = until.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = RETRY_CAP.min(pause * 2),
            }
        }
    }

    /// One attempt at that; decided anew when somebody else's write comes in between.
    pub async fn lose_once(&self, name: &str, loss: &Loss) -> Result<(), kube::Error> {
        let seen = Arc::new(self.pace.loss());
        for _ in 1..CONFLICTS {
            match self.try_lose(name, loss, &seen).await {
                Err(kube::Error::Api(status)) if status.is_conflict() => {}
                result => return result,
            }
        }
        self.try_lose(name, loss, &seen).await
    }

    async fn try_lose(&self, name: &str, loss: &Loss, seen: &Arc<LossSeen>) -> Result<(), kube::Error> {
        let _turn = self.pace.turn(Turn::Loss).await;
        // Read anew: the cache may lag behind the beginning of a newer session.
        let Some(site) = self.api.get_opt(name).await? else { return Ok(()) };
        let age = boot_time().saturating_sub(loss.last_grant);
        let Some(patch) = lost(&site, loss, age, Timestamp::now()) else { return Ok(()) };
        let site = self.write(name, &patch).await?;
        tracing::info!(site = name, session = loss.number, reason = loss.reason, last_grant_age = ?age, "absent");
        let event = Event {
            type_: EventType::Warning,
            reason: loss.reason.to_owned(),
            note: Some(message(loss, granted(age, Timestamp::now()))),
            action: "Disconnect".to_owned(),
            secondary: None,
        };
        let (pace, events, seen) = (Arc::clone(&self.pace), self.events.clone(), Arc::clone(seen));
        tokio::spawn(async move {
            if pace.alone(&seen).await
                && let Err(error) = events.publish(&event, &site.object_ref(&())).await
            {
                tracing::debug!(%error, "cannot publish an event");
            }
        });
        Ok(())
    }

    /// Notes what a supplier wants, unless a newer session of its Site has begun.
    pub async fn available(self, name: String, (number, availability): (i64, Availability)) -> Outcome {
        let mut found = self.find(&name).await;
        for _ in 0..CONFLICTS {
            let site = match found {
                Ok(Some(site)) => site,
                Ok(None) => return Outcome::Dropped,
                Err(_) => return Outcome::Retry,
            };
            let Some(patch) = available(&site, number, availability) else { return Outcome::Dropped };
            match self.write(&name, &patch).await {
                Ok(_) => {
                    tracing::info!(site = name, session = number, ?availability, "the supplier wants");
                    return Outcome::Written;
                }
                Err(kube::Error::Api(status)) if status.is_conflict() => found = self.api.get_opt(&name).await,
                Err(error) => {
                    tracing::warn!(site = name, %error, "cannot note what the supplier wants; trying again");
                    return Outcome::Retry;
                }
            }
        }
        Outcome::Retry
    }

    async fn write(&self, name: &str, patch: &Value) -> Result<Site, kube::Error> {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER_GATEWAY.to_owned()), ..PatchParams::default() };
        let result = self.api.patch_status(name, &params, &Patch::Merge(patch)).await.map(lean);
        self.metrics.write(Written::Site, &result);
        if let Ok(site) = &result {
            self.cache.written(Site::clone(site));
        }
        result
    }
}

/// The patch that begins a session.
fn claimed(site: &Site, claimant: &Claimant, now: Timestamp) -> Value {
    let status = site.status.clone().unwrap_or_default();
    let session = SiteSession {
        number: status.session.map_or(0, |session| session.number).saturating_add(1),
        gateway: claimant.gateway.clone(),
        boot_id: Some(claimant.boot_id.clone()),
        agent_version: Some(claimant.agent_version.clone()),
        last_grant: None,
        last_grant_age_milliseconds: None,
    };
    let mut conditions = status.conditions;
    let generation = site.metadata.generation;
    let message = "The Site's agent has a live session";
    set_condition(
        &mut conditions,
        conditions::site::CONNECTED,
        true,
        site_reason::SESSION_LIVE,
        message,
        generation,
        now,
    );
    let mut session = json!(session);
    // A merge patch keeps what it does not name.
    session["lastGrant"] = Value::Null;
    session["lastGrantAgeMilliseconds"] = Value::Null;
    // What is fenced is the operator's, and stays.
    let availability = claimant.availability;
    checked(site, &json!({ "session": session, "conditions": conditions, "availability": availability }))
}

/// The patch that notes what a supplier wants; None when that stands there, or a newer session has begun.
fn available(site: &Site, number: i64, availability: Availability) -> Option<Value> {
    let status = site.status.as_ref()?;
    let newest = status.session.as_ref().map_or(0, |session| session.number);
    let known = status.availability.unwrap_or_default();
    (newest == number && known != availability).then(|| checked(site, &json!({ "availability": availability })))
}

/// The patch that ends a session whose last lease was granted `age` ago; None when it is not the newest any more, or ended
/// already.
fn lost(site: &Site, loss: &Loss, age: Duration, now: Timestamp) -> Option<Value> {
    let status = site.status.clone().unwrap_or_default();
    let session = status.session.filter(|s| s.number == loss.number && s.gateway == loss.gateway)?;
    if session.last_grant.is_some() {
        return None;
    }
    let mut conditions = status.conditions;
    let generation = site.metadata.generation;
    let last_grant = granted(age, now);
    let message = message(loss, last_grant);
    set_condition(&mut conditions, conditions::site::CONNECTED, false, loss.reason, &message, generation, now);
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let session = json!({ "lastGrant": Time(last_grant), "lastGrantAgeMilliseconds": age });
    Some(checked(site, &json!({ "session": session, "conditions": conditions })))
}

/// When that was, for people: nothing is decided on it.
fn granted(age: Duration, now: Timestamp) -> Timestamp {
    SignedDuration::try_from(age).ok().and_then(|age| now.saturating_sub(age).ok()).unwrap_or(now)
}

fn message(loss: &Loss, last_grant: Timestamp) -> String {
    let why = match loss.reason {
        site_reason::SUSPENDED => "The Site is suspended",
        site_reason::SUPPLIER_SUSPENDED => "The Site's supplier is suspended",
        site_reason::GATEWAY_LOST => "The gateway of its session is gone and the Site came to no other",
        _ => "No heartbeat of the Site's agent for too long",
    };
    format!("{why}; its last lease was granted at {} or before", last_grant.strftime("%Y-%m-%dT%H:%M:%SZ"))
}

fn checked(site: &Site, status: &Value) -> Value {
    json!({
        "metadata": { "uid": site.uid(), "resourceVersion": site.resource_version() },
        "status": status,
    })
}

#[cfg(test)]
mod tests {
    use atoll_api::SiteStatus;

    use super::super::fixtures;
    use super::*;

    const AGE: Duration = Duration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn claimant(gateway: &str) -> Claimant {
        Claimant {
            gateway: gateway.to_owned(),
            boot_id: "boot".to_owned(),
            agent_version: "0.1.0".to_owned(),
            availability: Availability::Accepting,
        }
    }

    fn loss(gateway: &str, number: i64) -> Loss {
        Loss { gateway: gateway.to_owned(), number, last_grant: Duration::ZERO, reason: site_reason::HEARTBEATS_MISSED }
    }

    /// What a merge patch of the status does, for the fields that are patched here.
    fn patched(site: &Site, patch: &Value) -> Site {
        let mut status = json!(site.status.clone().unwrap_or_default());
        status["conditions"] = patch["status"]["conditions"].clone();
        if !status["session"].is_object() {
            status["session"] = json!({});
        }
        for (key, value) in patch["status"]["session"].as_object().unwrap() {
            status["session"][key] = value.clone();
        }
        Site { status: Some(serde_json::from_value::<SiteStatus>(status).unwrap()), ..site.clone() }
    }

    #[test]
    fn numbers_of_sessions_grow_and_the_last_grant_is_forgotten() {
        let mut site = fixtures::site("site-a");
        for number in 1..=3 {
            site = patched(&site, &claimed(&site, &claimant("gw"), at(number)));
            let status = site.status.clone().unwrap();
            let session = status.session.unwrap();
            assert_eq!((session.number, session.gateway.as_str()), (number, "gw"));
            assert_eq!((session.last_grant, session.last_grant_age_milliseconds), (None, None));
            assert!(conditions::is_true(&status.conditions, conditions::site::CONNECTED));
            site = patched(&site, &lost(&site, &loss("gw", number), AGE, at(number)).unwrap());
            let status = site.status.clone().unwrap();
            let session = status.session.unwrap();
            assert_eq!(session.last_grant_age_milliseconds, Some(30_000));
            assert_eq!(session.last_grant.unwrap().0, at(number) - SignedDuration::from_secs(30));
            assert!(!conditions::is_true(&status.conditions, conditions::site::CONNECTED));
        }
    }

    #[test]
    fn a_gateway_that_lost_the_site_to_another_writes_nothing() {
        let site = fixtures::site("site-a");
        let first = patched(&site, &claimed(&site, &claimant("gw-1"), at(0)));
        let second = patched(&first, &claimed(&first, &claimant("gw-2"), at(1)));
        assert_eq!(lost(&second, &loss("gw-1", 1), AGE, at(40)), None);
        assert_eq!(lost(&second, &loss("gw-1", 2), AGE, at(40)), None);
        assert!(lost(&second, &loss("gw-2", 2), AGE, at(40)).is_some());
        assert_eq!(lost(&site, &loss("gw-1", 1), AGE, at(40)), None);
    }

    #[test]
    fn a_loss_is_noted_once() {
        let site = fixtures::site("site-a");
        let first = patched(&site, &claimed(&site, &claimant("gw"), at(0)));
        let gone = patched(&first, &lost(&first, &loss("gw", 1), AGE, at(40)).unwrap());
        assert_eq!(lost(&gone, &loss("gw", 1), AGE, at(41)), None);
    }

    #[test]
    fn what_a_supplier_wants_is_noted_with_the_session_and_when_it_changes() {
        let site = fixtures::site("site-a");
        let patch = claimed(&site, &Claimant { availability: Availability::Draining, ..claimant("gw") }, at(0));
        assert_eq!((&patch["status"]["availability"], patch["status"].get("fenced")), (&json!("Draining"), None));
        let mut live = patched(&site, &patch);
        live.status.as_mut().unwrap().availability = Some(Availability::Draining);
        assert_eq!(available(&live, 1, Availability::Draining), None, "it stands there");
        let back = available(&live, 1, Availability::Accepting).unwrap();
        assert_eq!(
            (&back["status"], &back["metadata"]["resourceVersion"]),
            (&json!({"availability": "Accepting"}), &json!("1"))
        );
        assert_eq!(available(&live, 2, Availability::Paused), None, "not of this session");
        live.status.as_mut().unwrap().availability = None;
        assert_eq!(available(&live, 1, Availability::Accepting), None, "who says nothing accepts");
    }

    #[test]
    fn others_conditions_stay_and_every_patch_is_checked() {
        let mut site = fixtures::site("site-a");
        let mut status = SiteStatus::default();
        set_condition(&mut status.conditions, conditions::site::ACCEPTED, true, "Joined", "", Some(1), at(0));
        site.status = Some(status);
        let patch = claimed(&site, &claimant("gw"), at(1));
        assert_eq!(patch["metadata"]["resourceVersion"], "1");
        assert_eq!(patch["metadata"]["uid"], "uid-site-a");
        let site = patched(&site, &patch);
        assert!(conditions::is_true(&site.status.unwrap().conditions, conditions::site::ACCEPTED));
    }
}
