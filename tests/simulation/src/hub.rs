//! The hub's API: objects with versions, checked writes, watches.

use std::collections::BTreeMap;
use std::rc::Rc;

use atoll_core::cluster::{Cluster, MemberState, Millis, Phase, Reservation, SliceMember};

use crate::judge;
use crate::rule::Rule;
use crate::setup::Setup;
use crate::world::{ApiError, Link, Proc, Way, World};

/// A slice: Cluster, then Site.
pub type Key = (usize, usize);

/// A Cluster, its status and the leader's term that committed.
#[derive(Clone, Debug)]
pub struct ClusterObject {
    /// Grows with each write.
    pub version: u64,
    /// As `core` decides on it.
    pub state: Cluster,
    /// Term of the leader that committed.
    pub term: u64,
}

/// What the operator wants of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Epoch of the commit.
    pub epoch: u64,
    /// Hold or run.
    pub phase: Phase,
    /// Members by rank.
    pub members: Vec<SliceMember>,
    /// Seconds to stop, kill and fence.
    pub times: (u64, u64, u64),
    /// Members run on without a lease.
    pub autonomous: bool,
}

/// What a Site said of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceStatus {
    /// Epoch that it answers.
    pub epoch: u64,
    /// Generation that it answers.
    pub generation: i64,
    /// Whether capacity is held.
    pub reservation: Reservation,
    /// Members: state and node.
    pub members: BTreeMap<(u32, u64), (MemberState, Option<String>)>,
    /// Nothing is left, said while it was being deleted.
    pub stopped: bool,
    /// Number of the session that said it.
    pub session: u64,
}

impl SliceStatus {
    /// Whether it says the same, in whatever session.
    #[must_use]
    pub fn says(&self, other: &Self) -> bool {
        *self == Self { session: self.session, ..other.clone() }
    }
}

/// A slice.
#[derive(Clone, Debug)]
pub struct SliceObject {
    /// Cluster and Site.
    pub key: Key,
    /// Another one of the same name has another.
    pub uid: u64,
    /// Grows with each write.
    pub version: u64,
    /// Grows with each change of the specification.
    pub generation: i64,
    /// What is wanted.
    pub spec: Rc<Spec>,
    /// What is.
    pub status: Option<SliceStatus>,
    /// It is being deleted.
    pub deleting: bool,
}

/// What a supplier wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wants {
    /// Members may come.
    #[default]
    Accepting,
    /// Members are to move away.
    Draining,
}

/// What the hub knows of a Site.
#[derive(Clone, Debug, Default)]
pub struct SiteObject {
    /// Grows with each write.
    pub version: u64,
    /// Number of the newest session.
    pub number: u64,
    /// Its gateway.
    pub gateway: usize,
    /// It has a live session, as the gateway said.
    pub connected: bool,
    /// How old the last grant was when the loss was written, milliseconds.
    pub lost_age: Option<u64>,
    /// When the last grant was, by the wall clock of who wrote it.
    pub lost_wall: Option<Millis>,
    /// What the supplier wants.
    pub wants: Wants,
    /// Clusters and epochs whose members count as stopped.
    pub fenced: Vec<(usize, u64)>,
    /// Whether each node is Ready.
    pub ready: Vec<bool>,
}

/// A Lease.
#[derive(Clone, Debug, Default)]
pub struct LeaseObject {
    /// Grows with each write; 0: there is none yet.
    pub version: u64,
    /// Who holds it; None: nobody.
    pub holder: Option<usize>,
    /// Grows with each change of holder.
    pub term: u64,
    /// When it was renewed, by the holder's wall clock.
    pub renewed: Millis,
}

