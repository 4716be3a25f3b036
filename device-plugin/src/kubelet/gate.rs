//! Whether the containers of Atoll's members may start on this node: only while its watchdog has a lease.
//!
//! The watchdog writes its lease, and the members that it knows of, to a file; what that allows is decided by
//! `atoll_core::watchdog`. A pod is a member if the watchdog lists it, or if its namespace is one that agents make for
//! Clusters. The latter is needed because the watchdog may be gone: then only the name is left to tell, and agents put
//! members nowhere else. All other pods start as if there were no watchdog.

use std::path::PathBuf;
use std::time::Duration;

use atoll_api::names::is_member_namespace;
use atoll_core::watchdog::{Admission, Clocks, Refusal, Saved, UnreadableError, admission};
use atoll_runtime::clock::{boot_id, both_clocks};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::pod_resources::{PodResources, PodResourcesError};
use super::resources::{ResourceName, Resources};

/// The watchdog hears of a new pod from the container runtime, at the latest when it next asks what runs: each second. The
/// kubelet waits 30 s for an answer.
const UNLISTED_LIMIT: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a container may not start. The kubelet tries again.
#[derive(Debug, Error)]
pub enum GateError {
    /// The kubelet does not say which pod the devices belong to.
    #[error("it is not known whether this is a member of Atoll, which starts under a lease only: {0}")]
    Holder(#[from] PodResourcesError),
    /// No pod has these devices.
    #[error(
        "it is not known whether this is a member of Atoll, which starts under a lease only: the kubelet says of no pod that \
         it has been given {0}"
    )]
    NoHolder(String),
    /// The file cannot be read.
    #[error(
        "{pod} is a member of Atoll and starts under a lease only, but {} cannot be read ({source}): see that the DaemonSet \
         atoll-watchdog runs on this node, and that its folder is this plugin's", .file.display()
    )]
    NoFile {
        /// The pod.
        pod: String,
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is of another version.
    #[error(
        "{pod} is a member of Atoll and starts under a lease only, but {} is {source}: run watchdog and device plugin of one \
         version", .file.display()
    )]
    Unreadable {
        /// The pod.
        pod: String,
        /// The file.
        file: PathBuf,
        /// Why.
        source: UnreadableError,
    },
    /// The watchdog would not kill it.
    #[error(
        "{pod} is a member of Atoll, but the watchdog of this node did not notice it within {UNLISTED_LIMIT:?}: see that the \
         watchdog runs and reaches the container runtime, and that the pod has the labels that agents give"
    )]
    Unlisted {
        /// The pod.
        pod: String,
    },
    /// The lease does not allow it.
    #[error("{pod} is a member of Atoll and does not start: {refusal}")]
    Refused {
        /// The pod.
        pod: String,
        /// Why.
        refusal: Refusal,
    },
}

/// What the watchdog writes, and the kubelet that knows who gets which device.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// The watchdog's file.
    pub file: PathBuf,
    /// The kubelet's pod-resources socket.
    pub kubelet: PathBuf,
    /// Names of resources.
    pub resources: Resources,
}

impl Gate {
    /// Whether the container that gets these devices of a resource, by the kubelet's ids, may start.
    pub async fn admit(&self, resource: &ResourceName, ids: &[String]) -> Result<(), GateError> {
        let mut kubelet = PodResources::new(self.kubelet.clone(), self.resources.clone());
        let pods = kubelet.pods(resource, ids).await?;
        if pods.is_empty() {
            return Err(GateError::NoHolder(ids.join(", ")));
        }
        for (namespace, name) in pods {
            self.admit_pod(is_member_namespace(&namespace), format!("{namespace}/{name}")).await?;
        }
        Ok(())
    }

    /// `known`: it is a member, whether the watchdog knows it or not.
    async fn admit_pod(&self, known: bool, pod: String) -> Result<(), GateError> {
        let boot_id = boot_id().unwrap_or_default();
        let end = Instant::now() + UNLISTED_LIMIT;
        loop {
            let saved = match self.read(&pod) {
                Err(error) => return if known { Err(error) } else { Ok(()) },
                Ok(saved) => saved,
            };
            let (boot, wall) = both_clocks();
            match admission(&saved, &boot_id, Clocks { boot, wall }, &pod) {
                Admission::Granted => return Ok(()),
                Admission::Unlisted | Admission::Refused(Refusal::OtherBoot) if !known => return Ok(()),
                Admission::Refused(refusal) => return Err(GateError::Refused { pod, refusal }),
                Admission::Unlisted if Instant::now() >= end => return Err(GateError::Unlisted { pod }),
                Admission::Unlisted => sleep(LOOK_AGAIN).await,
            }
        }
    }

