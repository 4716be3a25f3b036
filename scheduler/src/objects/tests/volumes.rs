//! What volumes ask of nodes.

use std::collections::BTreeSet;

use atoll_core::scheduling::{ExclusiveVolume, NodeTerm, Operator, Requirement, VolumeNeeds};

use super::*;
use crate::proto::{
    AzureDisk, DiskById, Ephemeral, GcePersistentDisk, Iscsi, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolume, PersistentVolumeClaimSource, PersistentVolumeSpec, Rbd, Volume, VolumeNodeAffinity, VolumeSource,
};

fn volume(name: &str, source: VolumeSource) -> Volume {
    Volume { name: name.to_owned(), volume_source: Some(source) }
}

fn with(volumes: Vec<Volume>) -> PodFacts {
    of_spec(PodSpec { volumes, ..PodSpec::default() })
}

fn exclusive(id: &str, read_only: bool) -> ExclusiveVolume {
    ExclusiveVolume { id: id.to_owned(), read_only, anywhere: false }
}

/// A source, what of it cannot be shared, and what is attached of it.
type Case = (VolumeSource, Vec<ExclusiveVolume>, Option<(&'static str, &'static str)>);

#[test]
fn disks_that_a_pod_names_itself_are_shared_only_for_reading() {
    let text = str::to_owned;
    let disk = |id: &str| Some(Box::new(DiskById { id: id.to_owned() }));
    let rbd = |monitors: &[&str], read_only| Rbd {
        monitors: monitors.iter().map(|m| (*m).to_owned()).collect(),
        image: text("i"),
        pool: text("p"),
        read_only,
    };
    let none = VolumeSource::default;
    let cases: Vec<Case> = vec![
        (
            VolumeSource {
                gce_persistent_disk: Some(Box::new(GcePersistentDisk { pd_name: text("pd"), read_only: true })),
                ..none()
            },
            vec![exclusive("gce-pd/pd", true)],
            Some(("pd.csi.storage.gke.io", "UNSPECIFIED/pd")),
        ),
        (
            VolumeSource { aws_elastic_block_store: disk("vol"), ..none() },
            vec![exclusive("aws-ebs/vol", false)],
            Some(("ebs.csi.aws.com", "vol")),
        ),
        (
            VolumeSource { iscsi: Some(Box::new(Iscsi { iqn: text("q"), read_only: false })), ..none() },
            vec![exclusive("iscsi/q", false)],
            None,
        ),
        (
            VolumeSource { rbd: Some(Box::new(rbd(&["a", "b"], true))), ..none() },
            vec![exclusive("rbd/a/p/i", true), exclusive("rbd/b/p/i", true)],
            None,
        ),
        (
            VolumeSource { azure_disk: Some(Box::new(AzureDisk { disk_uri: text("uri") })), ..none() },
            vec![],
            Some(("disk.csi.azure.com", "uri")),
        ),
        (VolumeSource { cinder: disk("c"), ..none() }, vec![], Some(("cinder.csi.openstack.org", "c"))),
        (VolumeSource { portworx_volume: disk("x"), ..none() }, vec![], Some(("pxd.portworx.com", "x"))),
        (
            VolumeSource { aws_elastic_block_store: disk("aws://zone/vol-1"), ..none() },
            vec![exclusive("aws-ebs/aws://zone/vol-1", false)],
            Some(("ebs.csi.aws.com", "vol-1")),
        ),
        // An emptyDir, a configMap, a volume of an inline CSI driver.
        (none(), vec![], None),
    ];
    for (source, disks, attached) in cases {
        let facts = with(vec![volume("v", source)]);
        let needs = &facts.shape.volumes;
        assert_eq!(needs.exclusive.iter().cloned().collect::<Vec<_>>(), disks);
        let found = needs.attached.iter().flat_map(|(driver, disks)| disks.iter().map(move |d| (&**driver, &**d)));
        assert_eq!(found.collect::<Vec<_>>(), attached.into_iter().collect::<Vec<_>>());
        assert_eq!((facts.not_supported, facts.claims), (None, vec![]));
    }
}

#[test]
fn a_pod_uses_the_claims_that_it_names_and_those_that_are_made_for_it() {
    let named = Box::new(PersistentVolumeClaimSource { claim_name: "data".to_owned() });
    let facts = with(vec![
        volume("a", VolumeSource { persistent_volume_claim: Some(named), ..VolumeSource::default() }),
        volume("scratch", VolumeSource { ephemeral: Some(Ephemeral {}), ..VolumeSource::default() }),
    ]);
    let expected = [
        ClaimRef { name: "data".to_owned(), made_for: None },
        ClaimRef { name: "p-scratch".to_owned(), made_for: Some(Arc::from("u")) },
    ];
    assert_eq!(facts.claims, expected);
    assert_eq!(facts.shape.volumes, VolumeNeeds::default());
}

fn claim(name: &str) -> ClaimFacts {
    ClaimFacts {
        key: ObjectKey::new("ns", name),
        volume: Some(format!("pv-{name}")),
        lost: false,
        deleting: false,
        one_pod: false,
        owner: None,
    }
}

fn pv(name: &str) -> VolumeFacts {
    VolumeFacts { name: format!("pv-{name}"), affinity: None, zones: Vec::new(), attached: None }
}

fn named(name: &str) -> ClaimRef {
    ClaimRef { name: name.to_owned(), made_for: None }
}

fn made(name: &str) -> ClaimRef {
    ClaimRef { name: name.to_owned(), made_for: Some(Arc::from("u")) }
}

