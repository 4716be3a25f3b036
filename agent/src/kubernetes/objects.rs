//! What the agent makes on its Site besides pods. Pure.

use std::collections::BTreeMap;

use atoll_api::gang::{Gang, GangMember, GangMode, GangSpec};
use atoll_api::{SlicePhase, names};
use atoll_core::units::UnitError;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::naming::{SERVICE_ACCOUNT, SliceId};
use crate::pod;
use crate::runtime::SliceSpec;

/// Labels of the Pod Security admission, set to its strictest profile.
const POD_SECURITY: [&str; 3] =
    ["pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/audit", "pod-security.kubernetes.io/warn"];

fn labels(id: &SliceId) -> BTreeMap<String, String> {
    BTreeMap::from([
        (names::LABEL_MANAGED_BY.to_owned(), names::MANAGED_BY_AGENT.to_owned()),
        (names::LABEL_CLUSTER_UID.to_owned(), id.cluster_uid.clone()),
    ])
}

fn metadata(id: &SliceId, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(id.site_namespace()),
        labels: Some(labels(id)),
        ..ObjectMeta::default()
    }
}

/// The namespace of the slice's Cluster.
pub(super) fn namespace(id: &SliceId) -> core::Namespace {
    let mut labels = labels(id);
    labels.extend(POD_SECURITY.map(|label| (label.to_owned(), "restricted".to_owned())));
    core::Namespace {
        metadata: ObjectMeta { name: Some(id.site_namespace()), labels: Some(labels), ..ObjectMeta::default() },
        ..core::Namespace::default()
    }
}

/// The account of member pods: without rights and without a token.
pub(super) fn service_account(id: &SliceId) -> core::ServiceAccount {
    core::ServiceAccount {
        metadata: metadata(id, SERVICE_ACCOUNT),
        automount_service_account_token: Some(false),
        ..core::ServiceAccount::default()
    }
}

/// The headless Service that gives members their names; they have them before they are Ready, so that they can find
/// each other.
pub(super) fn service(id: &SliceId, cluster: &str) -> core::Service {
    core::Service {
        metadata: metadata(id, cluster),
        spec: Some(core::ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(labels(id)),
            ..core::ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Gang of a slice.
///
/// Fails on a quantity in the template that cannot be read.
pub(super) fn gang(id: &SliceId, slice: &SliceSpec, remember: u64) -> Result<Gang, UnitError> {
    let spec = &slice.spec;
    let members = spec
        .members
        .iter()
        .map(|member| GangMember {
            pod: names::member_pod_name(
                &spec.cluster,
                u32::try_from(member.rank).unwrap_or(0),
                u64::try_from(member.incarnation).unwrap_or(0),
            ),
            rank: member.rank,
            shape: 0,
            node: Some(member.node.clone()),
        })
        .collect();
    let mode = match spec.phase {
        SlicePhase::Reserve => GangMode::Hold,
        SlicePhase::Run => GangMode::Run,
    };
    let mut gang = Gang::new(
        &id.name,
        GangSpec { mode, shapes: vec![pod::shape(&spec.template, spec.gpus)?], members, topology: Vec::new() },
    );
    gang.metadata = metadata(id, &id.name);
    gang.metadata.annotations = Some(BTreeMap::from([
        (names::ANNOTATION_HUB_NAMESPACE.to_owned(), id.namespace.clone()),
        (names::ANNOTATION_EPOCH.to_owned(), spec.epoch.to_string()),
        (names::ANNOTATION_FENCE.to_owned(), slice.times.to_string()),
        (names::ANNOTATION_STOPPED_INCARNATION.to_owned(), remember.to_string()),
    ]));
    Ok(gang)
}
