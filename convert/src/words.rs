//! The words of manifests as core's words. Each `match` is complete, so that a new word is a compile error here.

use atoll_core::cluster::Kind;
use atoll_core::words as core;

/// What the members do.
#[must_use]
pub const fn workload(workload: atoll_api::Workload) -> core::Workload {
    match workload {
        atoll_api::Workload::Training => core::Workload::Training,
        atoll_api::Workload::Inference => core::Workload::Inference,
        atoll_api::Workload::Batch => core::Workload::Batch,
        atoll_api::Workload::Validator => core::Workload::Validator,
        atoll_api::Workload::ZkProver => core::Workload::ZkProver,
        atoll_api::Workload::Sequencer => core::Workload::Sequencer,
    }
}

/// How far apart members may be.
#[must_use]
pub const fn span(span: atoll_api::Span) -> core::Span {
    match span {
        atoll_api::Span::Site => core::Span::Site,
        atoll_api::Span::Region => core::Span::Region,
        atoll_api::Span::Any => core::Span::Any,
    }
}

/// How far a Site is trusted.
#[must_use]
pub const fn trust(trust: atoll_api::Trust) -> core::Trust {
    match trust {
        atoll_api::Trust::Untrusted => core::Trust::Untrusted,
        atoll_api::Trust::Contracted => core::Trust::Contracted,
        atoll_api::Trust::Attested => core::Trust::Attested,
    }
}

/// Names to choose from and names to leave out.
#[must_use]
pub fn selection(selection: &atoll_api::Selection) -> core::Selection {
    core::Selection { only: selection.in_.clone(), except: selection.not_in.clone() }
}

/// How members depend on each other.
#[must_use]
pub const fn kind(type_: atoll_api::ClusterType) -> Kind {
    match type_ {
        atoll_api::ClusterType::Pods => Kind::Pods,
        atoll_api::ClusterType::Torch => Kind::Torch,
        atoll_api::ClusterType::Ray => Kind::Ray,
    }
}
