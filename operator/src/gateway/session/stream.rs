//! A session while its stream lives.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use atoll_api::names::hub_gpu_node_name;
use atoll_api::{ClusterSlice, Site};
use atoll_runtime::clock::boot_time;
use atoll_wire::limits::{MAX_NODES, MAX_NODES_PER_MESSAGE, MAX_SLICES};
use atoll_wire::v1::{self, agent_message::Message as FromAgent, hub_message::Message as ToAgent};
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::allowance::Allowance;
use super::ended::{Ended, Outbox, SLOW_READER};
use super::sync::{self, Delivery, Sent, SliceError};
use super::{availability, learn_fences};
use crate::gateway::cache::key_of;
use crate::gateway::metrics::Refused;
use crate::gateway::pulse::{Answer, Pulse};
use crate::gateway::registry::{Mailbox, News};
use crate::gateway::shared::Gateway;
use crate::gateway::writer::SliceNews;
use crate::gateway::{inventory, reports};

/// A live session.
pub struct Live<'a> {
    gateway: &'a Gateway,
    mailbox: &'a Arc<Mailbox>,
    site: Site,
    name: String,
    /// Number of the session.
    number: i64,
    pulse: Pulse,
    outbox: Outbox,
    allowance: Allowance,
    /// What the agent was sent, by key of the cache.
    sent: HashMap<String, Sent>,
    /// What it said last of each slice.
    said: HashMap<String, SliceNews>,
    /// What the agent said of its nodes.
    nodes: BTreeMap<String, v1::Node>,
    /// The parts of a full inventory that have come.
    arriving: Option<BTreeMap<String, v1::Node>>,
    /// Epochs of Clusters that are fenced here, by UID: what was fenced once in a session stays so, because the cache of
    /// slices may lag behind that of Sites, where a fence goes when its slices have.
    fenced: HashMap<String, i64>,
}

impl<'a> Live<'a> {
    /// A session that has begun.
    pub fn new(gateway: &'a Gateway, mailbox: &'a Arc<Mailbox>, site: Site, pulse: Pulse, outbox: Outbox) -> Self {
        let name = site.name_any();
        let number =
            site.status.as_ref().and_then(|status| status.session.as_ref()).map_or(0, |session| session.number);
        let mut fenced = HashMap::new();
        learn_fences(&mut fenced, &site);
        Self {
            gateway,
            mailbox,
            site,
            name,
            number,
            pulse,
            outbox,
            allowance: Allowance::new(Instant::now()),
            sent: HashMap::new(),
            said: HashMap::new(),
            nodes: BTreeMap::new(),
            arriving: None,
            fenced,
        }
    }

    /// Whether a slice is fenced here: its members count as stopped, so it is not delivered any more.
    fn is_fenced(&self, slice: &ClusterSlice) -> bool {
        self.fenced.get(&slice.spec.cluster_uid).is_some_and(|epoch| slice.spec.epoch <= *epoch)
    }

    /// Welcomes the agent and sends what it lacks.
    pub async fn welcome(&mut self, hello: &v1::Hello) -> Result<(), Ended> {
        let want_full_inventory = self.wants_inventory(hello);
        if !want_full_inventory {
            let nodes = self.reported_nodes();
            self.nodes = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
            // The catalogue may have changed while the Site was away.
            self.write_nodes();
        }
        let session = u64::try_from(self.number).unwrap_or(0);
        self.send("welcome", ToAgent::Welcome(v1::Welcome { session, want_full_inventory })).await?;

        let held = sync::held(hello);
        let slices = self.slices();
        if slices.len() > MAX_SLICES {
            tracing::error!(site = self.name, slices = slices.len(), "more slices than the protocol is made for");
        }
        let mut listed = Vec::new();
        for (key, slice) in slices {
            match sync::first(&slice, &held) {
                Ok((sent, delivery)) => {
                    if sync::is_listed(&slice) {
                        listed.push(sent.key().clone());
                    }
                    self.sent.insert(key, sent);
                    self.deliver(delivery).await?;
                }
                Err(error) => self.cannot_send(&key, &error),
            }
        }
        self.send("sync_complete", ToAgent::SyncComplete(v1::SyncComplete { slices: listed })).await
    }

