//! Clusters in files.

use std::path::Path;

use atoll_api::Cluster;
use kube::Resource;
use serde_json::Value;

use crate::error::Error;

/// The Clusters of a file, and what else is in it, in words.
#[derive(Debug, PartialEq)]
pub struct Manifests {
    /// Clusters as they stand in the file.
    pub clusters: Vec<Value>,
    /// "Supplier acme", of what is no Cluster.
    pub others: Vec<String>,
}

/// Reads a file; "-" is standard input.
pub fn read(path: &Path) -> Result<Manifests, Error> {
    let text =
        if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    parse(&text.map_err(|error| Error::File(path.to_owned(), error))?)
        .map_err(|problem| Error::Manifest(format!("{}: {problem}", path.display())))
}

/// The documents of a YAML or JSON text; objects of kind List are taken apart.
fn parse(text: &str) -> Result<Manifests, String> {
    let documents: Vec<Option<Value>> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    let mut manifests = Manifests { clusters: Vec::new(), others: Vec::new() };
    for document in documents.into_iter().flatten() {
        add(&mut manifests, document)?;
    }
    if manifests.clusters.is_empty() {
        return Err("holds no Cluster of atoll.dev/v1alpha1".to_owned());
    }
    Ok(manifests)
}

fn add(manifests: &mut Manifests, document: Value) -> Result<(), String> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (api, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let ours = api == Cluster::api_version(&()) && kind == Cluster::kind(&());
    match (api, kind) {
        (_, "") => Err("a document has no kind".to_owned()),
        _ if ours && name.is_empty() => Err("a Cluster has no metadata.name".to_owned()),
        _ if ours => {
            manifests.clusters.push(document);
            Ok(())
        }
        ("v1", "List") => match document.get("items") {
            Some(Value::Array(items)) => items.iter().try_for_each(|item| add(manifests, item.clone())),
            _ => Ok(()),
        },
        _ => {
            manifests.others.push(format!("{kind} {name}"));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "apiVersion: atoll.dev/v1alpha1\nkind: Cluster\nmetadata: {name: NAME}\nspec: {}\n";

    fn names(manifests: &Manifests) -> Vec<&str> {
        manifests.clusters.iter().filter_map(|cluster| cluster["metadata"]["name"].as_str()).collect()
    }

    #[test]
    fn a_file_may_hold_several_documents_and_lists_and_other_kinds() {
        let (a, b) = (CLUSTER.replace("NAME", "a"), CLUSTER.replace("NAME", "b"));
        let supplier = "apiVersion: atoll.dev/v1alpha1\nkind: Supplier\nmetadata: {name: acme}\n";
        let parsed = parse(&format!("# a comment\n---\n{a}---\n{supplier}---\n---\n{b}")).unwrap();
        assert_eq!(names(&parsed), ["a", "b"]);
        assert_eq!(parsed.others, ["Supplier acme"]);
        let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "atoll.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "c"}}]}"#;
        assert_eq!(names(&parse(list).unwrap()), ["c"]);
    }

    #[test]
    fn what_holds_no_cluster_is_an_error() {
        for text in [
            "",
            "kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\n",
            "apiVersion: atoll.dev/v2\nkind: Cluster\nmetadata: {name: x}\n",
            "apiVersion: atoll.dev/v1alpha1\nkind: Cluster\n",
            "just text",
            "a: [",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
