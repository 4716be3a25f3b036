//! `simulate`: what would happen with a manifest now. Nothing is written: the API server only tries.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::path::Path;

use atoll_api::Cluster;
use jiff::Timestamp;
use kube::api::PostParams;
use kube::core::Request;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::Value;

use crate::error::Error;
use crate::explain::notes;
use crate::fetch;
use crate::manifests;
use crate::outlook::{self, Outlook};
use crate::render::{count, print, ranges};
use crate::verdict::Verdict;
use crate::world::World;

/// A manifest as the API server would store it.
#[derive(Debug)]
struct Tried {
    cluster: Cluster,
    /// It exists and would be changed.
    exists: bool,
}

/// Runs the command.
pub async fn run(client: &Client, namespace: Option<&str>, file: &Path, now: Timestamp) -> Result<Verdict, Error> {
    let manifests = manifests::read(file)?;
    for other in &manifests.others {
        eprintln!("{other}: only Clusters are simulated.");
    }
    let default = namespace.unwrap_or_else(|| client.default_namespace());
    let mut tried = Vec::new();
    for manifest in manifests.clusters {
        tried.push(dry_run(client, default, manifest).await?);
    }
    let mut world = World::new(fetch::objects(client, default).await?);
    if world.network_hidden {
        let needs =
            "the manifest is valid; to say whether it fits, simulate needs to read gpumodels, sites and gpunodes";
        return Err(Error::Forbidden(needs.to_owned()));
    }
    let (text, verdict) = simulate(&mut world, tried, now)?;
    print(&text);
    Ok(verdict)
}

/// Has the API server validate and default a manifest, as if it were created, or put in the place of what exists.
async fn dry_run(client: &Client, default: &str, mut manifest: Value) -> Result<Tried, Error> {
    let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let name = text("/metadata/name").unwrap_or_default();
    let namespace = text("/metadata/namespace").unwrap_or_else(|| default.to_owned());
    let what = format!("Cluster {namespace}/{name}");
    manifest["metadata"]["namespace"] = Value::String(namespace.clone());
    if let Some(object) = manifest.as_object_mut() {
        object.remove("status");
    }

    let api: Api<Cluster> = Api::namespaced(client.clone(), &namespace);
    let existing = api.get_opt(&name).await?;
    if let Some(version) = existing.as_ref().and_then(ResourceExt::resource_version) {
        manifest["metadata"]["resourceVersion"] = Value::String(version);
    }
    let request = Request::new(Cluster::url_path(&(), Some(&namespace)));
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let body = manifest.to_string().into_bytes();
    let request = match &existing {
        None => request.create(&params, body),
        Some(_) => request.replace(&name, &params, body),
    };
    let mut request = request.map_err(|error| Error::Manifest(format!("{what}: {error}")))?;
    // As kubectl asks: a field that nobody knows is an error, not dropped.
    *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri())
        .parse()
        .map_err(|_| Error::Manifest(format!("{what}: its name cannot be part of a path")))?;
    match client.request::<Cluster>(request).await {
        Ok(cluster) => Ok(Tried { cluster, exists: existing.is_some() }),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 409 | 422) => {
            Err(Error::Refused(what, refusals(&status)))
        }
        // The namespace, not the kind: the kind was read a moment ago.
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Error::Refused(what, status.message)),
        Err(error) => Err(error.into()),
    }
}

/// What the API server finds wrong, one line each.
fn refusals(status: &kube::core::Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let lines: Vec<String> = causes
        .map(|cause| {
            let field = cause.field.trim();
            if field.is_empty() || field == "<nil>" {
                format!("  {}", cause.message)
            } else {
                format!("  {field}: {}", cause.message)
            }
        })
        .collect();
    if lines.is_empty() { format!("  {}", status.message) } else { lines.join("\n") }
}