fn catalog(claims: Vec<ClaimFacts>, volumes: Vec<VolumeFacts>) -> VolumeCatalog {
    let mut catalog = VolumeCatalog::default();
    for claim in claims {
        assert!(catalog.set_claim(claim.clone()) && !catalog.set_claim(claim));
    }
    for volume in volumes {
        assert!(catalog.set_volume(volume.clone()) && !catalog.set_volume(volume));
    }
    catalog
}

#[test]
fn a_pod_waits_until_each_of_its_claims_is_bound_to_a_volume() {
    let name = || "a".to_owned();
    let cases = [
        (vec![], named("a"), VolumeWait::NoClaim(name())),
        (vec![ClaimFacts { lost: true, ..claim("a") }], named("a"), VolumeWait::Lost(name())),
        (vec![ClaimFacts { deleting: true, ..claim("a") }], named("a"), VolumeWait::Deleting(name())),
        (vec![claim("a")], made("a"), VolumeWait::NotOurs(name())),
        (vec![ClaimFacts { owner: Some("other".to_owned()), ..claim("a") }], made("a"), VolumeWait::NotOurs(name())),
        (vec![ClaimFacts { volume: None, ..claim("a") }], named("a"), VolumeWait::NotBound(name())),
        (vec![claim("a")], named("a"), VolumeWait::NoVolume { claim: name(), volume: "pv-a".to_owned() }),
    ];
    for (claims, reference, wait) in cases {
        let catalog = catalog(claims, vec![]);
        assert_eq!(catalog.resolve("ns", &[reference]), Err(wait));
    }
    let good = catalog(vec![claim("a")], vec![pv("a")]);
    assert_eq!(good.resolve("ns", &[named("a")]), Ok(VolumeNeeds::default()));
    assert_eq!(good.resolve("elsewhere", &[named("a")]), Err(VolumeWait::NoClaim(name())));
}

#[test]
fn a_claim_asks_for_nodes_from_which_its_volume_can_be_reached_and_attached() {
    let term = NodeTerm {
        labels: vec![Requirement { key: "zone".to_owned(), operator: Operator::In, values: vec!["a".to_owned()] }],
        name: Vec::new(),
    };
    let zones = ("topology.kubernetes.io/zone".to_owned(), BTreeSet::from(["a".to_owned()]));
    let volume = |name: &str| VolumeFacts {
        affinity: Some(vec![term.clone()]),
        zones: vec![zones.clone()],
        attached: Some(("csi".to_owned(), format!("disk-{name}"))),
        ..pv(name)
    };
    let own = ClaimFacts { owner: Some("u".to_owned()), one_pod: true, ..claim("e") };
    let claims = vec![ClaimFacts { one_pod: true, ..claim("a") }, claim("b"), own];
    let catalog = catalog(claims, vec![volume("a"), volume("b"), volume("e")]);
    let references = [named("a"), named("b"), made("e")];
    let needs = catalog.resolve("ns", &references).unwrap();
    assert_eq!(needs.affinities, vec![vec![term.clone()]; 3]);
    assert_eq!(needs.zones.len(), 2, "not of claims that are made for the pod");
    let disks: Vec<_> = needs.attached["csi"].iter().map(String::as_str).collect();
    assert_eq!(disks, ["disk-a", "disk-b", "disk-e"]);
    let only = ExclusiveVolume { id: "claim/ns/a".to_owned(), read_only: false, anywhere: true };
    assert_eq!(needs.exclusive, BTreeSet::from([only]));

    let taken = catalog.taken("ns", &references);
    assert_eq!((&taken.attached, &taken.exclusive), (&needs.attached, &needs.exclusive));
    assert!(taken.affinities.is_empty() && taken.zones.is_empty());
    assert_eq!(catalog.taken("ns", &[named("unknown"), made("a")]), VolumeNeeds::default());

    let interner = Interner::default();
    let facts = with(vec![]);
    assert!(Arc::ptr_eq(&facts.shape_with(VolumeNeeds::default(), &interner), &facts.shape));
    assert_eq!(facts.shape_with(needs.clone(), &interner).volumes, needs);
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut catalog = catalog(vec![claim("a")], vec![pv("a")]);
    assert!(catalog.remove_volume("pv-a") && !catalog.remove_volume("pv-a"));
    assert!(catalog.remove_claim(&ObjectKey::new("ns", "a")) && !catalog.remove_claim(&ObjectKey::new("ns", "a")));
}

#[test]
fn the_node_affinity_of_a_volume_is_about_labels_only() {
    let requirement = |key: &str| NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: vec!["x".to_owned()],
    };
    let read = |terms: Vec<NodeSelectorTerm>| {
        let required = Some(NodeSelector { node_selector_terms: terms });
        let spec = PersistentVolumeSpec { node_affinity: Some(VolumeNodeAffinity { required }), ..Default::default() };
        VolumeFacts::of(PersistentVolume { metadata: Some(meta("v")), spec: Some(spec) }).affinity
    };
    let labels = || NodeSelectorTerm { match_expressions: vec![requirement("zone")], match_fields: vec![] };
    let name = || vec![requirement("metadata.name")];
    assert_eq!(read(vec![labels()]).unwrap()[0].labels.len(), 1);
    let both = read(vec![NodeSelectorTerm { match_fields: name(), ..labels() }]).unwrap();
    assert_eq!((both[0].labels.len(), both[0].name.len()), (1, 0));
    assert_eq!(read(vec![NodeSelectorTerm { match_expressions: vec![], match_fields: name() }, labels()]), None);
    assert_eq!(read(vec![]), Some(vec![]), "from nowhere");
}
