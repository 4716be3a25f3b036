//! What the documentation names exists, and what exists is named there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// String constants of a source file, up to its tests.
fn constants(path: &str) -> Vec<String> {
    let source = text(path);
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = source.lines().filter(|line| line.trim_start().starts_with("pub const"));
    lines.filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect()
}

/// Words of a source file that look like names of metrics.
fn metrics(path: &str) -> BTreeSet<String> {
    let source = text(path);
    let words = source.split('"').filter(|word| word.starts_with("atoll_"));
    words.filter(|word| word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())).map(str::to_owned).collect()
}

#[test]
fn every_condition_and_reason_is_explained() {
    let page = text("docs/troubleshooting.md");
    let reasons = constants("api/src/conditions.rs");
    assert!(reasons.len() > 20, "{reasons:?}");
    let devices = constants("core/src/device/reasons.rs");
    assert!(devices.len() > 20, "{devices:?}");
    for reason in reasons.into_iter().chain(devices) {
        assert!(page.contains(&format!("`{reason}`")), "docs/troubleshooting.md says nothing about {reason}");
    }
}

#[test]
fn every_metric_is_listed_and_no_other() {
    let page = text("docs/operations.md");
    let sources = [
        "operator/src/metrics.rs",
        "operator/src/gateway/metrics.rs",
        "agent/src/metrics.rs",
        "agent/src/watchdog/metrics.rs",
        "scheduler/src/metrics.rs",
        "device-plugin/src/metrics/own.rs",
    ];
    let exist: BTreeSet<String> = sources.into_iter().flat_map(metrics).collect();
    let named: BTreeSet<String> = page
        .split('`')
        .filter(|word| word.starts_with("atoll_"))
        .filter_map(|word| word.split([' ', '{']).next())
        .map(str::to_owned)
        .collect();
    assert_eq!(named, exist);
}

#[test]
fn links_inside_the_repository_lead_somewhere() {
    let mut pages: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md"].map(|page| root().join(page)).into();
    for folder in ["docs", "docs/adr"] {
        let files = fs::read_dir(root().join(folder)).unwrap().map(|file| file.unwrap().path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    for page in pages {
        let content = fs::read_to_string(&page).unwrap();
        for target in content.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") {
                assert!(page.parent().unwrap().join(path).exists(), "{}: {target}", page.display());
            }
        }
    }
}

#[test]
fn examples_and_folders_that_pages_name_exist() {
    let pages = ["README.md", "CONTRIBUTING.md", "docs/operations.md", "docs/design.md", "docs/torch-and-ray.md"];
    let folders =
        ["api/", "core/", "convert/", "wire/", "runtime/", "operator/", "examples/", "deploy/", "crds/", "tests/"];
    for page in pages {
        for word in text(page).split(|c: char| c.is_whitespace() || "`()|,;:".contains(c)) {
            let word = word.trim_end_matches('.');
            if folders.iter().any(|folder| word.starts_with(folder)) && !word.contains('<') {
                assert!(root().join(word).exists(), "{page} names {word}");
            }
        }
    }
}
