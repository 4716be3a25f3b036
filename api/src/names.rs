//! Labels, annotations, finalizers, field managers and object names that several processes agree on.

/// Field manager of the operator's controllers for Clusters and what they own.
pub const FIELD_MANAGER_OPERATOR: &str = "atoll-operator";
/// Field manager of the gateways.
pub const FIELD_MANAGER_GATEWAY: &str = "atoll-gateway";
/// Field manager of a Site's agent.
pub const FIELD_MANAGER_AGENT: &str = "atoll-agent";
/// Field manager of a Site's scheduler.
pub const FIELD_MANAGER_SCHEDULER: &str = "atoll-scheduler";
/// Field manager of the device plugin of a Site's node.
pub const FIELD_MANAGER_DEVICE_PLUGIN: &str = "atoll-device-plugin";

/// `spec.schedulerName` of every member pod.
pub const SCHEDULER_NAME: &str = "atoll-scheduler";
/// `spec.priorityClassName` of every member pod: below whatever else a supplier runs.
pub const PRIORITY_CLASS_MEMBER: &str = "atoll-member";
/// Name of the one `SitePolicy` of a Site, in the agent's namespace.
pub const SITE_POLICY: &str = "default";
/// Namespace of Atoll's own objects on a hub and on a Site, unless a flag says otherwise.
pub const SYSTEM_NAMESPACE: &str = "atoll-system";
/// Name of the Secret in the system namespace that holds the hub's CA, of type `kubernetes.io/tls`.
pub const HUB_CA_SECRET: &str = "atoll-hub-ca";

/// Name of the Secret in a Site's system namespace that holds the key of its agent and its watchdogs.
pub const WATCHDOG_KEY_SECRET: &str = "atoll-watchdog-key";
/// Where [`WATCHDOG_KEY_SECRET`] holds it: at least 32 random bytes.
pub const WATCHDOG_KEY: &str = "key";

/// What the API server says when it refuses a former leader's write; `deploy/hub/admission-policy.yaml` says it.
pub const TERM_IS_OVER: &str = "a newer leader's term has begun";

/// Keeps a `ClusterSlice` until its Site has confirmed the stop of its members, or its fence has expired.
pub const SLICE_FINALIZER: &str = "atoll.dev/members-stopped";

/// Label: the Site that an object belongs to (hub: `ClusterSlice`, `GPUNode`).
pub const LABEL_SITE: &str = "atoll.dev/site";
/// Label: UID of the Cluster that an object serves.
pub const LABEL_CLUSTER_UID: &str = "atoll.dev/cluster-uid";
/// Label: name of the Cluster that an object serves.
pub const LABEL_CLUSTER: &str = "atoll.dev/cluster";
/// Label on Sites: the gang that a pod is a member of.
pub const LABEL_GANG: &str = "atoll.dev/gang";
/// Label or annotation of a pod that belongs to a gang without a Gang object: how many pods the gang has.
pub const LABEL_GANG_SIZE: &str = "atoll.dev/gang-size";
/// Label or annotation beside [`LABEL_GANG_SIZE`]: how many pods must be there for any to be bound; all by default.
pub const LABEL_GANG_MIN: &str = "atoll.dev/gang-min";
/// Label on Sites: rank of a member pod.
pub const LABEL_RANK: &str = "atoll.dev/rank";
/// Label on Sites: incarnation of a member pod.
pub const LABEL_INCARNATION: &str = "atoll.dev/incarnation";
/// Label: supplier of a Site.
pub const LABEL_SUPPLIER: &str = "atoll.dev/supplier";
/// Label: who made an object; see [`MANAGED_BY_AGENT`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`] on everything that an agent makes on its Site.
pub const MANAGED_BY_AGENT: &str = "atoll-agent";
/// Label: which part of Atoll an object belongs to; see [`COMPONENT_GATEWAY`].
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Value of [`LABEL_COMPONENT`] on the Lease of every gateway.
pub const COMPONENT_GATEWAY: &str = "gateway";
/// Label on a Site's Node: the GPU model, where GPU Feature Discovery does not run.
pub const LABEL_NODE_GPU_PRODUCT: &str = "atoll.dev/gpu.product";
/// Label on a Site's Node: MiB of memory of each GPU, where GPU Feature Discovery does not run.
pub const LABEL_NODE_GPU_MEMORY: &str = "atoll.dev/gpu.memory";
/// Label that NVIDIA GPU Feature Discovery sets: the product name of the node's GPUs.
pub const LABEL_GFD_PRODUCT: &str = "nvidia.com/gpu.product";
/// Label that NVIDIA GPU Feature Discovery sets: MiB of memory of each GPU.
pub const LABEL_GFD_MEMORY: &str = "nvidia.com/gpu.memory";
/// Label that NVIDIA GPU Feature Discovery sets: the CUDA driver's version.
pub const LABEL_GFD_DRIVER: &str = "nvidia.com/cuda.driver-version.full";
/// Label of a join token's Secret in the system namespace.
pub const LABEL_JOIN_TOKEN: &str = "atoll.dev/join-token";

