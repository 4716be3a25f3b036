//! Whether the cached slices of a Site are as new as the API server's, so that an agent is not told to stop what was just
//! placed there, nor to start what was fenced meanwhile.
//!
//! One Site that comes alone is compared with a list of its own slices. When many come at once, they share lists of
//! everything: each such list costs the API server as much as one of a single Site, because it looks at all slices for
//! either.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_api::ClusterSlice;
use kube::api::{Api, ListParams, ObjectList, ObjectMeta, PartialObjectMeta};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use super::cache::Cache;
use super::session::sync::is_behind;

/// Lists of single Sites at once; more Sites share.
const ALONE: usize = 2;
/// From the beginning of one shared list to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// A list is asked for anew so often while the cache lags behind it.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// The cache is compared at most so often.
const COMPARE_AGAIN: Duration = Duration::from_millis(20);

/// The API server does not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unheard(String);

type Answer = Result<(), Unheard>;

/// Compares the cache with the API server.
pub struct Freshness {
    api: Api<ClusterSlice>,
    cache: Arc<Cache<ClusterSlice>>,
    alone: Semaphore,
    round: Mutex<Round>,
}

#[derive(Default)]
struct Round {
    waiting: Vec<oneshot::Sender<Answer>>,
    running: bool,
}

impl Freshness {
    /// Compares `cache` with what `api` lists.
    pub fn new(api: Api<ClusterSlice>, cache: Arc<Cache<ClusterSlice>>) -> Arc<Self> {
        Arc::new(Self { api, cache, alone: Semaphore::new(ALONE), round: Mutex::default() })
    }

    /// Waits until the cached slices of `site` are at least as new as the API server's are now.
    pub async fn wait(self: &Arc<Self>, site: &str) -> Answer {
        if let Ok(_place) = self.alone.try_acquire() {
            return self.caught_up(Some(site)).await.map_err(|error| Unheard(error.to_string()));
        }
        let (told, answer) = oneshot::channel();
        let begin = {
            let mut round = self.round();
            round.waiting.push(told);
            !std::mem::replace(&mut round.running, true)
        };
        if begin {
            let this = Arc::clone(self);
            tokio::spawn(async move { this.rounds().await });
        }
        answer.await.unwrap_or_else(|_| Err(Unheard("the list was given up".to_owned())))
    }

    /// Lists for all who wait, until nobody does.
    async fn rounds(&self) {
        loop {
            let began = Instant::now();
            // Who comes from here on is answered by the next list: this one may be older than its question.
            let waiting = {
                let mut round = self.round();
                if round.waiting.is_empty() {
                    round.running = false;
                    return;
                }
                std::mem::take(&mut round.waiting)
            };
            let answer = self.caught_up(None).await.map_err(|error| Unheard(error.to_string()));
            for told in waiting {
                // A session that is over needs no answer.
                let _: Result<(), Answer> = told.send(answer.clone());
            }
            tokio::time::sleep_until(began + PAUSE).await;
        }
    }

    /// Waits until the cache is not behind a list of `site`, or of everything, that begins now or later.
    async fn caught_up(&self, site: Option<&str>) -> Result<(), kube::Error> {
        let mut changes = self.cache.subscribe();
        let params = match site {
            Some(site) => ListParams::default().fields(&format!("spec.site={site}")),
            None => ListParams::default(),
        };
        loop {
            let list = self.api.list_metadata(&params).await?;
            let wait = async {
                while self.is_behind(site, &list) {
                    tokio::time::sleep(COMPARE_AGAIN).await;
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            };
            if tokio::time::timeout(LIST_AGAIN, wait).await.is_ok() {
                return Ok(());
            }
            tracing::debug!(site, "the cache of slices lags behind");
        }
    }

    fn is_behind(&self, site: Option<&str>, list: &ObjectList<PartialObjectMeta<ClusterSlice>>) -> bool {
        let cached = site.map_or_else(|| self.cache.all(), |site| self.cache.group(site));
        let listed = list.items.iter().map(|item| &item.metadata as &ObjectMeta);
        let version = list.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0);
        is_behind(cached.iter().map(AsRef::as_ref), listed, version)
    }

    fn round(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
