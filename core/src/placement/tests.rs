mod properties;
mod table;

use crate::inventory::{ModelFacts, NodeFacts, SiteFacts};
use crate::placement::Request;
use crate::units::MicroUsd;
use crate::words::{Selection, Span, Trust, Workload};

fn model(name: &str, family: &str, memory_mib: u64, price: u64, workloads: &[Workload]) -> ModelFacts {
    ModelFacts {
        name: name.into(),
        family: family.into(),
        memory_mib,
        workloads: workloads.to_vec(),
        reference_price: MicroUsd(price),
        aliases: vec![],
    }
}

fn site(name: &str, supplier: &str, region: &str, trust: Trust) -> SiteFacts {
    SiteFacts {
        name: name.into(),
        display: String::new(),
        supplier: supplier.into(),
        region: region.into(),
        trust,
        open: true,
    }
}

fn node(site: &str, node: &str, model: &str, allocatable: u32) -> NodeFacts {
    NodeFacts {
        site: site.into(),
        node: node.into(),
        model: model.into(),
        memory_mib: 0,
        allocatable,
        used_by_others: 0,
        usable: true,
        price: None,
    }
}

fn request(members: u32, gpus_per_member: u32, span: Span) -> Request {
    Request {
        cluster: "uid".into(),
        workload: Workload::Training,
        models: vec![],
        families: vec![],
        min_memory_mib: 0,
        gpus_per_member,
        ranks: (0..members).collect(),
        min_new: members,
        span,
        anchored_site: None,
        anchored_region: None,
        regions: Selection::default(),
        suppliers: Selection::default(),
        min_trust: Trust::Untrusted,
        max_price: None,
    }
}
