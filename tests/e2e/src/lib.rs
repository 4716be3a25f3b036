//! A whole network on one machine: a hub and Sites, each with a real etcd and API server, and Atoll's own processes
//! between them. Only the nodes are simulated.
//!
//! End-to-end tests, the demo and the benchmarks start the same [`Network`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod clusters;
pub mod demo_network;
pub mod device_plugin;
pub mod faults;
pub mod holding_proxy;
pub mod hub;
pub mod judge;
pub mod link;
pub mod manifests;
pub mod network;
pub mod site;
pub mod watchdog;

pub use device_plugin::DevicePlugin;
pub use hub::Hub;
pub use link::Link;
pub use network::{Network, NetworkOptions};
pub use site::{Site, SiteOptions};
pub use watchdog::Watchdog;