/// The store.
#[derive(Debug)]
pub struct Hub {
    /// Grows with each write.
    pub version: u64,
    /// It takes no requests.
    pub out: bool,
    /// Clusters.
    pub clusters: Vec<Rc<ClusterObject>>,
    /// Slices.
    pub slices: BTreeMap<Key, Rc<SliceObject>>,
    /// Sites.
    pub sites: Vec<Rc<SiteObject>>,
    /// Gateways' Leases.
    pub leases: Vec<Rc<LeaseObject>>,
    /// The operators' Lease.
    pub leader: LeaseObject,
    /// The newest term of it that the server's admission has seen: what operators write of lower ones is refused.
    pub admitted: u64,
}

/// What a process of the hub has seen of it.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    /// Clusters.
    pub clusters: Vec<Rc<ClusterObject>>,
    /// Slices.
    pub slices: BTreeMap<Key, Rc<SliceObject>>,
    /// Sites.
    pub sites: Vec<Rc<SiteObject>>,
    /// Gateways' Leases.
    pub leases: Vec<Rc<LeaseObject>>,
    /// Slices that were deleted at a version: an older picture of them is none.
    gone: BTreeMap<Key, u64>,
}

/// Something that was written.
#[derive(Clone, Debug)]
pub enum Change {
    /// A Cluster.
    Cluster(usize, Rc<ClusterObject>),
    /// A slice.
    Slice(Rc<SliceObject>),
    /// A slice is gone, at a version.
    SliceGone(Key, u64),
    /// A Site.
    Site(usize, Rc<SiteObject>),
    /// A gateway's Lease.
    Lease(usize, Rc<LeaseObject>),
}

impl Cache {
    /// Takes in a change, unless something newer was seen.
    pub fn take(&mut self, change: Change) {
        match change {
            Change::Cluster(at, object) => {
                if self.clusters[at].version < object.version {
                    self.clusters[at] = object;
                }
            }
            Change::Slice(object) => {
                let key = object.key;
                let older = self.slices.get(&key).is_none_or(|known| known.version < object.version)
                    && self.gone.get(&key).is_none_or(|gone| *gone < object.version);
                if older {
                    self.slices.insert(key, object);
                }
            }
            Change::SliceGone(key, version) => {
                if self.slices.get(&key).is_some_and(|known| known.version <= version) {
                    self.slices.remove(&key);
                }
                let gone = self.gone.entry(key).or_default();
                *gone = version.max(*gone);
            }
            Change::Site(at, object) => {
                if self.sites[at].version < object.version {
                    self.sites[at] = object;
                }
            }
            Change::Lease(at, object) => {
                if self.leases[at].version < object.version {
                    self.leases[at] = object;
                }
            }
        }
    }
}

impl Hub {
    /// As it is installed: Clusters that nobody has looked at, Sites that have joined.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        let clusters = setup
            .clusters
            .iter()
            .map(|cluster| Rc::new(ClusterObject { version: 1, state: cluster.state.clone(), term: 0 }));
        let site =
            |_| Rc::new(SiteObject { version: 1, ready: vec![true; crate::setup::NODES], ..SiteObject::default() });
        Self {
            version: 1,
            out: false,
            clusters: clusters.collect(),
            slices: BTreeMap::new(),
            sites: (0..setup.sites.len()).map(site).collect(),
            leases: (0..2).map(|_| Rc::default()).collect(),
            leader: LeaseObject::default(),
            admitted: 0,
        }
    }

    /// All of it, as a list shows it.
    #[must_use]
    pub fn list(&self) -> Cache {
        Cache {
            clusters: self.clusters.clone(),
            slices: self.slices.clone(),
            sites: self.sites.clone(),
            leases: self.leases.clone(),
            gone: BTreeMap::new(),
        }
    }
}

