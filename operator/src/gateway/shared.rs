//! What the parts of a gateway share.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::names::{COMPONENT_GATEWAY, FIELD_MANAGER_GATEWAY, LABEL_COMPONENT, LABEL_SITE};
use atoll_api::{ClusterSlice, GpuModel, GpuNode, Site};
use atoll_runtime::process::Process;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cache::Cache;
use super::join::Joiner;
use super::lease::OwnLease;
use super::metrics::Metrics;
use super::pki::HubCa;
use super::pulse::{self, Rhythm};
use super::registry::Registry;
use super::sites::Sites;
use super::writer::Writer;

/// What sessions share.
pub struct Gateway {
    /// Name of this gateway's Lease.
    pub name: String,
    /// What flags say.
    pub settings: Settings,
    /// The hub's CA.
    pub ca: HubCa,
    /// What watches have shown.
    pub caches: Caches,
    /// Who has a session here.
    pub registry: Registry,
    /// Writes of slices and nodes.
    pub writer: Writer,
    /// Writes of Sites.
    pub sites: Sites,
    /// Slices, to compare the cache with.
    pub slices: Api<ClusterSlice>,
    /// Joins.
    pub joiner: Joiner,
    /// This gateway's own Lease.
    pub lease: OwnLease,
    /// Metrics.
    pub metrics: Metrics,
    /// When to end.
    pub shutdown: CancellationToken,
    /// Sessions.
    pub tasks: TaskTracker,
}

/// What flags say of sessions.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Unless fence times ask for less.
    pub rhythm: Rhythm,
}

/// What watches have shown.
#[derive(Default)]
pub struct Caches {
    /// Slices of all Sites.
    pub slices: Arc<Cache<ClusterSlice>>,
    /// The hub's copies of nodes.
    pub nodes: Arc<Cache<GpuNode>>,
    /// Sites.
    pub sites: Arc<Cache<Site>>,
    /// The catalogue.
    pub models: Arc<Cache<GpuModel>>,
    /// Leases of gateways.
    pub leases: Arc<Cache<Lease>>,
}

impl Gateway {
    /// Nothing is watched or served yet.
    pub fn new(
        process: &Process,
        name: String,
        namespace: &str,
        settings: Settings,
        lease: Duration,
        ca: HubCa,
    ) -> anyhow::Result<Self> {
        let client = &process.client;
        let metrics = Metrics::register(&process.registry)?;
        let caches = Caches::default();
        let reporter = Reporter { controller: FIELD_MANAGER_GATEWAY.to_owned(), instance: Some(name.clone()) };
        let events = Recorder::new(client.clone(), reporter);
        let sites = Sites::new(Api::all(client.clone()), Arc::clone(&caches.sites), metrics.clone(), events);
        Ok(Self {
            settings,
            ca,
            registry: Registry::default(),
            writer: Writer::new(client, &caches.slices, &caches.nodes, &sites, &metrics),
            caches,
            sites,
            slices: Api::all(client.clone()),
            joiner: Joiner {
                secrets: Api::namespaced(client.clone(), namespace),
                sites: Api::all(client.clone()),
                suppliers: Api::all(client.clone()),
            },
            lease: OwnLease::new(Api::namespaced(client.clone(), namespace), name.clone(), lease),
            name,
            metrics,
            shutdown: process.shutdown.clone(),
            tasks: TaskTracker::new(),
        })
    }

    /// Follows the watches for as long as it is polled.
    pub async fn follow(&self, client: &kube::Client, namespace: &str) {
        let leases = watcher::Config::default().labels(&format!("{LABEL_COMPONENT}={COMPONENT_GATEWAY}"));
        // Where a Site shares the API server, its own nodes have no label.
        let copies = watcher::Config::default().labels(LABEL_SITE);
        let all = watcher::Config::default;
        let registry = &self.registry;
        tokio::join!(
            self.caches.slices.follow(watcher(Api::all(client.clone()), all()).default_backoff(), |change| registry
                .slice_changed(&change.group, &change.key),),
            self.caches.sites.follow(watcher(Api::all(client.clone()), all()).default_backoff(), |change| registry
                .site_changed(&change.key, change.object.as_deref()),),
            self.caches
                .models
                .follow(watcher(Api::all(client.clone()), all()).default_backoff(), |_| registry.models_changed(),),
            self.caches.nodes.follow(watcher(Api::all(client.clone()), copies).default_backoff(), |_| {}),
            self.caches
                .leases
                .follow(watcher(Api::namespaced(client.clone(), namespace), leases).default_backoff(), |_| {},),
        );
    }

    /// Waits until every watch has shown what there is.
    pub async fn listed(&self) {
        tokio::join!(
            self.caches.slices.listed(),
            self.caches.nodes.listed(),
            self.caches.sites.listed(),
            self.caches.models.listed(),
            self.caches.leases.listed(),
        );
    }
    /// How often a Site sends heartbeats now, and how long it may be silent.
    #[must_use]
    pub fn rhythm(&self, site: &str) -> Rhythm {
        let slices = self.caches.slices.group(site);
        self.settings.rhythm.of(pulse::shortest_stop(slices.iter().map(AsRef::as_ref)))
    }
}
