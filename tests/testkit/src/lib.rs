//! A real Kubernetes for tests: control planes, simulated nodes and a real node as child processes that end with the test.
//!
//! The programs come from `make tools`; nothing is downloaded at test time.
//! See the crate's README for an example and for what each part costs.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "these are tests"))]

pub mod audit;
pub mod binaries;
pub mod controlplane;
mod error;
pub mod kubeconfig;
pub mod kwok;
mod locks;
pub mod machine;
pub mod nodes;
pub mod oci;
pub mod pki;
pub mod ports;
pub mod process;
pub mod realnode;
pub mod scratch;
pub mod skip;
pub mod tools;
pub mod wait;

pub use audit::{Audit, AuditEvent};
pub use binaries::fake_nvml;
pub use controlplane::{AuditLevel, ControlPlane, ControlPlaneOptions};
pub use error::{Error, Result};
pub use kwok::Kwok;
pub use machine::{Direction, Machine, Wire};
pub use nodes::NodeProfile;
pub use process::{ManagedProcess, ProcessSpec};
