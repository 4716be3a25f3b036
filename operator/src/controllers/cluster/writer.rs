//! Writes: one at a time for each Cluster, a bounded number in flight, each only while leadership lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atoll_api::names::{FIELD_MANAGER_OPERATOR, SLICE_FINALIZER};
use atoll_api::{Cluster, ClusterSlice, Site};
use atoll_runtime::backoff::Backoff;
use atoll_runtime::leader::Leadership;
use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::Recorder;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::fences::{FenceOutcome, FenceWrite};
use super::notes::{self, Note};
use super::sites;
use crate::controllers::failure::Failure;
use crate::metrics::Metrics;

/// Requests in flight.
const IN_FLIGHT: usize = 64;
/// Events in flight: they must not hold up commits.
const EVENTS_IN_FLIGHT: usize = 16;
/// A resourceVersion that no object reaches: the watch is awaited until it says that the object is gone.
pub const GONE: u64 = u64::MAX;

/// One write of a slice.
#[derive(Clone, Debug)]
pub enum SliceWrite {
    /// POST: refused where there is one already.
    Create(Box<ClusterSlice>),
    /// PUT, with the resourceVersion that it was decided on.
    Replace(Box<ClusterSlice>),
    /// Start the deletion of this very version.
    Delete(Arc<ClusterSlice>),
    /// Take the finalizer away.
    Release(Arc<ClusterSlice>),
}

impl SliceWrite {
    fn slice(&self) -> &ClusterSlice {
        match self {
            Self::Create(slice) | Self::Replace(slice) => slice,
            Self::Delete(slice) | Self::Release(slice) => slice,
        }
    }
}

/// What is to be written for one Cluster.
#[derive(Clone, Debug)]
pub enum Job {
    /// PUT of the status, with the resourceVersion that it was decided on.
    Status {
        /// The Cluster with its new status.
        cluster: Box<Cluster>,
        /// What its owner is told once that is written.
        notes: Vec<Note>,
    },
    /// Slices.
    Slices(Vec<SliceWrite>),
    /// Deletion of the Cluster itself.
    Delete(Arc<Cluster>),
    /// No write: whether the Cluster of this namespace, name and UID really is gone, before its slices are deleted.
    Confirm {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// UID.
        uid: String,
    },
}

/// How a job ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// UID of the Cluster.
    pub uid: String,
    /// resourceVersion of the Cluster that the watch must reach before anything else is decided.
    pub cluster: Option<u64>,
    /// The same for slices that were written, or that somebody else wrote first, by name.
    pub applied: Vec<(String, u64)>,
    /// The same for slices that are on their way out, by name.
    pub leaving: Vec<(String, u64)>,
    /// Slices that were found to be gone.
    pub gone: Vec<String>,
    /// Slices whose creation was tried more than once, by name.
    pub doubtful: Vec<String>,
    /// The status was written.
    pub committed: bool,
    /// The Cluster is gone, as far as a read of it can tell.
    pub confirmed_gone: bool,
    /// Something was refused; to be tried again after a while.
    pub failed: bool,
}

/// Performs jobs.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    namespace: String,
    leadership: Arc<Leadership>,
    recorder: Recorder,
    metrics: Metrics,
    shutdown: CancellationToken,
    permits: Arc<Semaphore>,
    events: Arc<Semaphore>,
    backoff: Arc<Backoff<String>>,
}

/// The resourceVersion as a number: since Kubernetes 1.35 they can be compared.
#[must_use]
pub fn version(object: &impl ResourceExt) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

