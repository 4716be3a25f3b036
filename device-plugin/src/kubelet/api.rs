//! Generated from `proto/`, which documents it.

/// Device plugin API v1beta1.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1beta1 {
    include!("../generated/v1beta1.rs");
}

/// Pod resources API v1.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod podresources {
    include!("../generated/v1.rs");
}

/// The version of the device plugin API.
pub const VERSION: &str = "v1beta1";
/// Health of a device that may be given out.
pub const HEALTHY: &str = "Healthy";
/// Health of one that may not.
pub const UNHEALTHY: &str = "Unhealthy";
/// Name of the kubelet's socket in its folder for device plugins.
pub const KUBELET_SOCKET: &str = "kubelet.sock";
