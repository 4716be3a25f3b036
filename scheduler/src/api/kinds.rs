//! Where the kinds are that the scheduler follows.

use super::watching::Listed;
use crate::proto::{
    CsiNode, Namespace, Node, ObjectMeta, PersistentVolume, PersistentVolumeClaim, Pod, PodDisruptionBudget, PodGroup,
};

macro_rules! listed {
    ($($kind:ty: $path:literal,)*) => {$(
        impl Listed for $kind {
            const PATH: &'static str = $path;

            fn meta(&self) -> Option<&ObjectMeta> {
                self.metadata.as_ref()
            }
        }
    )*};
}

listed! {
    Node: "/api/v1/nodes",
    Pod: "/api/v1/pods",
    Namespace: "/api/v1/namespaces",
    PersistentVolume: "/api/v1/persistentvolumes",
    PersistentVolumeClaim: "/api/v1/persistentvolumeclaims",
    CsiNode: "/apis/storage.k8s.io/v1/csinodes",
    PodDisruptionBudget: "/apis/policy/v1/poddisruptionbudgets",
    PodGroup: "/apis/scheduling.k8s.io/v1beta1/podgroups",
}
