//! What both tests of the rules share: objects that are right, and edits that make them wrong.
#![allow(dead_code, unused_imports)] // Each test uses a part.

mod cases;

pub use cases::{BAD, UPDATES};

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// An object that is right and that cases start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Pods,
    Torch,
    Ray,
    Slice,
    Gang,
    Site,
    Node,
    Model,
    Supplier,
    Policy,
}

/// Changes to an object: a JSON pointer and the new value as JSON; "null" removes.
pub type Edits = &'static [(&'static str, &'static str)];

/// An object that must be refused.
pub struct Bad {
    pub what: &'static str,
    pub base: Base,
    pub edits: Edits,
    /// The message names this.
    pub names: &'static str,
}

/// A change to an object that exists.
pub struct Update {
    pub what: &'static str,
    pub base: Base,
    /// What the object has before.
    pub before: Edits,
    /// Whether it holds GPUs.
    pub placed: bool,
    pub edits: Edits,
    /// The message names this; none: the change is allowed.
    pub refused: Option<&'static str>,
}

impl Base {
    pub const ALL: [Self; 10] = [
        Self::Pods,
        Self::Torch,
        Self::Ray,
        Self::Slice,
        Self::Gang,
        Self::Site,
        Self::Node,
        Self::Model,
        Self::Supplier,
        Self::Policy,
    ];

    pub fn kind(self) -> &'static str {
        match self {
            Self::Pods | Self::Torch | Self::Ray => "Cluster",
            Self::Slice => "ClusterSlice",
            Self::Gang => "Gang",
            Self::Site => "Site",
            Self::Node => "GPUNode",
            Self::Model => "GPUModel",
            Self::Supplier => "Supplier",
            Self::Policy => "SitePolicy",
        }
    }

    pub fn object(self) -> Value {
        let template = json!({"spec": {"containers": [{"name": "main", "image": "registry.example/app:1"}]}});
        let spec = match self {
            Self::Pods => json!({"type": "Pods", "members": {"count": 4, "gpus": 1}, "template": template}),
            Self::Torch => json!({"type": "Torch", "members": {"count": 2, "gpus": 8}, "template": template}),
            Self::Ray => json!({"type": "Ray", "members": {"count": 2, "gpus": 8}, "template": template}),
            Self::Slice => json!({
                "site": "site-a", "cluster": "c", "clusterUid": "u", "type": "Pods", "phase": "Run", "epoch": 1,
                "term": 1,
                "members": [{"rank": 0, "node": "n", "incarnation": 1}], "gpus": 1,
                "rendezvous": {"worldSize": 1, "leaderIncarnation": 1},
                "fence": {"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120}, "template": template,
            }),
            Self::Gang => json!({
                "mode": "Run", "shapes": [{"requests": {"cpu": "1"}}], "members": [{"pod": "p", "rank": 0}],
            }),
            Self::Site => json!({"supplier": "acme", "region": "eu-west"}),
            Self::Node | Self::Policy => json!({}),
            Self::Model => json!({
                "displayName": "A GPU", "vendor": "NVIDIA", "family": "ada", "aliases": ["A GPU"], "memoryMib": 24576,
                "computeScore": 1000, "workloads": ["Inference"], "referencePrice": "0.35",
            }),
            Self::Supplier => json!({"displayName": "Acme", "contact": "ops@acme.example"}),
        };
        let mut object =
            json!({"apiVersion": "atoll.dev/v1alpha1", "kind": self.kind(), "metadata": {"name": "a"}, "spec": spec});
        if matches!(self.kind(), "Cluster" | "ClusterSlice" | "Gang" | "SitePolicy") {
            object["metadata"]["namespace"] = "default".into();
        }
        if self == Self::Policy {
            object["metadata"]["name"] = "default".into();
        }
        object
    }

    pub fn with(self, edits: Edits) -> Value {
        let mut object = self.object();
        apply(&mut object, edits);
        object
    }
}

/// Applies edits.
pub fn apply(object: &mut Value, edits: Edits) {
    for (pointer, value) in edits {
        let value = serde_json::from_str(value).unwrap_or_else(|error| panic!("{value}: {error}"));
        set(object, pointer, value);
    }
}

/// Sets what a pointer names: objects on the way are made, lists must be there, "-" appends and null removes.
pub fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let mut at = object;
    for step in parent.split('/').skip(1) {
        at = match at {
            Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
            other => &mut other[step],
        };
    }
    match at {
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => items[last.parse::<usize>().unwrap()] = value,
        Value::Object(map) if value.is_null() => {
            map.remove(last);
        }
        other => other[last] = value,
    }
}

/// A status that holds GPUs.
pub fn placed_status() -> Value {
    json!({"epoch": 1, "placement": {
        "epoch": 1, "term": 1, "gpus": 1,
        "fence": {"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120},
        "sites": [{"site": "site-a", "nodes": [{"name": "n", "rank": 0, "count": 4, "incarnation": 1}]}],
    }})
}

/// Every document of a YAML file, by its file's name.
pub fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The shipped examples, in order of their names.
pub fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files: Vec<_> = [folder.clone(), folder.join("site")]
        .into_iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The shipped catalogue.
pub fn catalogue() -> Vec<Value> {
    documents(&Path::new(env!("CARGO_MANIFEST_DIR")).join("catalogue/gpumodels.yaml"))
}
