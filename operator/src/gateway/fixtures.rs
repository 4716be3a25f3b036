//! Objects for tests.

use atoll_api::{
    ClusterSlice, ClusterSliceSpec, ClusterType, DisconnectionTimes, GpuModel, GpuModelSpec, MemberTemplate,
    Rendezvous, Site, SiteSpec, SliceMember, SlicePhase, Trust, Vendor,
};

/// A Site of the supplier "acme".
pub fn site(name: &str) -> Site {
    let mut site = Site::new(
        name,
        SiteSpec {
            supplier: "acme".to_owned(),
            display_name: None,
            region: "eu-west".to_owned(),
            trust: Trust::Untrusted,
            suspended: false,
            quarantined: false,
        },
    );
    site.metadata.uid = Some(format!("uid-{name}"));
    site.metadata.resource_version = Some("1".to_owned());
    site.metadata.generation = Some(1);
    site
}

/// A slice of the Cluster "train" with one member.
pub fn slice(namespace: &str, name: &str, site: &str, epoch: i64) -> ClusterSlice {
    let mut slice = ClusterSlice::new(
        name,
        ClusterSliceSpec {
            site: site.to_owned(),
            cluster: "train".to_owned(),
            cluster_uid: "uid-train".to_owned(),
            epoch,
            term: 1,
            phase: SlicePhase::Run,
            type_: ClusterType::Pods,
            members: vec![SliceMember { rank: 0, node: "n1".to_owned(), incarnation: epoch }],
            gpus: 1,
            rendezvous: Rendezvous::default(),
            fence: DisconnectionTimes::default(),
            autonomous: false,
            checkpoint_store: None,
            template: MemberTemplate::default(),
        },
    );
    slice.metadata.namespace = Some(namespace.to_owned());
    slice.metadata.uid = Some(format!("uid-{namespace}-{name}"));
    slice.metadata.generation = Some(1);
    slice.metadata.resource_version = Some("1".to_owned());
    slice
}

/// A model that reports itself by one name.
pub fn model(name: &str, alias: &str, memory_mib: i64) -> GpuModel {
    GpuModel::new(
        name,
        GpuModelSpec {
            display_name: alias.to_owned(),
            vendor: Vendor::Nvidia,
            family: "hopper".to_owned(),
            aliases: vec![alias.to_owned()],
            memory_mib,
            compute_score: 1_000,
            workloads: Vec::new(),
            reference_price: "2.00".to_owned(),
        },
    )
}
