//! The stream to the hub: one session after another, until the process ends.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::Availability;
use atoll_core::session::Heartbeats;
use atoll_runtime::backoff::Backoff;
use atoll_wire::limits::{MAX_MESSAGE_BYTES, MAX_SLICES, MAX_WORD_BYTES};
use atoll_wire::v1::gateway_client::GatewayClient;
use atoll_wire::v1::{
    self, AgentMessage, AvailabilityChange, Heartbeat, Hello, HubMessage, SliceDigest, agent_message, goodbye,
    hub_message,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::convert::cut;
use crate::identity::Identity;
use crate::inventory::InventoryBook;
use crate::manager::HubEvent;
use crate::metrics::Metrics;
use crate::naming::SliceId;
use crate::outbox::Outbox;
use crate::policy::Policy;
use crate::tls::{self, HubAddress, TlsError};

const BACKOFF_BASE: Duration = Duration::from_millis(500);
const BACKOFF_CAP: Duration = Duration::from_secs(30);
/// Longest wait before a session that the hub does not want is tried again.
const SLOW_CAP: Duration = Duration::from_mins(2);
/// Messages on their way into the stream.
const QUEUE: usize = 16;
/// How long a message may wait for room in the stream.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the hub's first answer may take: it waits for the end of the session before, and where many Sites come back
/// at once, for its turn.
const WELCOME: Duration = Duration::from_mins(2);
/// Bounds of what the hub may ask for between heartbeats.
const HEARTBEATS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_mins(1));
/// Time between heartbeats until the hub has asked for another.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(5);
/// A session without a grant for so long is given up, or for so many heartbeats if that is longer.
const NO_GRANT: Duration = Duration::from_secs(6);
const NO_GRANT_HEARTBEATS: u32 = 3;
/// How long a session waits for the supplier's policy, so that it need not begin with a guess.
const POLICY: Duration = Duration::from_secs(5);

