//! The definitions on a real API server: it takes them without a warning, and it keeps every rule.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use atoll_testkit::{ControlPlane, ControlPlaneOptions, require};
use common::{BAD, Base, UPDATES, examples, placed_status};
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

#[tokio::test]
async fn the_api_server_takes_the_definitions_and_keeps_every_rule() {
    require!(Core);
    let hub = ControlPlane::start(ControlPlaneOptions::bare("api")).await.unwrap();
    definitions_are_established_without_a_warning(&hub).await;
    what_can_never_be_right_is_refused_and_nothing_is_created(&hub).await;
    what_is_left_out_gets_its_default(&hub).await;
    objects_change_only_where_they_may(&hub).await;
    scaling_sets_the_count_within_the_rules(&hub).await;
    the_largest_objects_fit(&hub).await;
    unknown_fields_are_refused_by_kubectl(&hub).await;
    every_example_and_the_catalogue_are_applied(&hub).await;
    hub.stop().await.unwrap();
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn api(hub: &ControlPlane, base: Base) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(atoll_api::GROUP, atoll_api::VERSION, base.kind()),
        &match base {
            Base::Policy => "sitepolicies".to_owned(),
            _ => format!("{}s", base.kind().to_lowercase()),
        },
    );
    match base {
        Base::Pods | Base::Torch | Base::Ray | Base::Slice | Base::Gang | Base::Policy => {
            Api::namespaced_with(hub.client(), "default", &resource)
        }
        _ => Api::all_with(hub.client(), &resource),
    }
}

async fn create(api: &Api<DynamicObject>, object: Value) -> Result<DynamicObject, String> {
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.map_err(|error| refusal(&error))
}

/// The API server's message; anything but a refusal of the object fails the test.
fn refusal(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 422 => status.message.clone(),
        other => panic!("not a refusal: {other}"),
    }
}

async fn kubectl<const N: usize>(hub: &ControlPlane, args: [&str; N]) -> String {
    let output = hub.kubectl(args).await.unwrap();
    assert!(output.status.success(), "kubectl {args:?}: {}", output.stderr);
    assert!(!output.stderr.contains("Warning"), "kubectl {args:?}: {}", output.stderr);
    output.stdout
}

async fn definitions_are_established_without_a_warning(hub: &ControlPlane) {
    let crds = folder("crds");
    let crds = crds.to_str().unwrap();
    kubectl(hub, ["apply", "--server-side", "-f", crds]).await;
    kubectl(hub, ["wait", "--for=condition=Established", "--timeout=30s", "-f", crds]).await;
    let generated: Vec<Value> =
        atoll_api::crd::all().into_iter().map(|definition| serde_json::to_value(definition).unwrap()).collect();
    for definition in generated {
        let plural = definition["spec"]["names"]["plural"].as_str().unwrap();
        let shipped = common::documents(&folder("crds").join(format!("{plural}.yaml"))).remove(0);
        assert!(shipped == definition, "crds/{plural}.yaml is old: run `make generate`");
    }
}