/// Annotation of a Site's Node: USDC per GPU and hour that its supplier asks, a decimal.
pub const ANNOTATION_PRICE: &str = "atoll.dev/price-per-gpu-hour";
/// Annotation on a Site: `<id>.<hash>` of the join token that it came with, so that an agent that missed the answer
/// may ask again.
pub const ANNOTATION_JOINED_WITH: &str = "atoll.dev/joined-with";
/// Annotation on what an agent makes: the hub's namespace of the Cluster that it serves.
pub const ANNOTATION_HUB_NAMESPACE: &str = "atoll.dev/hub-namespace";
/// Annotation of a pod: how long it runs at most, such as "1h30m"; lets it run while a larger gang waits for its room.
pub const ANNOTATION_DURATION: &str = "atoll.dev/duration";
/// Annotation of the pods of a gang without a Gang object: node labels, coarse to fine and separated by commas, of each
/// of which all pods must share one value.
pub const ANNOTATION_REQUIRED_TOPOLOGY: &str = "atoll.dev/required-topology";
/// Annotation like [`ANNOTATION_REQUIRED_TOPOLOGY`]: the pods share a value where that can be had.
pub const ANNOTATION_PREFERRED_TOPOLOGY: &str = "atoll.dev/preferred-topology";
/// Annotation on a Gang: epoch of the slice that it was made from.
pub const ANNOTATION_EPOCH: &str = "atoll.dev/epoch";
/// Annotation on a Gang and on member pods: seconds without a lease until members stop and until they are killed, as
/// "60/90"; "none": they run on.
pub const ANNOTATION_FENCE: &str = "atoll.dev/fence-seconds";
/// Annotation on a Gang: members of this and lower incarnations were stopped for want of a lease and never start again.
pub const ANNOTATION_STOPPED_INCARNATION: &str = "atoll.dev/stopped-incarnation";
/// Annotation on a Gang: members of this and lower incarnations were stopped at the deadline of the supplier's drain and
/// never start again.
pub const ANNOTATION_DRAINED_INCARNATION: &str = "atoll.dev/drained-incarnation";

/// Namespaces of Clusters on a Site begin with this; 16 hex digits follow.
pub const MEMBER_NAMESPACE_PREFIX: &str = "atoll-";

/// Whether agents make namespaces of such names for Clusters, and so whether a pod in it is a member.
#[must_use]
pub fn is_member_namespace(namespace: &str) -> bool {
    namespace.strip_prefix(MEMBER_NAMESPACE_PREFIX).is_some_and(|rest| {
        rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

/// The extended resource that members request when their Site counts GPUs with NVIDIA's device plugin.
pub const RESOURCE_NVIDIA_GPU: &str = "nvidia.com/gpu";

/// Name of the hub's copy of a Site's `GPUNode`.
#[must_use]
pub fn hub_gpu_node_name(site: &str, node: &str) -> String {
    format!("{site}.{node}")
}

/// Name of a member's pod: stable for (rank, incarnation), so that creating it twice is one pod.
#[must_use]
pub fn member_pod_name(cluster: &str, rank: u32, incarnation: u64) -> String {
    format!("{cluster}-{rank}-{incarnation}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_of_members_are_told_from_all_others() {
        assert!(is_member_namespace("atoll-0123456789abcdef"));
        for other in
            [SYSTEM_NAMESPACE, "atoll-0123456789abcde", "atoll-0123456789abcdef0", "atoll-0123456789abcdeF", "x"]
        {
            assert!(!is_member_namespace(other), "{other}");
        }
    }
}
