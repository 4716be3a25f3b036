//! Who holds which devices, as the kubelet says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tonic::transport::Channel;

use super::api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use super::api::podresources::{ListPodResourcesRequest, ListPodResourcesResponse};
use super::dial::dial;
use super::offers::device_of;
use super::resources::{ResourceName, Resources};
use crate::backend::DeviceId;
use crate::state::Holder;

/// The kubelet answers from memory.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// A node has at most some hundred pods, of a few hundred bytes each.
const LARGEST_ANSWER: usize = 16 << 20;

/// Why the kubelet's answer is missing.
#[derive(Debug, Error)]
pub enum PodResourcesError {
    /// There is no kubelet, or it does not serve this API.
    #[error("cannot connect to the kubelet at {socket}: {source}")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: tonic::transport::Error,
    },
    /// The kubelet refused.
    #[error("the kubelet does not list who holds devices: {}", .0.message())]
    Call(Box<tonic::Status>),
}

/// Asks the kubelet who holds devices. Keeps its connection, and makes a new one after a failure.
#[derive(Debug)]
pub struct PodResources {
    socket: PathBuf,
    resources: Resources,
    client: Option<PodResourcesListerClient<Channel>>,
}

impl PodResources {
    /// Of the kubelet at this socket, for devices of these resources. Connects at the first question.
    #[must_use]
    pub fn new(socket: PathBuf, resources: Resources) -> Self {
        Self { socket, resources, client: None }
    }

    /// Who holds which device: containers of pods that have not ended, [`Holder::uid`] left empty, because the kubelet
    /// does not say it. Slices of one device count as the device.
    pub async fn holders(&mut self) -> Result<BTreeMap<DeviceId, BTreeSet<Holder>>, PodResourcesError> {
        let answer = self.list().await?;
        Ok(holders(&self.resources, answer))
    }

    /// The pods, as (namespace, name), that hold any of these devices of a resource, by the kubelet's ids.
    pub(super) async fn pods(
        &mut self,
        resource: &ResourceName,
        ids: &[String],
    ) -> Result<BTreeSet<(String, String)>, PodResourcesError> {
        let answer = self.list().await?;
        let held = held(&self.resources, answer).filter(|(of, id, _)| of == resource && ids.contains(id));
        Ok(held.map(|(_, _, holder)| (holder.namespace, holder.pod)).collect())
    }

    /// What is held, as (resource, id as the kubelet knows it).
    pub(super) async fn held(&mut self) -> Result<BTreeSet<(ResourceName, String)>, PodResourcesError> {
        let answer = self.list().await?;
        Ok(held(&self.resources, answer).map(|(resource, id, _)| (resource, id)).collect())
    }

    async fn list(&mut self) -> Result<ListPodResourcesResponse, PodResourcesError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => match dial(&self.socket, CALL_LIMIT).await {
                Ok(channel) => PodResourcesListerClient::new(channel).max_decoding_message_size(LARGEST_ANSWER),
                Err(source) => return Err(PodResourcesError::Connect { socket: self.socket.clone(), source }),
            },
        };
        let answer = client.list(ListPodResourcesRequest {}).await;
        let answer = answer.map_err(|status| PodResourcesError::Call(Box::new(status)))?;
        self.client = Some(client);
        Ok(answer.into_inner())
    }
}

fn holders(resources: &Resources, answer: ListPodResourcesResponse) -> BTreeMap<DeviceId, BTreeSet<Holder>> {
    let mut holders: BTreeMap<DeviceId, BTreeSet<Holder>> = BTreeMap::new();
    for (_, id, holder) in held(resources, answer) {
        holders.entry(device_of(&id).into()).or_default().insert(holder);
    }
    holders
}

/// Each device of ours that is held, and by whom.
fn held(
    resources: &Resources,
    answer: ListPodResourcesResponse,
) -> impl Iterator<Item = (ResourceName, String, Holder)> + use<'_> {
    answer.pod_resources.into_iter().flat_map(move |pod| {
        let (namespace, name) = (pod.namespace, pod.name);
        pod.containers.into_iter().flat_map(move |container| {
            let holder = Holder {
                namespace: namespace.clone(),
                pod: name.clone(),
                uid: String::new(),
                container: container.name,
            };
            container.devices.into_iter().flat_map(move |devices| {
                let holder = holder.clone();
                let resource = devices.resource_name.parse().ok().filter(|resource| resources.may_be_ours(resource));
                let ids = if resource.is_some() { devices.device_ids } else { Vec::new() };
                ids.into_iter().filter_map(move |id| Some((resource.clone()?, id, holder.clone())))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::api::podresources::{ContainerDevices, ContainerResources, PodResources};
    use super::*;

    fn pod(name: &str, devices: &[(&str, &[&str])]) -> PodResources {
        let devices = devices.iter().map(|(resource, ids)| ContainerDevices {
            resource_name: (*resource).to_owned(),
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        });
        PodResources {
            name: name.to_owned(),
            namespace: "team".to_owned(),
            containers: vec![ContainerResources { name: "main".to_owned(), devices: devices.collect() }],
        }
    }

    fn answer() -> ListPodResourcesResponse {
        ListPodResourcesResponse {
            pod_resources: vec![
                pod("a", &[("nvidia.com/gpu", &["GPU-1::0", "GPU-1::1", "GPU-2::0"]), ("vendor.com/nic", &["eth0"])]),
                pod("b", &[("nvidia.com/gpu", &["GPU-1::2"]), ("nvidia.com/mig-1g.10gb", &["MIG-1"])]),
                pod("c", &[]),
            ],
        }
    }

    #[test]
    fn holders_are_by_device_and_only_of_our_resources() {
        let found = holders(&Resources::default(), answer());
        let pods = |id: &str| found[id].iter().map(|holder| holder.pod.as_str()).collect::<Vec<_>>();
        assert_eq!(found.keys().map(|id| &**id).collect::<Vec<_>>(), ["GPU-1", "GPU-2", "MIG-1"]);
        assert_eq!((pods("GPU-1"), pods("GPU-2"), pods("MIG-1")), (vec!["a", "b"], vec!["a"], vec!["b"]));
        let holder = found["MIG-1"].first().unwrap();
        assert_eq!((&*holder.namespace, &*holder.container, &*holder.uid), ("team", "main", ""));
    }

    #[test]
    fn what_is_held_keeps_the_kubelets_ids() {
        let held: Vec<_> = held(&Resources::default(), answer()).map(|(_, id, _)| id).collect();
        assert_eq!(held, ["GPU-1::0", "GPU-1::1", "GPU-2::0", "GPU-1::2", "MIG-1"]);
    }
}
