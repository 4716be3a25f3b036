//! The pods of the measurements, and creating many objects quickly.

use std::time::Instant;

use anyhow::{Context, Result};
use atoll_api::names::{ANNOTATION_REQUIRED_TOPOLOGY, LABEL_GANG, LABEL_GANG_SIZE, RESOURCE_NVIDIA_GPU};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use kube::Client;
use serde_json::{Value, json};

use crate::contender::Contender;

pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const POD_GROUPS: &str = "/apis/scheduling.k8s.io/v1beta1/namespaces/default/podgroups";
pub const PRIORITY_CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
pub const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A pod with GPUs. It has no grace period: deleted, it is gone, since nobody runs it.
pub fn pod(name: &str, scheduler: &str, gpus: u32) -> Value {
    let mut amounts = json!({ "cpu": "1", "memory": "1Gi" });
    if gpus > 0 {
        amounts[RESOURCE_NVIDIA_GPU] = gpus.to_string().into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": "bench" } },
        "spec": {
            "schedulerName": scheduler,
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "main", "image": "none", "resources": { "limits": amounts } }],
        },
    })
}

/// A gang in the words of the scheduler that gets it.
#[derive(Debug, Clone)]
pub struct Gang<'a> {
    pub name: String,
    pub size: u32,
    /// GPUs of each member.
    pub gpus: u32,
    /// The label key of nodes whose value all members share, if any.
    pub within: Option<&'a str>,
    /// A `PriorityClass`, if any.
    pub priority: Option<&'a str>,
}

impl Gang<'_> {
    /// Its members, called `<gang>-<rank>`.
    pub fn pods(&self, contender: &Contender) -> Vec<Value> {
        (0..self.size).map(|rank| self.member(contender, rank)).collect()
    }

    fn member(&self, contender: &Contender, rank: u32) -> Value {
        let mut pod = pod(&format!("{}-{rank}", self.name), contender.scheduler_name(), self.gpus);
        // What selects its members, whoever schedules it.
        pod["metadata"]["labels"]["gang"] = self.name.clone().into();
        if let Some(class) = self.priority {
            pod["spec"]["priorityClassName"] = class.into();
        }
        if matches!(contender, Contender::Kube) {
            pod["spec"]["schedulingGroup"] = json!({ "podGroupName": self.name });
        } else {
            pod["metadata"]["labels"][LABEL_GANG] = self.name.clone().into();
            pod["metadata"]["labels"][LABEL_GANG_SIZE] = self.size.to_string().into();
            if let Some(key) = self.within {
                pod["metadata"]["annotations"] = json!({ ANNOTATION_REQUIRED_TOPOLOGY: key });
            }
        }
        pod
    }

    /// The object that Kubernetes' own scheduler knows it by.
    pub fn pod_group(&self) -> Value {
        let mut group = json!({
            "apiVersion": "scheduling.k8s.io/v1beta1",
            "kind": "PodGroup",
            "metadata": { "name": self.name },
            "spec": {
                "schedulingPolicy": { "gang": { "minCount": self.size } },
                "disruptionMode": { "all": {} },
            },
        });
        if let Some(key) = self.within {
            group["spec"]["schedulingConstraints"] = json!({ "topology": [{ "key": key }] });
        }
        if let Some(class) = self.priority {
            group["spec"]["priorityClassName"] = class.into();
        }
        group
    }
}

/// Creates gangs: their `PodGroup`s where the contender needs them, then all their pods, gang by gang.
pub async fn create_gangs(client: &Client, contender: &Contender, gangs: &[Gang<'_>]) -> Result<()> {
    if matches!(contender, Contender::Kube) {
        create(client, POD_GROUPS, gangs.iter().map(Gang::pod_group).collect()).await?;
    }
    create(client, PODS, gangs.iter().flat_map(|gang| gang.pods(contender)).collect()).await
}

/// Creates objects, 64 at a time, in about this order.
pub async fn create(client: &Client, path: &str, objects: Vec<Value>) -> Result<()> {
    let (started, count) = (Instant::now(), objects.len());
    stream::iter(objects.into_iter().map(Ok))
        .try_for_each_concurrent(64, |object| create_one(client, path, object))
        .await?;
    if count >= 1000 {
        let kind = path.rsplit('/').next().unwrap_or_default();
        eprintln!("   {count} {kind} created in {:.1} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn create_one(client: &Client, path: &str, object: Value) -> Result<()> {
    let request = Request::post(path).header("Content-Type", "application/json").body(serde_json::to_vec(&object)?)?;
    let answer = client.request_text(request).await;
    answer.map(drop).with_context(|| format!("create {} in {path}", object["metadata"]["name"]))
}

/// Creates objects all at once, and gives what each creation came to.
pub async fn create_at_once(client: &Client, path: &str, objects: Vec<Value>) -> Result<()> {
    let creations = objects.into_iter().map(|object| create_one(client, path, object));
    stream::iter(creations).buffer_unordered(128).try_collect().await
}
