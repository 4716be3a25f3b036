//! The shipped catalogue of GPU models.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;

use atoll_api::{GpuModel, Vendor, Workload};
use atoll_core::catalogue::{Entry, identify};

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
fn every_model_is_recognised_by_each_of_its_names_and_its_memory() {
    let models = models();
    for model in &models {
        for alias in &model.spec.aliases {
            // What drivers and ECC keep for themselves must not turn a model into another.
            for memory in [model.spec.memory_mib, model.spec.memory_mib * 93 / 100] {
                let entries = models.iter().map(|model| Entry {
                    name: model.metadata.name.as_deref().unwrap(),
                    memory_mib: model.spec.memory_mib.unsigned_abs(),
                    aliases: &model.spec.aliases,
                });
                assert_eq!(identify(alias, memory.unsigned_abs(), entries), model.metadata.name.as_deref(), "{alias}");
            }
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
