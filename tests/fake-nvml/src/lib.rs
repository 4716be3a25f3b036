//! A library with NVML's C interface and GPUs that exist only in it.
//!
//! Load it by path in place of `libnvidia-ml.so.1`. Environment:
//! - `ATOLL_FAKE_NVML_NODE`: the GPUs, such as `h100:8`, `a100/3g.40gb,2g.20gb,1g.10gb*2:4`, `l40s:4+rtx4090:2`, `mixed`;
//!   then perhaps `driver=570.86.15` and `seed=7` ([`Spec`], [`MODELS`]). Without: `h100:8`.
//! - `ATOLL_FAKE_NVML_CONTROL`: a control file to follow ([`Control`]). It may name the GPUs itself.
//! - `ATOLL_FAKE_NVML_LATENCY=recorded`: each call takes the time that is typical for it on a real machine.
//!
//! Commands (G: a GPU by its slot, which is its index so long as none was taken out):
//! ```text
//! xid G NUMBER [gi=N] [ci=N]            event G KIND|BIT [data=N] [gi=N] [ci=N]
//! recovery G none|reset|reboot|drain-p2p|drain-and-reset|bus-reset|NUMBER
//! lost G        found G        reset G  unplug G       plug G|MODEL
//! process G PID MIB [graphics] [gi=N] [ci=N] [name=PATH]   exit PID
//! memory G MIB                          load G PERCENT|auto
//! temperature G DEGREES|auto            memory-temperature G DEGREES|auto
//! power G MILLIWATTS|auto               throttle G none|sw-power|sw-thermal|hw|hw-thermal|power-brake
//! ecc G corrected|uncorrected N [dram|sram]                ecc G threshold
//! remap G pending|failed|none           remap G corrected|uncorrected N
//! retire G single|double N              retire G pending|none
//! nvlink G LINK up|down                 nvlink G LINK replays|recoveries|crc|crc-data|ecc N
//! pcie-replays G N                      mig G off|on|LAYOUT
//! license G on|off                      (it is virtual from then on)
//! driver absent|mismatch|present|VERSION
//! fail G|any FUNCTION CODE [TIMES]      work FUNCTION
//! clock +SECONDS|stop|run
//! ```
//!
//! Several nodes in one process: [`World`] without C, or, through the C interface, `atollFakeNvmlSelect(path)`, which
//! makes the calling thread talk to the node of that control file. What needs privileges (setting limits, dividing GPUs)
//! answers `NVML_ERROR_NO_PERMISSION`, virtual GPUs and units `NVML_ERROR_NOT_SUPPORTED`: as on a node's GPUs for a
//! program without rights.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic, clippy::float_cmp, reason = "these are tests"))]

mod activity;
mod code;
mod command;
pub mod ffi;
mod gpu;
mod journal;
mod latency;
mod mig;
mod model;
mod node;
mod spec;
mod world;

pub use activity::Activity;
pub use code::{Answer, Code};
pub use gpu::{Ecc, Gpu, Link, Process, Remap};
pub use journal::Control;
pub use mig::{ComputeInstance, GpuInstance, Layout};
pub use model::{MODELS, Model};
pub use spec::{Invalid, Spec};
pub use world::{Event, NO_INSTANCE, World};