impl World {
    /// Asks the hub's API.
    pub fn ask_hub<R: 'static>(
        &mut self,
        proc: Proc,
        ask: impl FnOnce(&mut World) -> Result<R, ApiError> + 'static,
        then: impl FnOnce(&mut World, Result<R, ApiError>) + 'static,
    ) {
        let link = hub_link(proc);
        let ask = move |world: &mut World| match world.hub.out {
            true if world.rng.percent(50) => None,
            true => Some(Err(ApiError::Unavailable)),
            false => Some(ask(world)),
        };
        self.call(proc, link, ask, then);
    }

    fn publish(&mut self, change: &Change) {
        for proc in [Proc::Operator(0), Proc::Operator(1), Proc::Gateway(0), Proc::Gateway(1)] {
            if self.life(proc).up {
                let (change, life) = (change.clone(), self.life(proc).number);
                self.tell(hub_link(proc), Way::Down, proc, true, move |world| {
                    if world.life(proc).number == life {
                        world.watched(proc, change);
                    }
                });
            }
        }
    }

    fn watched(&mut self, proc: Proc, change: Change) {
        match proc {
            Proc::Operator(n) => self.operator_sees(n, change),
            Proc::Gateway(n) => self.gateway_sees(n, change),
            _ => {}
        }
    }

    fn next_version(&mut self) -> u64 {
        self.hub.version += 1;
        self.hub.version
    }

    /// Whether an operator's write of this term is taken.
    pub fn admit(&self, term: u64) -> Result<(), ApiError> {
        if term < self.hub.admitted && self.holds(Rule::TermChecked) { Err(ApiError::Refused) } else { Ok(()) }
    }

    /// Replaces a Cluster's status on the version that it was decided on; None: whatever is there.
    pub fn put_cluster(
        &mut self,
        at: usize,
        on: Option<u64>,
        object: ClusterObject,
    ) -> Result<Rc<ClusterObject>, ApiError> {
        if on.is_some_and(|on| on != self.hub.clusters[at].version) {
            return Err(ApiError::Conflict);
        }
        judge::committed(self, at, &object);
        let version = self.next_version();
        let object = Rc::new(ClusterObject { version, ..object });
        self.hub.clusters[at] = Rc::clone(&object);
        self.publish(&Change::Cluster(at, Rc::clone(&object)));
        Ok(object)
    }

    /// Writes a slice's specification on the version that was seen, 0: there was none; None: whatever is there.
    pub fn apply_slice(&mut self, key: Key, on: Option<u64>, spec: Spec) -> Result<Rc<SliceObject>, ApiError> {
        let known = self.hub.slices.get(&key).cloned();
        if on.is_some_and(|on| on != known.as_ref().map_or(0, |known| known.version)) {
            return Err(ApiError::Conflict);
        }
        let version = self.next_version();
        let object = match known {
            Some(known) if *known.spec == spec => return Ok(known),
            Some(known) => SliceObject {
                version,
                // A deletion changes the generation too, and what is being deleted can still be written.
                generation: known.generation + 1,
                spec: Rc::new(spec),
                ..(*known).clone()
            },
            None => SliceObject {
                key,
                uid: version,
                version,
                generation: 1,
                spec: Rc::new(spec),
                status: None,
                deleting: false,
            },
        };
        Ok(self.set_slice(object))
    }

    fn set_slice(&mut self, object: SliceObject) -> Rc<SliceObject> {
        let object = Rc::new(object);
        self.hub.slices.insert(object.key, Rc::clone(&object));
        self.publish(&Change::Slice(Rc::clone(&object)));
        object
    }

    /// Begins the deletion of a slice: its finalizer keeps it.
    pub fn delete_slice(&mut self, key: Key, uid: u64, on: Option<u64>) -> Result<Rc<SliceObject>, ApiError> {
        let known = self.hub.slices.get(&key).filter(|known| known.uid == uid).cloned().ok_or(ApiError::NotFound)?;
        if on.is_some_and(|on| on != known.version) {
            return Err(ApiError::Conflict);
        }
        if known.deleting {
            return Ok(known);
        }
        let version = self.next_version();
        let object = SliceObject { version, generation: known.generation + 1, deleting: true, ..(*known).clone() };
        Ok(self.set_slice(object))
    }

    /// Takes the finalizer of a slice away.
    pub fn release_slice(&mut self, key: Key, uid: u64, on: Option<u64>) -> Result<u64, ApiError> {
        let known = self.hub.slices.get(&key).filter(|known| known.uid == uid && known.deleting);
        let known = known.ok_or(ApiError::NotFound)?;
        if on.is_some_and(|on| on != known.version) {
            return Err(ApiError::Conflict);
        }
        self.hub.slices.remove(&key);
        let version = self.next_version();
        self.publish(&Change::SliceGone(key, version));
        Ok(version)
    }

    /// Writes what a Site said of a slice.
    pub fn put_slice_status(
        &mut self,
        key: Key,
        uid: u64,
        on: Option<u64>,
        status: SliceStatus,
    ) -> Result<Rc<SliceObject>, ApiError> {
        let known = self.hub.slices.get(&key).filter(|known| known.uid == uid).cloned().ok_or(ApiError::NotFound)?;
        if on.is_some_and(|on| on != known.version) {
            return Err(ApiError::Conflict);
        }
        if known.status.as_ref() == Some(&status) {
            return Ok(known);
        }
        judge::reported(self, &known, &status);
        let version = self.next_version();
        Ok(self.set_slice(SliceObject { version, status: Some(status), ..(*known).clone() }))
    }

    /// Changes a Site's status on the version that the change was decided on; None: whatever is there.
    pub fn patch_site(
        &mut self,
        at: usize,
        on: Option<u64>,
        patch: impl FnOnce(&mut SiteObject),
    ) -> Result<Rc<SiteObject>, ApiError> {
        if on.is_some_and(|on| on != self.hub.sites[at].version) {
            return Err(ApiError::Conflict);
        }
        let mut object = (*self.hub.sites[at]).clone();
        patch(&mut object);
        judge::changes(self, at, &object);
        object.version = self.next_version();
        let object = Rc::new(object);
        self.hub.sites[at] = Rc::clone(&object);
        self.publish(&Change::Site(at, Rc::clone(&object)));
        Ok(object)
    }

    /// Renews a gateway's Lease on the version that it knows; None: it takes over whatever is there.
    pub fn renew_lease(
        &mut self,
        gateway: usize,
        renewed: Millis,
        released: bool,
    ) -> Result<Rc<LeaseObject>, ApiError> {
        let version = self.next_version();
        let holder = (!released).then_some(gateway);
        let object = Rc::new(LeaseObject { version, holder, term: 0, renewed });
        self.hub.leases[gateway] = Rc::clone(&object);
        self.publish(&Change::Lease(gateway, Rc::clone(&object)));
        Ok(object)
    }

    /// Takes or renews the operators' Lease on the version that was seen. Each taking is a new term, which the server's
    /// admission sees a moment later.
    pub fn take_leader(&mut self, operator: usize, on: u64, renews: bool) -> Result<LeaseObject, ApiError> {
        if on != self.hub.leader.version {
            return Err(ApiError::Conflict);
        }
        let version = self.next_version();
        let lag = if self.rng.percent(10) { self.rng.between(100, 4_000) } else { self.rng.between(1, 50) };
        let leader = &mut self.hub.leader;
        if !renews {
            leader.term += 1;
            let term = leader.term;
            self.at(self.now + lag, move |world| world.hub.admitted = term.max(world.hub.admitted));
        }
        let leader = &mut self.hub.leader;
        leader.holder = Some(operator);
        leader.version = version;
        Ok(leader.clone())
    }
}

/// The link of a process of the hub to the hub's API.
#[must_use]
pub fn hub_link(proc: Proc) -> Link {
    match proc {
        Proc::Operator(n) => Link::OperatorApi(n),
        Proc::Gateway(n) => Link::GatewayApi(n),
        Proc::Agent(site) => Link::AgentApi(site),
        Proc::Kubelet(site, node) | Proc::Watchdog(site, node) => Link::NodeApi(site, node),
    }
}
