//! What the documentation names exists, and what exists is named there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

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

/// Where metrics are made.
const METRICS: [&str; 6] = [
    "operator/src/metrics.rs",
    "operator/src/gateway/metrics.rs",
    "agent/src/metrics.rs",
    "agent/src/watchdog/metrics.rs",
    "scheduler/src/metrics.rs",
    "device-plugin/src/metrics/own.rs",
];
/// Where else values of their labels stand.
const LABELS: [&str; 4] = [
    "operator/src/controllers/cluster/writer.rs",
    "operator/src/controllers/failure.rs",
    "core/src/watchdog.rs",
    "agent/src/nodes.rs",
];

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
    let exist: BTreeSet<String> = METRICS.into_iter().flat_map(metrics).collect();
    let named: BTreeSet<String> = page
        .split('`')
        .filter(|word| word.starts_with("atoll_"))
        .filter_map(|word| word.split([' ', '{']).next())
        .map(str::to_owned)
        .collect();
    assert_eq!(named, exist);
}

/// Every Rust source below a folder that is no build's.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match (path.is_dir(), path.extension()) {
            (true, _) if path.ends_with("target") => Vec::new(),
            (true, _) => sources(&path),
            (false, Some(extension)) if extension == "rs" => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

#[test]
fn every_time_is_shown_by_a_test_that_exists() {
    let page = text("docs/design.md");
    let (_, part) = page.split_once("### How long it takes").unwrap();
    let table = part.lines().skip_while(|line| !line.starts_with("| what fails |")).skip(2);
    let rows: Vec<&str> = table.take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10, "{rows:?}");
    let all: String = sources(&root()).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    for row in rows {
        let shown = row.trim_end_matches(" |").rsplit('|').next().unwrap_or_default();
        let tests: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "nothing shows {row}");
        for test in tests {
            assert!(test.starts_with("make ") || all.contains(&format!("fn {test}(")), "there is no test {test}");
        }
    }
}

#[test]
fn links_inside_the_repository_lead_somewhere() {
    let mut pages: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md"].map(|page| root().join(page)).into();
    for folder in ["docs", "docs/adr", "docs/runbooks"] {
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
    let pages = [
        "README.md",
        "CONTRIBUTING.md",
        "docs/operations.md",
        "docs/design.md",
        "docs/runbooks/README.md",
        "docs/suppliers.md",
        "docs/torch-and-ray.md",
    ];
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

/// A rule file of Prometheus, as far as Atoll's use it: whatever else is in one is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(rename = "for")]
    after: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// Names of files in a folder.
fn files(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    entries.map(|name| name.into_string().unwrap()).collect()
}

fn rules() -> Vec<Rule> {
    let groups = files("deploy/prometheus").into_iter().flat_map(|file| {
        let path = format!("deploy/prometheus/{file}");
        let parsed: RuleFile = serde_saphyr::from_str(&text(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        parsed.groups
    });
    let mut names = BTreeSet::new();
    groups
        .inspect(|group| assert!(names.insert(group.name.clone()), "{} twice", group.name))
        .flat_map(|group| group.rules)
        .collect()
}

/// Times as Prometheus reads them: one number and unit are enough here.
fn is_time(text: &str) -> bool {
    let number = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && ["s", "m", "h"].contains(&&text[number.len()..])
}

#[test]
fn every_alert_says_what_to_do_and_has_its_runbook() {
    let (mut pages, index) = (BTreeSet::from(["README.md".to_owned()]), text("docs/runbooks/README.md"));
    for Rule { alert, after, labels, annotations, .. } in rules() {
        assert!(alert.starts_with("Atoll"), "{alert}: alerts of others have other names");
        assert!(after.as_deref().is_none_or(is_time), "{alert}: for {after:?}");
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["severity"], "{alert}");
        assert!(["critical", "warning", "info"].contains(&labels["severity"].as_str()), "{alert}: {labels:?}");
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["description", "runbook", "summary"], "{alert}");
        assert_eq!(annotations["runbook"], format!("docs/runbooks/{alert}.md"));
        let row = format!("| [{alert}]({alert}.md) | {} |", labels["severity"]);
        assert!(index.contains(&row), "docs/runbooks/README.md has no row {row}");
        let page = text(&annotations["runbook"]);
        assert!(page.starts_with(&format!("# {alert}\n")), "{alert}: its page is called otherwise");
        for part in
            ["What it means", "What users notice", "What Atoll does", "How to look", "What to do", "When to escalate"]
        {
            assert!(page.contains(&format!("**{part}.**")), "{alert}: its page does not say: {part}");
        }
        assert!(pages.insert(format!("{alert}.md")), "{alert} twice");
    }
    assert!(pages.len() > 20, "{pages:?}");
    assert_eq!(files("docs/runbooks"), pages, "every page has its alert");
    assert_eq!(index.matches("| [Atoll").count(), pages.len() - 1, "rows of alerts that do not exist");
}

#[test]
fn alerts_and_runbooks_ask_for_what_exists() {
    let exist: BTreeSet<String> = METRICS.into_iter().flat_map(metrics).collect();
    let sources: String = METRICS.into_iter().chain(LABELS).map(text).collect();
    // Codes of gRPC are named by tonic.
    let codes = ["Ok", "ResourceExhausted", "Unavailable", "Internal"];
    for Rule { alert, expr, .. } in rules() {
        let mut named = 0;
        for word in expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| w.starts_with("atoll_")) {
            let of_histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| word.strip_suffix(end));
            assert!(exist.contains(of_histogram.unwrap_or(word)), "{alert}: there is no {word}");
            named += 1;
        }
        assert!(named > 0, "{alert}: {expr}");
        for value in expr.split('"').skip(1).step_by(2).flat_map(|values| values.split('|')) {
            let stands = sources.contains(&format!("\"{value}\"")) || codes.contains(&value);
            assert!(stands, "{alert}: no label has the value {value}");
        }
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            assert_eq!(expr.matches(open).count(), expr.matches(close).count(), "{alert}: {expr}");
        }
        let page = text(&format!("docs/runbooks/{alert}.md"));
        for word in page.split(|c: char| c.is_whitespace() || "`'\"()^$,;:|?{}".contains(c)) {
            let path = word.trim_end_matches('.');
            if ["deploy/", "crds/", "examples/"].iter().any(|folder| path.starts_with(folder)) {
                assert!(root().join(path).exists(), "{alert}: its page names {path}");
            }
            // Not the log filter.
            if word.starts_with("atoll_") && !word.contains('=') {
                let known = exist.iter().any(|metric| metric.starts_with(word) || word.starts_with(metric.as_str()));
                assert!(known, "{alert}: its page names {word}");
            }
        }
    }
}
