//! The GPUs of one node: what they are, how they are, who holds them; told to the kubelet, the Site and Prometheus.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod args;
pub mod attribution;
pub mod backend;
pub mod engine;
pub mod gpu_node;
pub mod kubelet;
pub mod metrics;
pub mod nvidia;
pub mod process;
pub mod state;
