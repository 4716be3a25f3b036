//! Which images members may run. Pure.

use atoll_api::ImageRules;
use atoll_api::template::MemberTemplateSpec;

/// The registry of images that name none, and the folder there of those with one word.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_FOLDER: &str = "library";
const DIGEST_HEX: usize = 64;

/// Why an image may not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template.spec, container {container}, image {image}: {why}")]
pub struct ImageError {
    container: String,
    image: String,
    why: String,
}

/// Whether every image may run.
pub(super) fn check(rules: &ImageRules, pod: &MemberTemplateSpec) -> Result<(), ImageError> {
    for container in pod.containers.iter().chain(&pod.init_containers) {
        let refused =
            |why: String| ImageError { container: container.name.clone(), image: container.image.clone(), why };
        if rules.require_digest && !has_digest(&container.image) {
            return Err(refused("this Site runs images by digest only, \"…@sha256:…\"".to_owned()));
        }
        let repository = repository(&container.image);
        if !rules.registries.is_empty() && !rules.registries.iter().any(|allowed| is_within(&repository, allowed)) {
            let allowed = rules.registries.join(", ");
            return Err(refused(format!("{repository} is not in {allowed}, where this Site's images come from")));
        }
    }
    Ok(())
}

/// The image is named by the hash of its manifest.
fn has_digest(image: &str) -> bool {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    image.rsplit_once("@sha256:").is_some_and(|(name, digest)| {
        !name.is_empty() && !name.contains('@') && digest.len() == DIGEST_HEX && digest.chars().all(hex)
    })
}

/// Registry and path of an image, as container runtimes read its name.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    // A colon behind the last slash starts the tag; before it, it is a port's.
    let name = match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    };
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || host != host.to_lowercase() => {
            (host, path.to_owned())
        }
        Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
        None => (DEFAULT_REGISTRY, format!("{DEFAULT_FOLDER}/{name}")),
    };
    let host = if host == "index.docker.io" { DEFAULT_REGISTRY } else { host };
    format!("{host}/{path}")
}

/// Whole steps of the path only: "registry.example" does not stand for "registry.example.org".
fn is_within(repository: &str, allowed: &str) -> bool {
    repository.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_name_without_a_registry_is_one_of_docker_hub() {
        for (image, is) in [
            ("busybox", "docker.io/library/busybox"),
            ("busybox:1", "docker.io/library/busybox"),
            ("team/app:1", "docker.io/team/app"),
            ("index.docker.io/team/app", "docker.io/team/app"),
            ("localhost/app", "localhost/app"),
            ("registry:5000/a/b:1", "registry:5000/a/b"),
            ("registry.example/a/b@sha256:00", "registry.example/a/b"),
            ("registry.example/a:1@sha256:00", "registry.example/a"),
            ("Registry/a", "Registry/a"),
        ] {
            assert_eq!(repository(image), is, "{image}");
        }
    }

    #[test]
    fn a_digest_is_a_whole_one() {
        assert!(has_digest(&format!("a@{DIGEST}")) && has_digest(&format!("r.example:5000/a:1@{DIGEST}")));
        for image in ["a", "a:sha256", "a@sha256:", "a@sha256:12", &format!("@{DIGEST}"), &format!("a@{DIGEST}0")] {
            assert!(!has_digest(image), "{image}");
        }
        assert!(!has_digest(&format!("a@{}", DIGEST.to_uppercase())) && !has_digest(&format!("a@b@{DIGEST}")));
    }

    #[test]
    fn images_come_from_where_the_supplier_lets_them() {
        let rules = |registries: &[&str]| ImageRules {
            require_digest: false,
            registries: registries.iter().map(|registry| (*registry).to_owned()).collect(),
        };
        for (registries, image, taken) in [
            (&[][..], "evil.example/x", true),
            (&["registry.example"], "registry.example/x:1", true),
            (&["registry.example"], "registry.example.evil/x", false),
            (&["registry.example"], "registry.example:5000/x", false),
            (&["registry.example"], "registry.example@evil/x", false),
            (&["registry.example/team"], "registry.example/teams/x", false),
            (&["registry.example/team"], "registry.example/team/../x", true),
            (&["registry.example/team/app"], "registry.example/team/app@sha256:00", true),
            (&["docker.io/library"], "busybox", true),
            (&["docker.io/library"], "library/busybox", true),
            (&["docker.io/library"], "someone/busybox", false),
            (&["a.example", "b.example"], "b.example/x", true),
        ] {
            let pod = serde_json::from_value(json!({
                "containers": [{"name": "fine", "image": "b.example/y"}],
                "initContainers": [{"name": "init", "image": image}],
            }));
            let mut rules = rules(registries);
            if !rules.registries.is_empty() {
                rules.registries.push("b.example/y".to_owned());
            }
            let checked = check(&rules, &pod.unwrap());
            assert_eq!(checked.is_ok(), taken, "{image} in {registries:?}: {checked:?}");
        }
    }

    #[test]
    fn a_refusal_names_container_image_and_what_would_do() {
        let pod = serde_json::from_value(json!({"containers": [{"name": "main", "image": "busybox:1"}]})).unwrap();
        let rules = ImageRules { require_digest: true, registries: Vec::new() };
        let why = check(&rules, &pod).unwrap_err().to_string();
        assert_eq!(
            why,
            "template.spec, container main, image busybox:1: this Site runs images by digest only, \"…@sha256:…\""
        );
    }
}
