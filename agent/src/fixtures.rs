//! What the hub sends, for tests.

use serde_json::{Value, json};

use crate::naming::SliceId;

/// The slice that [`slice_spec`] is of.
pub(crate) fn slice_id() -> SliceId {
    SliceId { cluster_uid: "uid".into(), namespace: "team".into(), name: "train-0011-0".into() }
}

/// Two members of a Torch Cluster, of epoch 4, the first of which is older.
pub(crate) fn slice_spec(edit: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({
        "site": "site-a", "cluster": "train", "clusterUid": "uid", "epoch": 4, "term": 1, "phase": "Run",
        "type": "Torch", "gpus": 8,
        "members": [{"rank": 0, "node": "a", "incarnation": 3}, {"rank": 1, "node": "b", "incarnation": 4}],
        "rendezvous": {"worldSize": 2, "leaderIncarnation": 3},
        "fence": {"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120},
        "template": {"spec": {"containers": [{"name": "main", "image": "x"}]}},
    });
    edit(&mut spec);
    spec
}
