//! A hub with joined Sites.

use std::time::Duration;

use anyhow::{Context, Result};
use atoll_api::{GpuNode, Supplier, SupplierSpec};
use atoll_testkit::wait::wait_all;
use futures::future::try_join_all;
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::hub::{Hub, HubOptions};
use crate::site::{Prepared, Site, SiteOptions};

/// What a network should be like.
#[derive(Clone, Debug, Default)]
pub struct NetworkOptions {
    /// The hub.
    pub hub: HubOptions,
    /// Its Sites.
    pub sites: Vec<SiteOptions>,
}

impl NetworkOptions {
    /// A hub with these Sites.
    #[must_use]
    pub fn new(sites: Vec<SiteOptions>) -> Self {
        Self { hub: HubOptions::default(), sites }
    }
}

/// Networks that run at once in one test process: each is ten processes or more, and a machine that is too busy makes
/// times meaningless.
static ROOM: Semaphore = Semaphore::const_new(1);

/// A hub with joined Sites. Dropping it ends every process.
#[derive(Debug)]
pub struct Network {
    /// The Sites, in the order of the options. Ended before the hub.
    pub sites: Vec<Site>,
    /// The hub.
    pub hub: Hub,
    _room: SemaphorePermit<'static>,
}

impl Network {
    /// Starts everything and waits until the hub knows every node.
    pub async fn start(options: NetworkOptions) -> Result<Self> {
        let room = ROOM.acquire().await.context("wait for room on the machine")?;
        let (hub, prepared) = tokio::try_join!(
            async { Hub::start(options.hub).await.context("start the hub") },
            try_join_all(options.sites.iter().map(async |site| {
                let name = &site.name;
                Prepared::start(site.clone()).await.with_context(|| format!("start the Site {name}"))
            })),
        )?;
        let mut network = Self { sites: Vec::new(), hub, _room: room };
        network.join(prepared).await?;
        Ok(network)
    }

    /// Joins prepared Sites and waits until the hub knows their nodes.
    pub async fn join(&mut self, prepared: Vec<Prepared>) -> Result<()> {
        for site in prepared {
            let (name, supplier) = (site.name().to_owned(), site.supplier().to_owned());
            self.ensure_supplier(&supplier).await?;
            self.sites.push(site.join(&self.hub).await.with_context(|| format!("join the Site {name}"))?);
        }
        let expected = self.sites.iter().map(Site::gpu_nodes).sum::<usize>();
        let api: Api<GpuNode> = Api::all(self.client());
        let what = format!("the hub to know {expected} GPU nodes");
        let known = |nodes: &[GpuNode]| {
            let ready = |node: &&GpuNode| node.status.as_ref().is_some_and(|status| status.ready);
            nodes.iter().filter(ready).count() >= expected
        };
        wait_all(&api, watcher::Config::default(), &what, Duration::from_mins(1), known).await?;
        Ok(())
    }

    /// A client of the hub that may do everything.
    #[must_use]
    pub fn client(&self) -> Client {
        self.hub.plane.client()
    }

    async fn ensure_supplier(&self, name: &str) -> Result<()> {
        let api: Api<Supplier> = Api::all(self.client());
        if api.get_opt(name).await?.is_some() {
            return Ok(());
        }
        let spec = SupplierSpec {
            display_name: name.to_owned(),
            contact: Some(format!("mailto:ops@{name}.example")),
            wallet: None,
            suspended: false,
        };
        api.create(&PostParams::default(), &Supplier::new(name, spec))
            .await
            .with_context(|| format!("create Supplier {name}"))?;
        Ok(())
    }

    /// Name on the hub of the Site with this display name.
    pub async fn site_name(&self, display: &str) -> Result<String> {
        let sites: Api<atoll_api::Site> = Api::all(self.client());
        let all = sites.list(&kube::api::ListParams::default()).await?;
        all.iter()
            .find(|site| site.spec.display_name.as_deref() == Some(display))
            .map(ResourceExt::name_any)
            .with_context(|| format!("the hub has no Site {display}"))
    }
}