/// What sessions work with.
pub struct Sessions {
    /// Where the hub's gateways are.
    pub hub: HubAddress,
    /// The Site's identity; it changes when the certificate is renewed.
    pub identity: watch::Receiver<Arc<Identity>>,
    /// Where the hub's wishes go.
    pub manager: mpsc::Sender<HubEvent>,
    /// Reports to send.
    pub outbox: Arc<Outbox>,
    /// What the supplier lets members do; its availability is sent.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// Inventory to send.
    pub inventory: Arc<InventoryBook>,
    /// Told when the heartbeat was sent that the newest grant answers.
    pub granted: watch::Sender<Duration>,
    /// The boot-time clock.
    pub clock: fn() -> Duration,
    /// Changes with each boot of the machine.
    pub boot_id: String,
    /// What is counted.
    pub metrics: Metrics,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the process ends")]
    Shutdown,
    #[error(transparent)]
    Connect(#[from] TlsError),
    #[error("the stream broke: {} ({:?})", .0.message(), .0.code())]
    Stream(#[from] tonic::Status),
    #[error("the hub closed the stream")]
    Closed,
    #[error("the hub does not answer")]
    Silent,
    #[error("the hub broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the hub ended the session ({}): {message}", reason.as_str_name())]
    Goodbye { reason: goodbye::Reason, message: String },
}

impl End {
    /// The hub does not want this Site now, and trying again soon would only be noise.
    fn is_unwanted(&self) -> bool {
        use goodbye::Reason;
        matches!(self, Self::Goodbye { reason: Reason::Suspended | Reason::Superseded | Reason::Protocol, .. })
    }
}

/// The session under way.
struct Session {
    out: mpsc::Sender<AgentMessage>,
    heartbeats: Heartbeats,
    interval: Duration,
    next_heartbeat: Instant,
    last_grant: Instant,
    /// The hub has said everything that it lists.
    in_step: bool,
    /// As it was told last.
    availability: Availability,
}

impl Sessions {
    /// Keeps a session with the hub until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP);
        let slow = Backoff::new(BACKOFF_CAP, SLOW_CAP);
        while !shutdown.is_cancelled() {
            let mut in_step = false;
            let end = self.session(&mut in_step, &shutdown).await;
            // The manager is gone only when the process ends.
            let _ = self.manager.send(HubEvent::End).await;
            if matches!(end, End::Shutdown) {
                return;
            }
            if in_step {
                backoff.reset(&());
                slow.reset(&());
            }
            let wait = if end.is_unwanted() { slow.next(&()) } else { backoff.next(&()) };
            tracing::warn!(error = %end, ?wait, "no session");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    async fn session(&mut self, in_step: &mut bool, shutdown: &CancellationToken) -> End {
        let ended = tokio::select! {
            () = shutdown.cancelled() => return End::Shutdown,
            begun = self.begin() => match begun {
                Ok((session, inbound)) => self.converse(session, inbound, in_step, shutdown).await,
                Err(end) => return end,
            },
        };
        match ended {
            Ok(()) => End::Shutdown,
            Err(end) => end,
        }
    }

    /// Connects, says hello, and is welcomed.
    async fn begin(&mut self) -> Result<(Session, Streaming<HubMessage>), End> {
        let identity = self.identity.borrow_and_update().clone();
        let channel = tls::connect_as(&self.hub, &identity).await?;
        // What is seen from here on is sent as a change to what the hello says.
        self.inventory.listed().await;
        let inventory_digest = self.inventory.begin().to_vec();
        let slices = self.held().await?;
        // Without it the Site would look paused for a moment after each start.
        let _ = timeout(POLICY, self.policy.wait_for(|policy| policy.is_read())).await;
        let availability = self.policy.borrow_and_update().availability;
        let (out, queue) = mpsc::channel(QUEUE);
        let hello = Hello {
            agent_version: env!("CARGO_PKG_VERSION").into(),
            boot_id: cut(&self.boot_id, MAX_WORD_BYTES),
            inventory_digest,
            slices,
            availability: wire_availability(availability).into(),
        };
        send(&out, agent_message::Message::Hello(hello)).await?;
        let mut client = GatewayClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        self.metrics.sessions.inc();
        let answer = timeout(WELCOME, async {
            let mut inbound = client.session(ReceiverStream::new(queue)).await?.into_inner();
            Ok::<_, End>((inbound.message().await?.ok_or(End::Closed)?, inbound))
        });
        let (first, inbound) = answer.await.map_err(|_| End::Silent)??;
        let welcome = match first.message {
            Some(hub_message::Message::Welcome(welcome)) => welcome,
            Some(hub_message::Message::Goodbye(goodbye)) => return Err(farewell(&goodbye)),
            _ => return Err(End::Protocol("its first message is not a welcome")),
        };
        tracing::info!(site = identity.site, session = welcome.session, hub = %self.hub, "session begun");
        if welcome.want_full_inventory {
            self.inventory.want_all();
        }
        let now = Instant::now();
        let session = Session {
            out,
            heartbeats: Heartbeats::default(),
            interval: FIRST_HEARTBEAT,
            next_heartbeat: now,
            last_grant: now,
            in_step: false,
            availability,
        };
        Ok((session, inbound))
    }

    async fn held(&self) -> Result<Vec<SliceDigest>, End> {
        let (answer, held) = oneshot::channel();
        self.manager.send(HubEvent::Begin(answer)).await.map_err(|_| End::Shutdown)?;
        held.await.map_err(|_| End::Shutdown)
    }

    /// Both directions, until the session ends. Ok: the process ends.
    async fn converse(
        &mut self,
        mut session: Session,
        mut inbound: Streaming<HubMessage>,
        in_step: &mut bool,
        shutdown: &CancellationToken,
    ) -> Result<(), End> {
        loop {
            let silent = NO_GRANT.max(session.interval * NO_GRANT_HEARTBEATS);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                message = inbound.message() => {
                    let message = message?.ok_or(End::Closed)?;
                    self.hear(&mut session, message).await?;
                    *in_step = session.in_step;
                }
                () = sleep_until(session.next_heartbeat) => self.beat(&mut session).await?,
                () = sleep_until(session.last_grant + silent) => return Err(End::Silent),
                () = self.outbox.news() => {
                    while let Some(report) = self.outbox.take() {
                        send(&session.out, agent_message::Message::SliceReport(report)).await?;
                    }
                }
                changed = self.policy.changed() => {
                    changed.map_err(|_| End::Shutdown)?;
                    let availability = self.policy.borrow_and_update().availability;
                    if availability != session.availability {
                        session.availability = availability;
                        let change = AvailabilityChange { availability: wire_availability(availability).into() };
                        send(&session.out, agent_message::Message::Availability(change)).await?;
                    }
                }
                () = self.inventory.news() => {
                    for delta in self.inventory.take() {
                        send(&session.out, agent_message::Message::Inventory(delta)).await?;
                    }
                }
            }
        }
    }

    async fn beat(&self, session: &mut Session) -> Result<(), End> {
        // Counted from before it is sent: the hub counts from its grant, which is later.
        let sequence = session.heartbeats.next((self.clock)());
        session.next_heartbeat = Instant::now() + session.interval;
        send(&session.out, agent_message::Message::Heartbeat(Heartbeat { sequence })).await
    }

    async fn hear(&self, session: &mut Session, message: HubMessage) -> Result<(), End> {
        // What is newer than this agent is ignored.
        let Some(message) = message.message else { return Ok(()) };
        let event = match message {
            hub_message::Message::Welcome(_) => return Err(End::Protocol("a second welcome")),
            hub_message::Message::Goodbye(goodbye) => return Err(farewell(&goodbye)),
            hub_message::Message::Grant(grant) => {
                let asked = Duration::from_millis(grant.next_heartbeat_ms.into());
                let sent =
                    session.heartbeats.answered(grant.sequence).ok_or(End::Protocol("a grant for no heartbeat"))?;
                session.interval = asked.clamp(HEARTBEATS.0, HEARTBEATS.1);
                session.last_grant = Instant::now();
                session.next_heartbeat = session.last_grant + session.interval;
                self.granted.send_if_modified(|granted| {
                    let newer = sent > *granted;
                    *granted = sent.max(*granted);
                    newer
                });
                return Ok(());
            }
            hub_message::Message::Slice(slice) => {
                // Its members may be asked to stop sooner than the next heartbeat is due: the grant that answers this
                // one tells how often to send them now.
                session.next_heartbeat = Instant::now();
                SliceId::from_wire(slice.key).map(|id| HubEvent::Slice {
                    id,
                    generation: slice.generation,
                    spec_json: slice.spec_json,
                })
            }
            hub_message::Message::SliceDeleted(slice) => SliceId::from_wire(slice.key).map(HubEvent::Deleted),
            hub_message::Message::SyncComplete(sync) => {
                if sync.slices.len() > MAX_SLICES {
                    return Err(End::Protocol("more slices than a Site may have"));
                }
                // A key that cannot be read must not make its members look unlisted.
                let listed: Option<Vec<SliceId>> =
                    sync.slices.into_iter().map(|key| SliceId::from_wire(Some(key))).collect();
                session.in_step = true;
                Some(HubEvent::Synced(listed.ok_or(End::Protocol("a list with a key that is none"))?))
            }
        };
        if let Some(event) = event {
            self.manager.send(event).await.map_err(|_| End::Shutdown)
        } else {
            self.metrics.hub_messages_refused.inc();
            tracing::warn!("a message of the hub names no slice");
            Ok(())
        }
    }
}

fn wire_availability(availability: Availability) -> v1::Availability {
    match availability {
        Availability::Accepting => v1::Availability::Accepting,
        Availability::Paused => v1::Availability::Paused,
        Availability::Draining => v1::Availability::Draining,
    }
}

async fn send(out: &mpsc::Sender<AgentMessage>, message: agent_message::Message) -> Result<(), End> {
    match timeout(PATIENCE, out.send(AgentMessage { message: Some(message) })).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Closed),
        Err(_) => Err(End::Silent),
    }
}

fn farewell(goodbye: &atoll_wire::v1::Goodbye) -> End {
    End::Goodbye { reason: goodbye.reason(), message: cut(&goodbye.message, atoll_wire::limits::MAX_TEXT_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_wanted_comes_back_slowly() {
        let goodbye = |reason| End::Goodbye { reason, message: String::new() };
        assert!(goodbye(goodbye::Reason::Suspended).is_unwanted());
        assert!(goodbye(goodbye::Reason::Superseded).is_unwanted());
        assert!(!goodbye(goodbye::Reason::Shutdown).is_unwanted());
        assert!(!End::Closed.is_unwanted());
    }
}
