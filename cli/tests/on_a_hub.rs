//! `kubectl atoll` on a real API server with Atoll's kinds; nothing else of Atoll runs.
#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::path::Path;
use std::process::Stdio;

use atoll_api::{Cluster, GpuModel, GpuNode, Site};
use atoll_testkit::{ControlPlane, ControlPlaneOptions, require};
use atoll_wire::token::JoinToken;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

/// Exit code and both outputs.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

async fn atoll(kubeconfig: &Path, args: &[&str], input: &str) -> Ran {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_kubectl-atoll"))
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that fails before it reads has closed its end.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn crds() -> Vec<CustomResourceDefinition> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        .collect()
}

async fn put<K>(plane: &ControlPlane, name: &str, object: Value)
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let api: Api<K> = Api::all(plane.client());
    api.create(&PostParams::default(), &serde_json::from_value(object.clone()).unwrap()).await.unwrap();
    if object.get("status").is_some() {
        let status = Patch::Merge(json!({"status": object["status"]}));
        api.patch_status(name, &PatchParams::default(), &status).await.unwrap();
    }
}

/// One open Site with one node of 8 GPUs.
async fn network(plane: &ControlPlane) {
    let condition = |type_: &str, reason: &str| {
        json!({"type": type_, "status": "True", "reason": reason, "message": "",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    put::<GpuModel>(
        plane,
        "h100-sxm5-80gb",
        json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUModel", "metadata": {"name": "h100-sxm5-80gb"},
            "spec": {"displayName": "H100", "vendor": "NVIDIA", "family": "hopper", "aliases": ["NVIDIA-H100-80GB-HBM3"],
                     "memoryMib": 81920, "computeScore": 5000, "workloads": ["Training"], "referencePrice": "2.50"},
        }),
    )
    .await;
    put::<Site>(
        plane,
        "site-0123456789abcdef",
        json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": {"name": "site-0123456789abcdef"},
            "spec": {"supplier": "acme", "displayName": "frankfurt", "region": "eu-west"},
            "status": {"conditions": [condition("Accepted", "Joined"), condition("Connected", "SessionLive")]},
        }),
    )
    .await;
    let name = "site-0123456789abcdef.n1";
    put::<GpuNode>(
        plane,
        name,
        json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "GPUNode",
            "metadata": {"name": name, "labels": {"atoll.dev/site": "site-0123456789abcdef"}}, "spec": {},
            "status": {"site": "site-0123456789abcdef", "node": "n1", "model": "h100-sxm5-80gb",
                       "memoryMib": 81559, "allocatable": 8, "ready": true},
        }),
    )
    .await;
}

fn manifest(name: &str, members: i32) -> Value {
    json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": name},
        "spec": {"type": "Pods", "members": {"count": members}, "gpu": {"models": ["h100-sxm5-80gb"]},
                 "template": {"spec": {"containers": [{"name": "main", "image": "registry.example/train:1"}]}}},
    })
}

#[tokio::test]
async fn without_a_hub_each_command_says_what_to_do() {
    let ran = atoll(Path::new("/nonexistent/kubeconfig"), &["sites"], "").await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("--kubeconfig"), "{}", ran.err);

    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::bare("bare")).await.unwrap();
    for args in [&["sites"][..], &["explain", "train"], &["token", "create", "--supplier", "acme", "-o", "token"]] {
        let ran = atoll(plane.kubeconfig(), args, "").await;
        assert_eq!(ran.code, 1, "{args:?}");
        assert!(ran.err.contains("kubectl apply --server-side -f crds/"), "{args:?}: {}", ran.err);
    }
}

#[tokio::test]
async fn simulate_and_explain_tell_what_fits_and_write_nothing() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::bare("hub").crds(crds())).await.unwrap();
    network(&plane).await;
    let hub = plane.kubeconfig();
    let clusters: Api<Cluster> = Api::default_namespaced(plane.client());

    let ran = atoll(hub, &["sites"], "").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("frankfurt"), "{}", ran.out);

    let ran = atoll(hub, &["simulate", "-f", "-"], &manifest("train", 8).to_string()).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("8 members would be placed now"), "{}", ran.out);

    let two = format!("{}\n---\n{}", manifest("train", 8), manifest("more", 1));
    let ran = atoll(hub, &["simulate", "-f", "-"], &two).await;
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);

    let mut typo = manifest("train", 8);
    typo["spec"]["memebrs"] = json!({"count": 1});
    for (manifest, field) in [(manifest("train", 0), "spec.members.count"), (typo, "memebrs")] {
        let ran = atoll(hub, &["simulate", "-f", "-"], &manifest.to_string()).await;
        assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
        assert!(ran.err.contains(field), "{}", ran.err);
    }
    assert_eq!(clusters.list(&ListParams::default()).await.unwrap().items.len(), 0);

    let ran = atoll(hub, &["explain", "train"], "").await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("Cluster default/train does not exist"), "{}", ran.err);

    clusters.create(&PostParams::default(), &serde_json::from_value(manifest("train", 9)).unwrap()).await.unwrap();
    let ran = atoll(hub, &["explain", "train"], "").await;
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("8 are free"), "{}", ran.out);

    let ran = atoll(hub, &["simulate", "-f", "-"], &manifest("train", 4).to_string()).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("Cluster default/train would be changed."), "{}", ran.out);
    assert_eq!(clusters.get("train").await.unwrap().spec.members.count, 9);
}