    fn read(&self, pod: &str) -> Result<Saved, GateError> {
        let (pod, file) = (|| pod.to_owned(), || self.file.clone());
        let text = std::fs::read_to_string(&self.file);
        let text = text.map_err(|source| GateError::NoFile { pod: pod(), file: file(), source })?;
        text.parse().map_err(|source| GateError::Unreadable { pod: pod(), file: file(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use atoll_core::lease::Times;
    use atoll_core::member::Member;
    use atoll_core::watchdog::{Lease, Pod};

    use super::*;

    const MEMBER: &str = "atoll-0123456789abcdef/worker-0-1";

    /// A lease that is so old, over members with these times.
    fn write(dir: &tempfile::TempDir, age: Duration, pods: &[(&str, Times)]) {
        let (boot, wall) = both_clocks();
        let asked = Clocks { boot, wall };
        let pods: BTreeMap<_, _> = pods
            .iter()
            .map(|(name, times)| {
                let member = Member { rank: 0, incarnation: 1 };
                let (name, cluster_uid) = ((*name).to_owned(), "c".to_owned());
                (
                    format!("uid of {}", name.len()).replace(' ', "-"),
                    Pod { name, cluster_uid, member, times: *times, condemned: None },
                )
            })
            .collect();
        let lease = Lease::Granted { granted: boot.saturating_sub(age), asked };
        let saved = Saved { boot_id: boot_id().unwrap(), lease, pods };
        std::fs::write(dir.path().join("lease"), saved.to_string()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn members_start_under_a_lease_and_others_whatever_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate {
            file: dir.path().join("lease"),
            kubelet: dir.path().join("none.sock"),
            resources: Resources::default(),
        };
        let says = async |pod: &str| {
            let known = is_member_namespace(pod.split('/').next().unwrap());
            gate.admit_pod(known, pod.to_owned()).await.err().map_or("admitted".to_owned(), |error| error.to_string())
        };
        let short = Times::from_seconds(3, 4);

        assert!(says(MEMBER).await.contains("see that the DaemonSet atoll-watchdog runs"));
        assert_eq!(says("team/notebook").await, "admitted");
        std::fs::write(&gate.file, "something else").unwrap();
        assert!(says(MEMBER).await.contains("of one version"));
        assert_eq!(says("team/notebook").await, "admitted");

        write(&dir, Duration::from_secs(1), &[(MEMBER, short)]);
        assert_eq!(says(MEMBER).await, "admitted");
        write(&dir, Duration::from_secs(5), &[(MEMBER, short), ("elsewhere/labelled", short)]);
        let refused = says(MEMBER).await;
        assert!(refused.contains("s old, and this member stops at 3 s: see that the agent is connected"), "{refused}");
        assert!(says("elsewhere/labelled").await.contains("s old"), "the watchdog counts it as a member");
        assert_eq!(says("team/notebook").await, "admitted");
        write(&dir, Duration::from_secs(5), &[(MEMBER, Times::Never)]);
        assert_eq!(says(MEMBER).await, "admitted");

        // One that the watchdog has yet to notice, and does or does not.
        write(&dir, Duration::from_secs(1), &[]);
        assert!(says(MEMBER).await.contains("did not notice it within 3s"));
        let (said, ()) = tokio::join!(says(MEMBER), async {
            sleep(Duration::from_secs(1)).await;
            write(&dir, Duration::from_secs(1), &[(MEMBER, short)]);
        });
        assert_eq!(said, "admitted");
        // Whoever cannot be asked about is not let through.
        let unknown = gate.admit(&"nvidia.com/gpu".parse().unwrap(), &["GPU-1".to_owned()]).await.unwrap_err();
        assert!(unknown.to_string().contains("it is not known whether this is a member"), "{unknown}");
    }
}
