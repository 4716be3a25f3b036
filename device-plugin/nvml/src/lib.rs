//! A safe interface to the part of NVML that Atoll uses.
//!
//! It stands on the bindings alone (`nvml-wrapper-sys`), not on `nvml-wrapper`. The wrapper hides what this product
//! lives from: the instance ids of events and of MIG devices, the newer kinds of events, remapped rows. Its `Nvml` can
//! be mixed with calls of one's own, but then two layers own one library, handles pass between them as raw pointers,
//! and its `Drop` panics where the driver is half gone. One layer is less, and each rule stands once:
//!
//! - A [`Device`], an [`EventSet`] and a [`GpmSample`] keep the library loaded and initialised, so no handle outlives
//!   what it points into; the last of them shuts the library down.
//! - A function that the installed driver does not have yet answers [`Code::FUNCTION_NOT_FOUND`], as NVML itself says
//!   it of functions that it has and the kernel's part has not. Nothing here panics.
//! - Only functions that read are here. Nothing changes the state of a GPU.
//!
//! This is the only place of the product with unsafe code.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod call;
mod device;
mod error;
mod event;
mod field;
mod gpm;
mod library;

pub use device::{Device, Memory, MigAttributes, NvLinkPeer, Process, SramErrors, Threshold, Topology, Utilization};
pub use error::{Code, Error};
pub use event::{EventData, EventSet, event_bits};
pub use field::{Field, Value, fields};
pub use gpm::{GpmSample, metrics as gpm_metrics};
pub use library::{Nvml, find_library};