/// What would happen with each, in the order in which the operator would place them; each sees what those before it
/// take.
fn simulate(world: &mut World, mut tried: Vec<Tried>, now: Timestamp) -> Result<(String, Verdict), Error> {
    tried.sort_by_key(|tried| Reverse(tried.cluster.spec.priority));
    let mut text = String::new();
    let mut verdict = Verdict::Fits;
    for Tried { cluster, exists } in &tried {
        let name = format!("Cluster {}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any());
        let outlook =
            Outlook::new(world, cluster, now).map_err(|source| Error::Invalid { object: name.clone(), source })?;
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "{name} would be {}.", if *exists { "changed" } else { "created" });
        text.push_str(&effect(world, cluster, &outlook));
        if outlook.verdict() == Verdict::DoesNotFit {
            verdict = Verdict::DoesNotFit;
        }
        outlook.assume(world);
    }
    text.push_str(&notes(world));
    Ok((text, verdict))
}

fn effect(world: &World, cluster: &Cluster, outlook: &Outlook) -> String {
    let mut text = String::new();
    let placed = atoll_convert::committed(cluster);
    let kept = &outlook.step.keep;
    if outlook.step.end.is_some() || cluster.status.as_ref().is_some_and(|status| status.finished_at.is_some()) {
        return "It has ended; nothing would start.\n".to_owned();
    }
    if !kept.is_empty() {
        let _ = writeln!(text, "{} would stay where they are.", count(kept.len() as u64, "member"));
    }
    let leaving: Vec<u32> = placed.iter().filter(|member| !kept.contains(member)).map(|member| member.rank).collect();
    if !leaving.is_empty() {
        let _ = writeln!(text, "Ranks {} would stop.", ranges(leaving));
    }
    match &outlook.placing {
        Some(explanation) => text.push_str(&outlook::placing(world, explanation)),
        None if cluster.spec.suspend => text.push_str("It is suspended and would hold no GPUs.\n"),
        None => text.push_str("Nothing would be placed now.\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::render::assert_snapshot;
    use crate::world::fixtures;

    use super::*;

    fn simulated(clusters: Vec<Value>) -> (String, Verdict) {
        let tried = clusters
            .into_iter()
            .map(|cluster| Tried { cluster: serde_json::from_value(cluster).unwrap(), exists: false })
            .collect();
        let (text, verdict) = simulate(&mut fixtures::world(json!([]), json!([])), tried, fixtures::now()).unwrap();
        (text, verdict)
    }

    #[test]
    fn each_sees_what_those_before_it_take_in_order_of_priority() {
        let mut first = fixtures::new_cluster("low", 12)[0].clone();
        let mut second = fixtures::new_cluster("high", 12)[0].clone();
        first["metadata"]["uid"] = json!("u-low");
        second["metadata"]["uid"] = json!("u-high");
        second["spec"]["priority"] = json!(10);
        let (text, verdict) = simulated(vec![first, second]);
        assert_eq!(verdict, Verdict::DoesNotFit);
        assert_snapshot("simulate-two", &text);
    }

    #[test]
    fn a_suspended_cluster_holds_nothing() {
        let mut cluster = fixtures::new_cluster("later", 12)[0].clone();
        cluster["spec"]["suspend"] = json!(true);
        let (text, verdict) = simulated(vec![cluster]);
        assert_eq!(verdict, Verdict::Fits);
        assert!(text.contains("It is suspended and would hold no GPUs."), "{text}");
    }

    #[test]
    fn fewer_members_stop_the_highest_ranks() {
        let mut world = fixtures::world(fixtures::placed_cluster(), fixtures::slices_of_it());
        let mut cluster = world.clusters[&("default".to_owned(), "placed".to_owned())].clone();
        cluster.spec.members.count = 2;
        let (text, _) = simulate(&mut world, vec![Tried { cluster, exists: true }], fixtures::now()).unwrap();
        assert!(text.contains("would be changed"), "{text}");
        assert!(text.contains("2 members would stay where they are."), "{text}");
        assert!(text.contains("Ranks 2-3 would stop."), "{text}");
    }

    #[test]
    fn a_refusal_names_each_field() {
        let status: kube::core::Status = serde_json::from_value(json!({
            "status": "Failure", "code": 422, "reason": "Invalid", "message": "all of it",
            "details": {"causes": [
                {"reason": "FieldValueInvalid", "message": "must be at least 1", "field": "spec.members.count"},
                {"reason": "FieldValueInvalid", "message": "no rule named", "field": "<nil>"}]},
        }))
        .unwrap();
        assert_eq!(refusals(&status), "  spec.members.count: must be at least 1\n  no rule named");
    }
}
