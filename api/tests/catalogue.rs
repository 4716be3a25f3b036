//! The shipped catalogue of GPU models.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;

use atoll_api::{GpuModel, Vendor, Workload};

fn models() -> Vec<GpuModel> {
    common::catalogue().into_iter().map(|model| serde_json::from_value(model).unwrap()).collect()
}

/// As names are compared: without regard to case, blanks and dashes alike.
fn folded(alias: &str) -> String {
    alias.to_lowercase().replace(' ', "-")
}

#[test]
fn a_name_and_a_memory_mean_one_model() {
    let models = models();
    assert!(models.len() >= 60);
    let mut names = BTreeSet::new();
    let mut reported = BTreeSet::new();
    for model in &models {
        let name = model.metadata.name.as_ref().unwrap();
        assert!(names.insert(name), "{name} twice");
        let aliases: BTreeSet<_> = model.spec.aliases.iter().map(|alias| folded(alias)).collect();
        for alias in aliases {
            assert!(reported.insert((alias.clone(), model.spec.memory_mib)), "{alias} twice");
        }
    }
}

#[test]
fn models_that_share_a_name_differ_enough_in_memory_to_be_told_apart() {
    let models = models();
    for (index, one) in models.iter().enumerate() {
        for other in &models[index + 1..] {
            let shared = one.spec.aliases.iter().any(|a| other.spec.aliases.iter().any(|b| folded(a) == folded(b)));
            let (small, large) =
                (one.spec.memory_mib.min(other.spec.memory_mib), one.spec.memory_mib.max(other.spec.memory_mib));
            assert!(!shared || small * 11 < large * 10, "{:?} and {:?}", one.metadata.name, other.metadata.name);
        }
    }
}

#[test]
fn every_nvidia_model_has_the_name_of_nvml_and_of_feature_discovery() {
    for model in models().iter().filter(|model| model.spec.vendor == Vendor::Nvidia) {
        let nvml = &model.spec.aliases[0];
        assert!(model.spec.aliases.contains(&nvml.replace(' ', "-")), "{nvml}");
    }
}

#[test]
fn scores_are_relative_to_the_rtx_4090() {
    let models = models();
    let score = |name: &str| {
        models.iter().find(|model| model.metadata.name.as_deref() == Some(name)).unwrap().spec.compute_score
    };
    assert_eq!(score("rtx-4090"), 1000);
    assert!(score("h100-sxm5-80gb") > score("a100-sxm4-80gb"));
    assert!(score("a100-sxm4-80gb") > score("rtx-3090"));
    assert!(score("apple-m3-ultra") > score("apple-m3-max"));
}

#[test]
fn apple_and_small_cards_are_not_offered_for_training() {
    for model in models() {
        let trains = model.spec.workloads.contains(&Workload::Training);
        let small = model.spec.vendor == Vendor::Apple || model.spec.memory_mib < 15_000;
        assert!(!(trains && small), "{:?}", model.metadata.name);
        assert!(model.spec.workloads.contains(&Workload::Inference), "{:?}", model.metadata.name);
    }
}
