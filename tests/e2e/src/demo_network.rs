//! The network that the demo shows and the benchmarks measure: Sites of different kind, 172 nodes in all.

use atoll_testkit::nodes::NodeProfile;

use crate::site::SiteOptions;

/// A data center with H100s, gaming PCs with RTX 4090s, a campus with A100s and consumer cards.
#[must_use]
pub fn sites() -> Vec<SiteOptions> {
    let rtx3090 = NodeProfile { gpu_product: "NVIDIA-GeForce-RTX-3090".to_owned(), ..NodeProfile::rtx4090() };
    vec![
        SiteOptions::new("fjord-dc", "eu-north", "fjord", vec![NodeProfile::h100().named("h100", 72)]),
        SiteOptions {
            trust: "Untrusted".to_owned(),
            ..SiteOptions::new("lan-party", "us-east", "gamers", vec![NodeProfile::rtx4090().named("pc", 60)])
        },
        SiteOptions::new(
            "campus",
            "ap-south",
            "university",
            vec![
                NodeProfile::a100().named("a100", 16),
                NodeProfile::rtx4090().named("ws", 16).gpus_each(2),
                rtx3090.named("lab", 8),
            ],
        ),
    ]
}