async fn what_can_never_be_right_is_refused_and_nothing_is_created(hub: &ControlPlane) {
    let mut missed = Vec::new();
    for case in BAD {
        match create(&api(hub, case.base), case.base.with(case.edits)).await {
            Err(message) if message.contains(case.names) => {}
            Err(message) => missed.push(format!("{}: expected {} in: {message}", case.what, case.names)),
            Ok(_) => missed.push(format!("{}: taken", case.what)),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    for base in Base::ALL {
        let left = api(hub, base).list(&ListParams::default()).await.unwrap().items;
        assert!(left.is_empty(), "{base:?}: {left:?}");
    }
}

async fn what_is_left_out_gets_its_default(hub: &ControlPlane) {
    let clusters = api(hub, Base::Pods);
    let made = create(&clusters, Base::Pods.with(&[("/spec/gpu", "{}")])).await.unwrap();
    let spec = &made.data["spec"];
    assert_eq!(spec["workload"], "Training");
    assert_eq!(spec["placement"]["minTrust"], "Untrusted");
    assert_eq!(spec["backoffLimit"], 6);
    assert_eq!(spec["suspend"], false);
    assert_eq!(spec["disconnection"]["times"], json!({"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120}));
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Never");
    let typed: atoll_api::Cluster = made.try_parse().unwrap();
    assert_eq!(typed.spec.members.gpus, 1);

    let listed = kubectl(hub, ["get", "gpuc"]).await;
    let columns: Vec<_> = listed.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "TYPE", "STATE", "READY", "GPUS", "WHERE", "USD/H", "AGE"]);
    assert!(kubectl(hub, ["get", "atoll"]).await.contains("cluster.atoll.dev/a"));
    clusters.delete("a", &DeleteParams::default()).await.unwrap();

    let mut nulls = Base::Pods.object();
    nulls["spec"]["members"]["min"] = Value::Null;
    nulls["spec"]["disconnection"] = Value::Null;
    let made = create(&clusters, nulls).await.unwrap();
    assert!(made.data["spec"]["members"].get("min").is_none());
    assert_eq!(made.data["spec"]["disconnection"]["times"]["stopSeconds"], 60);
    clusters.delete("a", &DeleteParams::default()).await.unwrap();

    let policies = api(hub, Base::Policy);
    let made = create(&policies, Base::Policy.object()).await.unwrap();
    let typed: atoll_api::SitePolicy = made.try_parse().unwrap();
    assert_eq!(typed.spec, atoll_api::SitePolicySpec::default(), "no policy is the same as an empty one");
    let listed = kubectl(hub, ["get", "sitepolicy", "default"]).await;
    let columns: Vec<_> = listed.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "AVAILABILITY", "RUNNING", "LEAVING", "APPLIED", "AGE"]);
    policies.delete("default", &DeleteParams::default()).await.unwrap();
}

async fn place(api: &Api<DynamicObject>) {
    let status = Patch::Merge(json!({"status": placed_status()}));
    api.patch_status("a", &PatchParams::default(), &status).await.unwrap();
}

async fn objects_change_only_where_they_may(hub: &ControlPlane) {
    let mut missed = Vec::new();
    for case in UPDATES {
        let api = api(hub, case.base);
        let made = create(&api, case.base.with(case.before)).await.unwrap();
        let name = made.metadata.name.unwrap();
        if case.placed {
            place(&api).await;
        }
        let mut object = serde_json::to_value(api.get(&name).await.unwrap()).unwrap();
        common::apply(&mut object, case.edits);
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let answer = api.replace(&name, &PostParams::default(), &object).await.map_err(|error| refusal(&error));
        match (answer, case.refused) {
            (Ok(_), None) => {}
            (Err(message), Some(field)) if message.contains(field) => {}
            (answer, _) => missed.push(format!("{}: {:?}", case.what, answer.map(|_| "taken"))),
        }
        api.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

async fn scaling_sets_the_count_within_the_rules(hub: &ControlPlane) {
    let clusters = api(hub, Base::Pods);
    create(&clusters, Base::Pods.with(&[("/spec/members/min", "2")])).await.unwrap();
    place(&clusters).await;
    kubectl(hub, ["scale", "gpuc/a", "--replicas=9"]).await;
    assert_eq!(clusters.get("a").await.unwrap().data["spec"]["members"]["count"], 9);
    for (replicas, names) in [("--replicas=1", "members.min"), ("--replicas=0", "spec.members.count")] {
        let output = hub.kubectl(["scale", "gpuc/a", replicas]).await.unwrap();
        assert!(!output.status.success() && output.stderr.contains(names), "{replicas}: {}", output.stderr);
    }
    clusters.delete("a", &DeleteParams::default()).await.unwrap();

    create(&clusters, Base::Torch.object()).await.unwrap();
    place(&clusters).await;
    let output = hub.kubectl(["scale", "gpuc/a", "--replicas=3"]).await.unwrap();
    assert!(output.stderr.contains("suspend it first"), "{}", output.stderr);
    clusters.delete("a", &DeleteParams::default()).await.unwrap();
}

async fn the_largest_objects_fit(hub: &ControlPlane) {
    let clusters = api(hub, Base::Pods);
    let mut cluster = Base::Pods.with(&[("/spec/members/count", "10000")]);
    cluster["spec"]["template"] = largest_template();
    create(&clusters, cluster).await.unwrap();

    // 10,000 members on 10,000 nodes of 100 Sites.
    let sites: Vec<_> = (0..100)
        .map(|site| {
            let nodes: Vec<_> = (0..100)
                .map(|node| {
                    let rank = site * 100 + node;
                    let name = format!("gpu-node-{rank:05}.rack-{site:03}");
                    json!({"name": name, "rank": rank, "count": 1, "incarnation": 12})
                })
                .collect();
            json!({"site": format!("site-{site:016x}"), "price": "2.5", "nodes": nodes})
        })
        .collect();
    let nodes = serde_json::to_string(&sites).unwrap().len();
    assert!(nodes < 10_000 * 100, "{nodes} bytes for 10,000 nodes");
    let mut status = placed_status();
    status["placement"]["sites"] = sites.into();
    let mut cluster = serde_json::to_value(clusters.get("a").await.unwrap()).unwrap();
    cluster["status"] = status;
    let cluster = serde_json::from_value(cluster).unwrap();
    clusters.replace_status("a", &PostParams::default(), &cluster).await.unwrap();
    // Rules that look at the whole object stay within their budget, too.
    kubectl(hub, ["scale", "gpuc/a", "--replicas=9999"]).await;
    clusters.delete("a", &DeleteParams::default()).await.unwrap();

    let slices = api(hub, Base::Slice);
    let mut slice = Base::Slice.object();
    slice["spec"]["template"] = largest_template();
    slice["spec"]["members"] =
        (0..500).map(|rank| json!({"rank": rank, "node": format!("gpu-node-{rank:05}"), "incarnation": 1})).collect();
    create(&slices, slice).await.unwrap();
    slices.delete("a", &DeleteParams::default()).await.unwrap();
}

/// As many containers, variables, volumes and mounts as a template may have.
fn largest_template() -> Value {
    let container = |kind: &str, index: usize| {
        let env: Vec<_> = (0..128).map(|index| json!({"name": format!("VARIABLE_{index}"), "value": "x"})).collect();
        let mounts: Vec<_> =
            (0..16).map(|index| json!({"name": format!("volume-{index}"), "mountPath": format!("/{index}")})).collect();
        json!({
            "name": format!("{kind}-{index}"), "image": "registry.example/app:1", "env": env, "volumeMounts": mounts,
            "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        })
    };
    let labels: serde_json::Map<_, _> =
        (0..32).map(|index| (format!("example.com/label-{index}"), Value::from("x"))).collect();
    json!({"metadata": {"labels": labels, "annotations": labels}, "spec": {
        "containers": (0..16).map(|index| container("main", index)).collect::<Vec<_>>(),
        "initContainers": (0..16).map(|index| container("init", index)).collect::<Vec<_>>(),
        "volumes": (0..16).map(|index| json!({"name": format!("volume-{index}"), "emptyDir": {}})).collect::<Vec<_>>(),
    }})
}

async fn unknown_fields_are_refused_by_kubectl(hub: &ControlPlane) {
    for (pointer, unknown) in [
        ("/spec/preemptible", "spec.preemptible"),
        ("/spec/template/spec/schedulerName", "spec.template.spec.schedulerName"),
        ("/spec/template/spec/securityContext/runAsUser", "spec.template.spec.securityContext"),
        ("/spec/template/spec/containers/0/lifecycle/postStart", "spec.template.spec.containers[0].lifecycle"),
    ] {
        let mut object = Base::Pods.object();
        common::set(&mut object, pointer, json!(true));
        let output = hub.kubectl_input(["apply", "-f", "-"], &object.to_string()).await.unwrap();
        let message = format!("unknown field \"{unknown}\"");
        assert!(!output.status.success() && output.stderr.contains(&message), "{pointer}: {}", output.stderr);
    }
}

async fn every_example_and_the_catalogue_are_applied(hub: &ControlPlane) {
    hub.create_namespace("atoll-system").await.unwrap();
    for example in examples() {
        kubectl(hub, ["apply", "-f", example.to_str().unwrap()]).await;
    }
    let catalogue = folder("api/catalogue/gpumodels.yaml");
    kubectl(hub, ["apply", "--server-side", "-f", catalogue.to_str().unwrap()]).await;
    let models = api(hub, Base::Model).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(models.len(), common::catalogue().len());
}
