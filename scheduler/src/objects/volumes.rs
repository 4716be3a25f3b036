//! What the volumes of pods ask of nodes: those written into the pod, and those behind claims.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use atoll_core::scheduling::{ExclusiveVolume, NodeTerm, VolumeNeeds};

use super::ObjectKey;
use super::affinity::node_terms;
use crate::proto::{
    AzureDisk, DiskById, GcePersistentDisk, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSource, Volume,
    VolumeSource,
};

/// Annotation of a claim that is bound for good.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Labels of a volume that say where it can be reached.
const ZONE_LABELS: [&str; 4] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];
/// Stands for the zone of a disk of which it is not known.
const NO_ZONE: &str = "UNSPECIFIED";
/// Between the zones in one label of a volume that can be reached in several.
const ZONE_DELIMITER: &str = "__";

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// Its name, in the pod's namespace.
    pub name: String,
    /// It is made for the pod of this UID and must belong to it.
    pub made_for: Option<Arc<str>>,
}

/// What of a `PersistentVolumeClaim` matters to a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The volume that it is bound to for good.
    pub volume: Option<String>,
    /// Its volume is gone.
    pub lost: bool,
    /// Being deleted.
    pub deleting: bool,
    /// Only one pod of the cluster may use it.
    pub one_pod: bool,
    /// UID of the object that controls it.
    pub owner: Option<String>,
}

impl ClaimFacts {
    /// Reads a claim.
    #[must_use]
    pub fn of(claim: PersistentVolumeClaim) -> Self {
        let meta = claim.metadata.unwrap_or_default();
        let spec = claim.spec.unwrap_or_default();
        let bound = meta.annotation(BIND_COMPLETED).is_some() && !spec.volume_name.is_empty();
        Self {
            key: ObjectKey::of(&meta),
            volume: if bound { Some(spec.volume_name) } else { None },
            lost: claim.status.unwrap_or_default().phase == "Lost",
            deleting: meta.deletion_timestamp.is_some(),
            one_pod: spec.access_modes.iter().any(|mode| mode == "ReadWriteOncePod"),
            owner: meta.owner_references.into_iter().find(|owner| owner.controller).map(|owner| owner.uid),
        }
    }
}

/// What of a `PersistentVolume` matters to a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Name.
    pub name: String,
    /// From where it can be reached: one must match. `None`: from everywhere.
    pub affinity: Option<Vec<NodeTerm>>,
    /// Its zone and region labels.
    pub zones: Vec<(String, BTreeSet<String>)>,
    /// Driver that attaches it, and what it calls it.
    pub attached: Option<(String, String)>,
}

impl VolumeFacts {
    /// Reads a volume. One whose node affinity cannot be understood can be reached from nowhere.
    #[must_use]
    pub fn of(volume: PersistentVolume) -> Self {
        let meta = volume.metadata.unwrap_or_default();
        let spec = volume.spec.unwrap_or_default();
        let required = spec.node_affinity.and_then(|affinity| affinity.required);
        let affinity = required.map(|selector| node_terms(&selector).unwrap_or_default());
        let zones = ZONE_LABELS.iter().filter_map(|label| {
            let parts = meta.labels.get(*label)?.split(ZONE_DELIMITER).map(|part| part.trim().to_owned());
            let parts: BTreeSet<String> = parts.collect();
            // Kubernetes ignores a label that has an empty part.
            if parts.contains("") { None } else { Some(((*label).to_owned(), parts)) }
        });
        Self {
            zones: zones.collect(),
            affinity: affinity.and_then(without_names),
            attached: spec.persistent_volume_source.and_then(|source| attached(source, &meta.labels)),
            name: meta.name,
        }
    }
}

/// Kubernetes compares a volume's node affinity with labels only, so a term about nothing but names always matches.
fn without_names(terms: Vec<NodeTerm>) -> Option<Vec<NodeTerm>> {
    if terms.iter().any(|term| term.labels.is_empty() && !term.name.is_empty()) {
        return None;
    }
    Some(terms.into_iter().map(|term| NodeTerm { name: Vec::new(), ..term }).collect())
}

fn attached(source: PersistentVolumeSource, labels: &BTreeMap<String, String>) -> Option<(String, String)> {
    if let Some(csi) = source.csi {
        return Some((csi.driver, csi.volume_handle));
    }
    Migrated {
        gce: source.gce_persistent_disk.as_ref(),
        zone: [ZONE_LABELS[0], ZONE_LABELS[2]].iter().find_map(|label| labels.get(*label)).map(String::as_str),
        aws: source.aws_elastic_block_store.as_ref(),
        azure: source.azure_disk.as_ref(),
        cinder: source.cinder.as_ref(),
        portworx: source.portworx_volume.as_ref(),
    }
    .attached()
}