    /// Carries news both ways until the session ends.
    pub async fn serve(
        &mut self,
        mut lapses: watch::Receiver<u64>,
        inbound: &mut (impl Stream<Item = Result<v1::AgentMessage, Status>> + Unpin),
    ) -> Ended {
        loop {
            let Some(left) = self.pulse.left(boot_time()) else { return Ended::Silent };
            let pause = self.allowance.wait(Instant::now());
            let sleep = if pause.is_zero() { left } else { left.min(pause) };
            let step = tokio::select! {
                () = self.gateway.shutdown.cancelled() => Err(Ended::Shutdown("this gateway is going away")),
                end = self.mailbox.ended() => Err(Ended::Told(end)),
                _ = lapses.changed() => Err(Ended::Shutdown("this gateway may not grant leases any more")),
                message = inbound.next(), if pause.is_zero() => match message {
                    Some(Ok(v1::AgentMessage { message })) => {
                        self.allowance.take(Instant::now());
                        self.take(message).await
                    }
                    // What went wrong with the connection is the agent's to say; what it sent is not.
                    Some(Err(status)) => {
                        if matches!(status.code(), Code::Internal | Code::OutOfRange | Code::ResourceExhausted) {
                            self.gateway.metrics.refused(Refused::Frame);
                        }
                        Err(Ended::Closed)
                    }
                    None => Err(Ended::Closed),
                },
                news = self.mailbox.news() => self.tell(news).await,
                () = tokio::time::sleep(sleep) => Ok(()),
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    /// Says goodbye where there is something to say, and ends the stream.
    pub fn close(self, ended: &Ended) -> Pulse {
        if matches!(ended, Ended::Protocol(_)) {
            self.gateway.metrics.refused(Refused::Protocol);
        }
        if let Some(goodbye) = ended.goodbye() {
            self.gateway.metrics.sent("goodbye");
            let message = v1::HubMessage { message: Some(ToAgent::Goodbye(goodbye)) };
            // A full outbox means a slow agent, and the session must fall silent now.
            drop(self.outbox.try_send(Ok(message)));
        }
        self.pulse
    }

    /// The cached nodes of the Site, as its agent said them.
    fn reported_nodes(&self) -> Vec<v1::Node> {
        self.gateway.caches.nodes.group(&self.name).iter().map(|node| inventory::reported(node)).collect()
    }

    /// Whether the agent's inventory is not what the hub has.
    fn wants_inventory(&self, hello: &v1::Hello) -> bool {
        hello.inventory_digest != atoll_wire::digest::inventory(&self.reported_nodes())
    }

    /// The cached slices of the Site that are not fenced, with their keys.
    fn slices(&self) -> Vec<(String, Arc<ClusterSlice>)> {
        let slices = self.gateway.caches.slices.group(&self.name);
        let wanted = slices.into_iter().filter(|slice| !self.is_fenced(slice));
        wanted.map(|slice| (key_of(&slice.metadata), slice)).collect()
    }

    async fn tell(&mut self, news: News) -> Result<(), Ended> {
        if let Some(site) = self.gateway.caches.sites.get(&self.name) {
            learn_fences(&mut self.fenced, &site);
        }
        for key in news.slices {
            // A slice never moves to another Site; one of that name that did is gone from this one, as is one that is fenced.
            let slice = self.gateway.caches.slices.get(&key).filter(|slice| slice.spec.site == self.name);
            let slice = slice.filter(|slice| !self.is_fenced(slice));
            self.say_again(&key, slice.as_deref());
            match sync::next(self.sent.get(&key), slice.as_deref()) {
                Ok((sent, delivery)) => {
                    match sent {
                        Some(sent) => self.sent.insert(key, sent),
                        None => self.sent.remove(&key),
                    };
                    self.deliver(delivery).await?;
                }
                Err(error) => self.cannot_send(&key, &error),
            }
        }
        if news.models {
            self.write_nodes();
        }
        Ok(())
    }

    /// What the agent said last stands in the API, whatever was written late of an older session.
    fn say_again(&mut self, key: &str, slice: Option<&ClusterSlice>) {
        let Some(slice) = slice else {
            self.said.remove(key);
            return;
        };
        let said = self.said.get(key).filter(|said| Some(&said.uid) == slice.metadata.uid.as_ref());
        if let Some(said) = said.filter(|said| reports::to_write(slice, &said.status).is_some()) {
            let news = SliceNews { received: Instant::now(), ..said.clone() };
            self.gateway.writer.slices.submit(key, news, false);
        }
    }

    async fn deliver(&mut self, delivery: Option<Delivery>) -> Result<(), Ended> {
        match delivery {
            None => Ok(()),
            Some(Delivery::Slice(slice)) => self.send("slice", ToAgent::Slice(slice)).await,
            Some(Delivery::Deleted(deleted)) => self.send("slice_deleted", ToAgent::SliceDeleted(deleted)).await,
        }
    }

    fn cannot_send(&self, key: &str, error: &SliceError) {
        tracing::error!(site = self.name, slice = key, %error, "a slice cannot be sent");
    }

    async fn take(&mut self, message: Option<FromAgent>) -> Result<(), Ended> {
        match message {
            Some(FromAgent::Heartbeat(heartbeat)) => {
                self.gateway.metrics.received("heartbeat");
                self.grant(heartbeat.sequence).await
            }
            Some(FromAgent::Inventory(delta)) => {
                self.gateway.metrics.received("inventory");
                self.inventory(delta)
            }
            Some(FromAgent::SliceReport(report)) => {
                self.gateway.metrics.received("slice_report");
                self.report(&report);
                Ok(())
            }
            Some(FromAgent::Hello(_)) => Err(Ended::Protocol("a session has one hello".to_owned())),
            Some(FromAgent::Availability(change)) => {
                self.gateway.metrics.received("availability");
                let wanted = (self.number, availability(change.availability()));
                self.gateway.writer.availability.submit(&self.name, wanted, false);
                Ok(())
            }
            // Of a later release.
            None => {
                self.gateway.metrics.received("unknown");
                Ok(())
            }
        }
    }

    async fn grant(&mut self, sequence: u64) -> Result<(), Ended> {
        let rhythm = self.gateway.rhythm(&self.name);
        let now = boot_time();
        // Noted before it is sent.
        match self.pulse.heartbeat(sequence, now, rhythm, self.gateway.lease.held(now)) {
            Ok(Answer::Grant) => {}
            Ok(Answer::Withhold) => {
                self.gateway.metrics.grant_withheld();
                return Ok(());
            }
            Err(error) => return Err(Ended::Protocol(error.to_string())),
        }
        let next_heartbeat_ms = u32::try_from(rhythm.heartbeat.as_millis()).unwrap_or(u32::MAX);
        self.send("grant", ToAgent::Grant(v1::Grant { sequence, next_heartbeat_ms })).await
    }

    fn report(&mut self, report: &v1::SliceReport) {
        let slice = report.key.as_ref().and_then(|key| self.gateway.caches.slices.get(&reports::cache_key(key)));
        if slice.as_deref().is_some_and(|slice| self.is_fenced(slice)) {
            // What counts as stopped has nothing to say any more.
            return self.gateway.metrics.refused(Refused::Report);
        }
        match reports::status(report, &self.name, self.number, slice.as_deref(), Timestamp::now()) {
            Ok(status) => {
                let Some(slice) = slice else { return };
                let urgent = reports::is_urgent(slice.status.as_ref(), &status);
                let uid = slice.metadata.uid.clone().unwrap_or_default();
                let news = SliceNews { uid, status: Arc::new(status), received: Instant::now() };
                let key = key_of(&slice.metadata);
                self.said.insert(key.clone(), news.clone());
                self.gateway.writer.slices.submit(&key, news, urgent);
            }
            Err(error) => {
                self.gateway.metrics.refused(Refused::Report);
                tracing::debug!(site = self.name, %error, "a report is not believed");
            }
        }
    }

    fn inventory(&mut self, delta: v1::InventoryDelta) -> Result<(), Ended> {
        if delta.nodes.len() > MAX_NODES_PER_MESSAGE || delta.removed.len() > MAX_NODES_PER_MESSAGE {
            return Err(Ended::Protocol("an inventory is sent in smaller parts".to_owned()));
        }
        let believed: Vec<v1::Node> = delta.nodes.into_iter().filter_map(|node| self.believed(node)).collect();
        if delta.full {
            let arriving = self.arriving.get_or_insert_default();
            arriving.extend(believed.into_iter().map(|node| (node.name.clone(), node)));
            if arriving.len() > MAX_NODES {
                return Err(Ended::Protocol("more nodes than a Site can have".to_owned()));
            }
            if !delta.more {
                let all = self.arriving.take().unwrap_or_default();
                let known = self.gateway.caches.nodes.group(&self.name);
                for copy in known.iter().filter(|copy| !all.contains_key(&inventory::reported(copy).name)) {
                    self.gateway.writer.nodes.submit(&copy.name_any(), None, true);
                }
                for name in self.nodes.keys().filter(|name| !all.contains_key(*name)) {
                    self.remove_node(name);
                }
                self.nodes = all;
                self.write_nodes();
            }
            return Ok(());
        }
        for name in delta.removed {
            if self.nodes.remove(&name).is_some() {
                self.remove_node(&name);
            }
        }
        for node in believed {
            self.write_node(&node);
            self.nodes.insert(node.name.clone(), node);
        }
        if self.nodes.len() > MAX_NODES {
            return Err(Ended::Protocol("more nodes than a Site can have".to_owned()));
        }
        Ok(())
    }

    /// A node as it is believed: itself, or what was said of it before when it cannot be so.
    fn believed(&self, node: v1::Node) -> Option<v1::Node> {
        match inventory::check(&node) {
            Ok(()) => Some(node),
            Err(error) => {
                self.gateway.metrics.refused(Refused::Node);
                tracing::warn!(site = self.name, node = ?node.name, %error, "a node is not believed");
                self.nodes.get(&node.name).cloned()
            }
        }
    }

    fn write_nodes(&self) {
        let models = self.gateway.caches.models.all();
        for node in self.nodes.values() {
            self.submit_node(node, &models);
        }
    }

    fn write_node(&self, node: &v1::Node) {
        self.submit_node(node, &self.gateway.caches.models.all());
    }

    fn submit_node(&self, node: &v1::Node, models: &[Arc<atoll_api::GpuModel>]) {
        let copy = inventory::gpu_node(&self.site, node, models.iter().map(AsRef::as_ref));
        self.gateway.writer.nodes.submit(&copy.name_any(), Some(Arc::new(copy)), false);
    }

    fn remove_node(&self, name: &str) {
        self.gateway.writer.nodes.submit(&hub_gpu_node_name(&self.name, name), None, true);
    }

    /// Sends a message; an agent that does not read for too long, and one whose session is over, is not waited for.
    async fn send(&mut self, kind: &'static str, message: ToAgent) -> Result<(), Ended> {
        let sending = self.outbox.send(Ok(v1::HubMessage { message: Some(message) }));
        tokio::select! {
            biased;
            sent = sending => match sent {
                Ok(()) => {
                    self.gateway.metrics.sent(kind);
                    Ok(())
                }
                Err(_) => Err(Ended::Closed),
            },
            end = self.mailbox.ended() => Err(Ended::Told(end)),
            () = self.gateway.shutdown.cancelled() => Err(Ended::Shutdown("this gateway is going away")),
            () = tokio::time::sleep(SLOW_READER) => {
                tracing::warn!(site = self.name, "the agent does not read");
                Err(Ended::Closed)
            }
        }
    }
}