impl Writer {
    /// A writer for this term; gateways' Leases are in `namespace`. After `shutdown` nothing is tried again.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: String,
        leadership: Arc<Leadership>,
        recorder: Recorder,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            client,
            namespace,
            leadership,
            recorder,
            metrics,
            shutdown,
            permits: Arc::new(Semaphore::new(IN_FLIGHT)),
            events: Arc::new(Semaphore::new(EVENTS_IN_FLIGHT)),
            backoff: Arc::new(Backoff::new(Duration::from_millis(200), Duration::from_secs(30))),
        }
    }

    /// Performs `job`. A write whose fate is not known is repeated as it is until it is known: it carries a
    /// resourceVersion or creates something, so it happens once.
    pub async fn perform(&self, uid: String, job: Job) -> Outcome {
        let mut outcome = Outcome { uid: uid.clone(), ..Outcome::default() };
        match job {
            Job::Status { cluster, notes } => self.put_status(&cluster, notes, &mut outcome).await,
            Job::Slices(writes) => {
                for (doubtful, done) in join_all(writes.iter().map(|write| self.write_slice(&uid, write))).await {
                    outcome.doubtful.extend(doubtful);
                    match done {
                        SliceDone::Applied(name, version) => outcome.applied.push((name, version)),
                        SliceDone::Leaving(name, version) => outcome.leaving.push((name, version)),
                        SliceDone::Gone(name) => outcome.gone.push(name),
                        SliceDone::Failed => outcome.failed = true,
                    }
                }
            }
            Job::Delete(cluster) => self.delete(&cluster, &mut outcome).await,
            Job::Confirm { namespace, name, uid } => {
                let api: Api<Cluster> = Api::namespaced(self.client.clone(), &namespace);
                match self.until_known("Cluster", &uid, || api.get_opt(&name)).await {
                    Ok(found) => {
                        outcome.confirmed_gone =
                            found.is_none_or(|cluster| cluster.metadata.uid.as_deref() != Some(&uid));
                        // It is there: the watch brings it while the pause lasts.
                        outcome.failed = !outcome.confirmed_gone;
                    }
                    Err(_) => outcome.failed = true,
                }
            }
        }
        if !outcome.failed {
            self.backoff.reset(&uid);
        }
        outcome
    }

    /// Writes what is fenced at a Site, on the version of the Site at which it was seen lost: a session that began meanwhile
    /// makes that fail. Whatever the API holds then is read back.
    pub async fn fence(&self, write: FenceWrite) -> FenceOutcome {
        let name = write.name();
        let mut outcome = FenceOutcome { site: name.clone(), present: None, failed: false };
        if !self.still_holds(&write).await {
            // The watch brings the Lease as it is while the pause lasts.
            outcome.failed = true;
            return outcome;
        }
        let api: Api<Site> = Api::all(self.client.clone());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER_OPERATOR.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(write.patch());
        let written = self.until_known("Site", &name, || api.patch_status(&name, &params, &patch)).await;
        let result = match written {
            Ok(site) => {
                if write.adds {
                    tracing::info!(site = name, fenced = ?write.fenced, "fenced");
                }
                outcome.present = Some(site);
                "written"
            }
            Err(Failure::Conflict) => {
                match self.until_known("Site", &name, || api.get_opt(&name)).await {
                    Ok(site) => outcome.present = site,
                    Err(_) => outcome.failed = true,
                }
                "conflict"
            }
            // The watch says that it is gone.
            Err(Failure::Gone) => {
                outcome.failed = true;
                "gone"
            }
            Err(_) => {
                outcome.failed = true;
                "refused"
            }
        };
        if write.adds {
            self.metrics.fences.with_label_values(&[result]).inc();
        }
        if !outcome.failed {
            self.backoff.reset(&name);
        }
        outcome
    }

    /// Whether a Lease that shows a Site as lost is in the API as it was seen: a watch that hangs shows one unchanged.
    async fn still_holds(&self, write: &FenceWrite) -> bool {
        let Some(evidence) = &write.evidence else { return true };
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let lease = self.until_known("Lease", &write.name(), || api.get_opt(&evidence.lease)).await;
        lease.is_ok_and(|lease| lease.as_ref().and_then(sites::renewed) == evidence.renewed)
    }

    /// How long to wait before deciding again about a Cluster of which a write was refused.
    #[must_use]
    pub fn pause(&self, uid: &String) -> Duration {
        self.backoff.next(uid)
    }

    /// Nothing is left of a Cluster.
    pub fn forget(&self, uid: &str) {
        self.backoff.reset(&uid.to_owned());
    }

    async fn put_status(&self, cluster: &Cluster, notes: Vec<Note>, outcome: &mut Outcome) {
        let api: Api<Cluster> = Api::namespaced(self.client.clone(), &cluster.namespace().unwrap_or_default());
        let name = cluster.name_any();
        let timer = self.metrics.commit_seconds.start_timer();
        let params = PostParams::default();
        let put = || api.replace_status(&name, &params, cluster);
        let written = self.until_known("Cluster", &outcome.uid, put).await;
        timer.observe_duration();
        match written {
            Ok(written) => {
                outcome.cluster = Some(version(&written));
                outcome.committed = true;
                notes::publish(&self.recorder, &self.events, cluster, notes);
            }
            // The watch brings what was written instead; this read only says how far it must have come.
            Err(Failure::Conflict) => match self.until_known("Cluster", &outcome.uid, || api.get_opt(&name)).await {
                Ok(found) => outcome.cluster = Some(found.as_ref().map_or(GONE, version)),
                Err(_) => outcome.failed = true,
            },
            Err(Failure::Gone) => outcome.cluster = Some(GONE),
            Err(_) => outcome.failed = true,
        }
    }

    async fn delete(&self, cluster: &Cluster, outcome: &mut Outcome) {
        let api: Api<Cluster> = Api::namespaced(self.client.clone(), &cluster.namespace().unwrap_or_default());
        let params = preconditions(cluster.metadata.uid.clone(), cluster.metadata.resource_version.clone());
        let name = cluster.name_any();
        match self.until_known("Cluster", &outcome.uid, || api.delete(&name, &params)).await {
            Ok(answer) => outcome.cluster = Some(answer.left().as_ref().map_or(GONE, version)),
            Err(Failure::Gone) => outcome.cluster = Some(GONE),
            // It changed meanwhile: the watch brings it, and the next decision may be another.
            Err(_) => outcome.failed = true,
        }
    }

    /// How it ended, and the slice's name if its creation was tried more than once.
    async fn write_slice(&self, uid: &str, write: &SliceWrite) -> (Option<String>, SliceDone) {
        let tries = AtomicU32::new(0);
        let done = self.try_slice(uid, write, &tries).await;
        let doubtful = tries.into_inner() > 1;
        (doubtful.then(|| write.slice().name_any()), done)
    }

    /// Counts in `tries` how often it asks for a creation.
    async fn try_slice(&self, uid: &str, write: &SliceWrite, tries: &AtomicU32) -> SliceDone {
        let slice = write.slice();
        let name = slice.name_any();
        let api: Api<ClusterSlice> = Api::namespaced(self.client.clone(), &slice.namespace().unwrap_or_default());
        let (kind, manager) = ("ClusterSlice", Some(FIELD_MANAGER_OPERATOR.to_owned()));
        let post = PostParams { field_manager: manager.clone(), ..PostParams::default() };
        let done = match write {
            SliceWrite::Create(slice) => {
                let create = || {
                    tries.fetch_add(1, Ordering::Relaxed);
                    api.create(&post, slice)
                };
                match self.until_known(kind, uid, create).await {
                    // Its namespace is gone.
                    Err(Failure::Gone) => return SliceDone::Failed,
                    created => created.map(|slice| SliceDone::Applied(name.clone(), version(&slice))),
                }
            }
            SliceWrite::Replace(slice) => {
                let replaced = self.until_known(kind, uid, || api.replace(&name, &post, slice)).await;
                replaced.map(|slice| SliceDone::Applied(name.clone(), version(&slice)))
            }
            SliceWrite::Delete(slice) => {
                let params = preconditions(slice.metadata.uid.clone(), slice.metadata.resource_version.clone());
                let deleted = self.until_known(kind, uid, || api.delete(&name, &params)).await;
                deleted.map(|answer| match answer.left() {
                    Some(slice) => SliceDone::Leaving(name.clone(), version(&slice)),
                    None => SliceDone::Gone(name.clone()),
                })
            }
            SliceWrite::Release(slice) => {
                let others: Vec<&String> = slice.finalizers().iter().filter(|name| *name != SLICE_FINALIZER).collect();
                let metadata = json!({
                    "uid": slice.metadata.uid, "resourceVersion": slice.metadata.resource_version, "finalizers": others,
                });
                let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"term": self.leadership.term()}}));
                let params = PatchParams { field_manager: manager, ..PatchParams::default() };
                let released = self.until_known(kind, uid, || api.patch_metadata(&name, &params, &patch)).await;
                released.map(|slice| SliceDone::Leaving(name.clone(), version(&slice)))
            }
        };
        match done {
            Ok(done) => done,
            Err(Failure::Gone) => SliceDone::Gone(name),
            // The watch brings what was written instead; this read only says how far it must have come.
            Err(Failure::Conflict) => match self.until_known(kind, uid, || api.get_opt(&name)).await {
                Ok(Some(slice)) => SliceDone::Applied(name, version(&slice)),
                Ok(None) => SliceDone::Gone(name),
                Err(_) => SliceDone::Failed,
            },
            Err(_) => SliceDone::Failed,
        }
    }

    /// Repeats a request until its fate is known, leadership ends, or the process does.
    async fn until_known<T, F>(&self, kind: &str, uid: &str, request: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, kube::Error>>,
    {
        loop {
            let failure = {
                let _permit = self.permits.acquire().await;
                if !self.leadership.may_write() {
                    return Err(Failure::NotLeading);
                }
                let answer = tokio::select! {
                    answer = request() => answer,
                    // What has not arrived by now must not arrive when another process leads.
                    () = self.leadership.lapsed() => return Err(Failure::NotLeading),
                };
                match answer {
                    Ok(answer) => return Ok(answer),
                    Err(error) => Failure::of(error),
                }
            };
            self.metrics.write_errors.with_label_values(&[kind, failure.label()]).inc();
            match &failure {
                Failure::Unknown(error) => tracing::warn!(kind, uid, %error, "no answer to a write, trying again"),
                Failure::Refused(error) => {
                    tracing::warn!(kind, uid, %error, "a write was refused");
                    return Err(failure);
                }
                _ => return Err(failure),
            }
            tokio::select! {
                // Whoever leads next reads what became of it.
                () = self.shutdown.cancelled() => return Err(failure),
                () = tokio::time::sleep(self.backoff.next(&uid.to_owned())) => {}
            }
        }
    }
}

enum SliceDone {
    Applied(String, u64),
    Leaving(String, u64),
    Gone(String),
    Failed,
}

fn preconditions(uid: Option<String>, resource_version: Option<String>) -> DeleteParams {
    let preconditions = Preconditions { uid, resource_version };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() }
}