#[tokio::test]
async fn a_tenant_with_rights_in_one_namespace_only_still_gets_an_explanation() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::bare("hub").crds(crds())).await.unwrap();
    network(&plane).await;
    let clusters: Api<Cluster> = Api::default_namespaced(plane.client());
    clusters.create(&PostParams::default(), &serde_json::from_value(manifest("train", 9)).unwrap()).await.unwrap();
    let rights = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "tenant"},
        "rules": [{"apiGroups": ["atoll.dev"], "resources": ["clusters", "clusterslices"], "verbs": ["get", "list", "create"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant"}],
    });
    let objects = format!("{rights}\n---\n{binding}");
    plane.kubectl_input(["apply", "-f", "-"], &objects).await.unwrap().ok().unwrap();
    let tenant = plane.kubeconfig_as("tenant", &[]).unwrap();

    let ran = atoll(&tenant, &["explain", "train"], "").await;
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("You may not read GPUModels, Sites and GPUNodes"), "{}", ran.out);
    let ran = atoll(&tenant, &["simulate", "-f", "-"], &manifest("more", 1).to_string()).await;
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("the hub does not allow this"), "{}", ran.err);
}

#[tokio::test]
async fn a_token_is_stored_hashed_and_only_for_suppliers_that_exist() {
    require!(Core);
    let plane = ControlPlane::start(ControlPlaneOptions::bare("hub").crds(crds())).await.unwrap();
    plane.create_namespace("atoll-system").await.unwrap();
    let hub = plane.kubeconfig();
    let create = ["token", "create", "--supplier", "acme", "--trust", "Contracted", "--output", "token"];

    let ran = atoll(hub, &create, "").await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("Supplier acme does not exist"), "{}", ran.err);

    let supplier = json!({
        "apiVersion": "atoll.dev/v1alpha1", "kind": "Supplier", "metadata": {"name": "acme"},
        "spec": {"displayName": "Acme", "contact": "ops@acme.example"},
    });
    put::<atoll_api::Supplier>(&plane, "acme", supplier).await;
    let ran = atoll(hub, &create, "").await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("has no CA yet"), "{}", ran.err);

    let secrets: Api<Secret> = Api::namespaced(plane.client(), "atoll-system");
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::new(["hub".to_owned()]).unwrap().self_signed(&key).unwrap();
    let stored = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "atoll-hub-ca"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": ca.pem(), "tls.key": "not for the CLI"},
    });
    secrets.create(&PostParams::default(), &serde_json::from_value(stored).unwrap()).await.unwrap();
    let ran = atoll(hub, &create, "").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let token: JoinToken = ran.out.parse().unwrap();
    let stored = secrets.get(&token.presented().secret_name()).await.unwrap().data.unwrap();
    assert_eq!(stored["sha256"].0, token.presented().secret_hash().into_bytes());
    assert_eq!(stored["trust"].0, b"Contracted");

    let ran = atoll(hub, &["token", "create", "--supplier", "acme", "--hub", "hub.example:443"], "").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("atoll-agent join --hub=hub.example:443"), "{}", ran.out);

    // The pin that is shown is the one in tokens; without a gateway nobody makes a new CA.
    let ran = atoll(hub, &["ca", "show"], "").await;
    assert!(ran.out.contains(&format!("Pin: {}", token.pin())) && ran.out.contains("No rotation"), "{}", ran.out);
    let staged = json!({ "stringData": { "next.crt": "x", "issue-from": "2999-01-01T00:00:00Z" } });
    secrets.patch("atoll-hub-ca", &PatchParams::default(), &Patch::Merge(&staged)).await.unwrap();
    let ran = atoll(hub, &["ca", "rotate"], "").await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("being replaced already") && ran.err.contains("2999"), "{}", ran.err);
}