/// Volumes that Kubernetes once attached itself and that CSI drivers attach today, so that they count against the
/// limits of these drivers. Kubernetes does not count those of vSphere.
struct Migrated<'a> {
    gce: Option<&'a GcePersistentDisk>,
    /// Disks of GCE are named anew in each zone; those that a pod names itself are in an unknown one.
    zone: Option<&'a str>,
    aws: Option<&'a DiskById>,
    azure: Option<&'a AzureDisk>,
    cinder: Option<&'a DiskById>,
    portworx: Option<&'a DiskById>,
}

impl Migrated<'_> {
    /// The driver and the disk.
    fn attached(&self) -> Option<(String, String)> {
        let all = [
            (
                "pd.csi.storage.gke.io",
                self.gce.map(|disk| format!("{}/{}", self.zone.unwrap_or(NO_ZONE), disk.pd_name)),
            ),
            ("ebs.csi.aws.com", self.aws.and_then(|disk| ebs_volume(&disk.id)).map(str::to_owned)),
            ("disk.csi.azure.com", self.azure.map(|disk| disk.disk_uri.clone())),
            ("cinder.csi.openstack.org", self.cinder.map(|disk| disk.id.clone())),
            ("pxd.portworx.com", self.portworx.map(|disk| disk.id.clone())),
        ];
        all.into_iter().find_map(|(driver, disk)| Some((driver.to_owned(), disk?)))
    }
}

/// EBS volumes are named by their ID, or by `aws://zone/ID`.
fn ebs_volume(name: &str) -> Option<&str> {
    let Some(path) = name.strip_prefix("aws://") else { return Some(name) };
    let (_zone, id) = path.split_once('/')?;
    Some(id.trim_matches('/')).filter(|id| id.starts_with("vol-") && !id.contains('/'))
}

/// What a pod's volumes ask as far as the pod itself says so, and the claims that say the rest.
pub(super) fn of_pod(pod: &str, uid: &Arc<str>, volumes: &[Volume]) -> (VolumeNeeds, Vec<ClaimRef>) {
    let mut needs = VolumeNeeds::default();
    let mut claims = Vec::new();
    for volume in volumes {
        let Some(source) = &volume.volume_source else { continue };
        if let Some(claim) = &source.persistent_volume_claim {
            claims.push(ClaimRef { name: claim.claim_name.clone(), made_for: None });
        } else if source.ephemeral.is_some() {
            let name = format!("{pod}-{}", volume.name);
            claims.push(ClaimRef { name, made_for: Some(Arc::clone(uid)) });
        } else {
            written_out(source, &mut needs);
        }
    }
    (needs, claims)
}

/// Disks that are named in the pod. Kubernetes keeps some of them from being written to by two pods of a node.
fn written_out(source: &VolumeSource, needs: &mut VolumeNeeds) {
    let mut exclusive = |id: String, read_only| {
        needs.exclusive.insert(ExclusiveVolume { id, read_only, anywhere: false });
    };
    if let Some(disk) = &source.gce_persistent_disk {
        exclusive(format!("gce-pd/{}", disk.pd_name), disk.read_only);
    }
    if let Some(disk) = &source.aws_elastic_block_store {
        exclusive(format!("aws-ebs/{}", disk.id), false);
    }
    if let Some(disk) = &source.iscsi {
        exclusive(format!("iscsi/{}", disk.iqn), disk.read_only);
    }
    if let Some(image) = &source.rbd {
        // The same image when any monitor is the same.
        for monitor in &image.monitors {
            exclusive(format!("rbd/{monitor}/{}/{}", image.pool, image.image), image.read_only);
        }
    }
    let migrated = Migrated {
        gce: source.gce_persistent_disk.as_deref(),
        zone: None,
        aws: source.aws_elastic_block_store.as_deref(),
        azure: source.azure_disk.as_deref(),
        cinder: source.cinder.as_deref(),
        portworx: source.portworx_volume.as_deref(),
    };
    if let Some((driver, disk)) = migrated.attached() {
        needs.attached.entry(driver).or_default().insert(disk);
    }
}

/// Why a pod waits for its volumes, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeWait {
    /// There is no such claim (yet).
    #[error("the PersistentVolumeClaim {0} does not exist")]
    NoClaim(String),
    /// The claim's volume is gone.
    #[error("the PersistentVolumeClaim {0} has lost its volume")]
    Lost(String),
    /// The claim is being deleted.
    #[error("the PersistentVolumeClaim {0} is being deleted")]
    Deleting(String),
    /// A claim of the name that the pod's own would have, and not made for it.
    #[error("the PersistentVolumeClaim {0} was not made for the pod")]
    NotOurs(String),
    /// It is not bound.
    #[error(
        "the PersistentVolumeClaim {0} is not bound to a volume; atoll-scheduler does not bind volumes itself, so its \
         storage class must bind at once (volumeBindingMode Immediate)"
    )]
    NotBound(String),
    /// It is bound to a volume that there is not (yet).
    #[error("the PersistentVolumeClaim {claim} is bound to the PersistentVolume {volume}, which does not exist")]
    NoVolume {
        /// The claim.
        claim: String,
        /// The volume.
        volume: String,
    },
}

