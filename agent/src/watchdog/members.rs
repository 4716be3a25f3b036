//! Which pods of the container runtime's lists are members, and what of them runs.

use std::collections::BTreeMap;

use atoll_api::names;
use atoll_core::member::Member;
use atoll_core::watchdog::{Pod, times_of_annotation};

use super::cri::{Container, ContainerState, PodSandbox, PodSandboxState};

/// A member of which something runs, or may be about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who it is.
    pub pod: Pod,
    /// Ids of its sandboxes that are up.
    pub sandboxes: Vec<String>,
    /// Ids of its containers that have not ended.
    pub containers: Vec<String>,
}

/// The members, by the UIDs of their pods. A pod is one if it says so by all labels that agents give; those of others are
/// left out, whatever runs in them.
#[must_use]
pub fn members(sandboxes: Vec<PodSandbox>, containers: Vec<Container>) -> BTreeMap<String, Found> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let mut uids = BTreeMap::new();
    for sandbox in sandboxes {
        let Some((uid, pod)) = member(&sandbox) else { continue };
        let ready = sandbox.state() == PodSandboxState::SandboxReady;
        uids.insert(sandbox.id.clone(), uid.clone());
        let found = found.entry(uid).or_insert_with(|| Found { pod, sandboxes: Vec::new(), containers: Vec::new() });
        if ready {
            found.sandboxes.push(sandbox.id);
        }
    }
    for container in containers {
        let ended = container.state() == ContainerState::ContainerExited;
        let of = uids.get(&container.pod_sandbox_id).filter(|_| !ended).and_then(|uid| found.get_mut(uid));
        if let Some(found) = of {
            found.containers.push(container.id);
        }
    }
    found.retain(|_, found| !found.sandboxes.is_empty() || !found.containers.is_empty());
    found
}

fn member(sandbox: &PodSandbox) -> Option<(String, Pod)> {
    let metadata = sandbox.metadata.as_ref()?;
    let label = |name: &str| sandbox.labels.get(name).filter(|value| !value.is_empty());
    if label(names::LABEL_MANAGED_BY)? != names::MANAGED_BY_AGENT {
        return None;
    }
    let pod = Pod {
        name: format!("{}/{}", metadata.namespace, metadata.name),
        cluster_uid: label(names::LABEL_CLUSTER_UID)?.clone(),
        member: Member {
            rank: label(names::LABEL_RANK)?.parse().ok()?,
            incarnation: label(names::LABEL_INCARNATION)?.parse().ok()?,
        },
        times: times_of_annotation(sandbox.annotations.get(names::ANNOTATION_FENCE).map(String::as_str)),
        condemned: None,
    };
    (!metadata.uid.is_empty()).then(|| (metadata.uid.clone(), pod))
}

#[cfg(test)]
mod tests {
    use atoll_core::lease::Times;

    use super::super::cri::PodSandboxMetadata;
    use super::*;

    fn sandbox(id: &str, uid: &str, labels: &[(&str, &str)], fence: Option<&str>, ready: bool) -> PodSandbox {
        let state = if ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
        PodSandbox {
            id: id.to_owned(),
            metadata: Some(PodSandboxMetadata {
                name: format!("pod-{uid}"),
                uid: uid.to_owned(),
                namespace: "ns".to_owned(),
            }),
            state: state.into(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            annotations: fence
                .map(|fence| (names::ANNOTATION_FENCE.to_owned(), fence.to_owned()))
                .into_iter()
                .collect(),
        }
    }

    fn container(id: &str, sandbox: &str, state: ContainerState) -> Container {
        Container { id: id.to_owned(), pod_sandbox_id: sandbox.to_owned(), state: state.into() }
    }

    const MEMBER: [(&str, &str); 4] = [
        (names::LABEL_MANAGED_BY, names::MANAGED_BY_AGENT),
        (names::LABEL_CLUSTER_UID, "c-1"),
        (names::LABEL_RANK, "3"),
        (names::LABEL_INCARNATION, "7"),
    ];

    #[test]
    fn members_are_those_with_all_labels_and_nobody_else() {
        let mut sandboxes = vec![
            sandbox("s0", "whole", &MEMBER, Some("3/4"), true),
            sandbox("s1", "free", &MEMBER, Some("none"), true),
            sandbox("s2", "old", &MEMBER, None, true),
            sandbox("s3", "supplier", &[("app", "web")], Some("3/4"), true),
            sandbox(
                "s4",
                "other-manager",
                &[[("app.kubernetes.io/managed-by", "Helm")].as_slice(), &MEMBER[1..]].concat(),
                None,
                true,
            ),
            sandbox("s5", "", &MEMBER, None, true),
        ];
        for missing in 0..MEMBER.len() {
            let labels: Vec<_> =
                MEMBER.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, label)| *label).collect();
            sandboxes.push(sandbox("x", "partial", &labels, None, true));
        }
        let found = members(sandboxes, vec![container("c", "s3", ContainerState::ContainerRunning)]);
        let times: Vec<_> = found.iter().map(|(uid, found)| (uid.as_str(), found.pod.times)).collect();
        assert_eq!(
            times,
            [("free", Times::Never), ("old", Times::from_seconds(60, 90)), ("whole", Times::from_seconds(3, 4))]
        );
        let pod = &found["whole"].pod;
        assert_eq!((pod.name.as_str(), pod.cluster_uid.as_str()), ("ns/pod-whole", "c-1"));
        assert_eq!(pod.member, Member { rank: 3, incarnation: 7 });
    }

    #[test]
    fn what_runs_is_a_sandbox_that_is_up_or_a_container_that_has_not_ended() {
        let sandboxes = vec![
            sandbox("s0", "starting", &MEMBER, None, true),
            sandbox("s1", "ended", &MEMBER, None, false),
            // Its first sandbox died, and something in it lives on.
            sandbox("s2", "again", &MEMBER, None, false),
            sandbox("s3", "again", &MEMBER, None, true),
            sandbox("s4", "left", &MEMBER, None, false),
        ];
        let containers = vec![
            container("c1", "s1", ContainerState::ContainerExited),
            container("c2", "s2", ContainerState::ContainerRunning),
            container("c3", "s3", ContainerState::ContainerCreated),
            container("c4", "s4", ContainerState::ContainerUnknown),
        ];
        let found = members(sandboxes, containers);
        let ids: Vec<_> = found
            .iter()
            .map(|(uid, found)| (uid.as_str(), found.sandboxes.join(","), found.containers.join(",")))
            .collect();
        let expected = [("again", "s3", "c2,c3"), ("left", "", "c4"), ("starting", "s0", "")];
        assert_eq!(
            ids,
            expected.map(|(uid, sandboxes, containers)| (uid, sandboxes.to_owned(), containers.to_owned()))
        );
    }
}