/// The claims and volumes that there are.
#[derive(Clone, Debug, Default)]
pub struct VolumeCatalog {
    claims: HashMap<ObjectKey, ClaimFacts>,
    volumes: HashMap<String, VolumeFacts>,
}

impl VolumeCatalog {
    /// Adds or replaces a claim; false when nothing changed.
    pub fn set_claim(&mut self, claim: ClaimFacts) -> bool {
        if self.claims.get(&claim.key) == Some(&claim) {
            return false;
        }
        self.claims.insert(claim.key.clone(), claim);
        true
    }

    /// Forgets a claim; false when there was none.
    pub fn remove_claim(&mut self, key: &ObjectKey) -> bool {
        self.claims.remove(key).is_some()
    }

    /// Adds or replaces a volume; false when nothing changed.
    pub fn set_volume(&mut self, volume: VolumeFacts) -> bool {
        if self.volumes.get(&volume.name) == Some(&volume) {
            return false;
        }
        self.volumes.insert(volume.name.clone(), volume);
        true
    }

    /// Forgets a volume; false when there was none.
    pub fn remove_volume(&mut self, name: &str) -> bool {
        self.volumes.remove(name).is_some()
    }

    /// What a pod of this namespace that is still to be bound asks by these claims, or what it waits for.
    pub fn resolve(&self, namespace: &str, claims: &[ClaimRef]) -> Result<VolumeNeeds, VolumeWait> {
        let mut needs = VolumeNeeds::default();
        for reference in claims {
            let name = || reference.name.clone();
            let claim = self.claim(namespace, reference).ok_or_else(|| VolumeWait::NoClaim(name()))?;
            if claim.lost {
                return Err(VolumeWait::Lost(name()));
            }
            if claim.deleting {
                return Err(VolumeWait::Deleting(name()));
            }
            if !is_for(claim, reference) {
                return Err(VolumeWait::NotOurs(name()));
            }
            let bound = claim.volume.as_ref().ok_or_else(|| VolumeWait::NotBound(name()))?;
            let missing = || VolumeWait::NoVolume { claim: name(), volume: bound.clone() };
            let volume = self.volumes.get(bound).ok_or_else(missing)?;
            needs.affinities.extend(volume.affinity.clone());
            // Kubernetes looks at the zones of claims that the pod names, not of those that are made for it.
            if reference.made_for.is_none() {
                needs.zones.extend(volume.zones.iter().cloned());
            }
            takes(claim, reference, Some(volume), &mut needs);
        }
        Ok(needs)
    }

    /// What a bound pod of this namespace has taken by these claims, as far as they are known.
    #[must_use]
    pub fn taken(&self, namespace: &str, claims: &[ClaimRef]) -> VolumeNeeds {
        let mut needs = VolumeNeeds::default();
        for reference in claims {
            if let Some(claim) = self.claim(namespace, reference).filter(|claim| is_for(claim, reference)) {
                let volume = claim.volume.as_ref().and_then(|volume| self.volumes.get(volume));
                takes(claim, reference, volume, &mut needs);
            }
        }
        needs
    }

    fn claim(&self, namespace: &str, reference: &ClaimRef) -> Option<&ClaimFacts> {
        self.claims.get(&ObjectKey::new(namespace, &reference.name))
    }
}

fn is_for(claim: &ClaimFacts, reference: &ClaimRef) -> bool {
    reference.made_for.as_deref().is_none_or(|uid| claim.owner.as_deref() == Some(uid))
}

/// What others cannot have any more while a pod with this claim is there.
fn takes(claim: &ClaimFacts, reference: &ClaimRef, volume: Option<&VolumeFacts>, needs: &mut VolumeNeeds) {
    if let Some((driver, handle)) = volume.and_then(|volume| volume.attached.clone()) {
        needs.attached.entry(driver).or_default().insert(handle);
    }
    if claim.one_pod && reference.made_for.is_none() {
        needs.exclusive.insert(ExclusiveVolume {
            id: format!("claim/{}", claim.key),
            read_only: false,
            anywhere: true,
        });
    }
}

/// Both needs together.
pub(super) fn together(mut needs: VolumeNeeds, others: VolumeNeeds) -> VolumeNeeds {
    needs.affinities.extend(others.affinities);
    needs.zones.extend(others.zones);
    for (driver, disks) in others.attached {
        needs.attached.entry(driver).or_default().extend(disks);
    }
    needs.exclusive.extend(others.exclusive);
    needs
}
