//! NVML's C interface. nvml.h documents the functions; here they answer for the node of the calling thread or of the
//! handle that they are given.

#![allow(unsafe_code, reason = "pointers come from C")]
#![allow(missing_docs, clippy::missing_safety_doc, reason = "nvml.h documents them")]
#![allow(non_snake_case, reason = "names of C functions")]

pub mod events;
pub mod fields;
pub mod gpm;
pub mod identity;
pub mod links;
pub mod memory;
pub mod mig;
mod pointer;
pub mod processes;
pub mod refused_change;
pub mod refused_other;
pub mod refused_vgpu;
pub mod sensors;
pub mod system;
pub mod topology;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::MutexGuard;
use std::time::Instant;

use nvml_wrapper_sys::bindings::{nvmlDevice_st, nvmlReturn_t};

use crate::code::{Answer, Code};
use crate::gpu::Gpu;
use crate::latency;
use crate::mig::{ComputeInstance, GpuInstance};
use crate::node::{self, Node, State};
use crate::world::World;
use pointer::{Handle, Kind, Out, Param};

/// Declares functions of the C interface. Pointers arrive in the body as [`Out`], which checks them for null.
/// Every function fails first with `UNINITIALIZED` where it has to, then with what a command asked for.
macro_rules! nvml {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) |$call:ident| $body:block)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
            // SAFETY: the contract of the C interface: pointers are null, or point to what their types say.
            $(let $argument = unsafe { $crate::ffi::pointer::Param::take($argument) };)*
            let handles = [$($crate::ffi::pointer::handle(&$argument)),*];
            $crate::ffi::answer(stringify!($name), &handles, |$call| $body)
        }
    )*};
}
pub(crate) use nvml;

/// Declares functions that check their arguments and then answer with one error.
macro_rules! refused {
    ($code:ident: $(fn $name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
            // SAFETY: nothing is read or written through them.
            $(let $argument = unsafe { $crate::ffi::pointer::Param::take($argument) };)*
            let handles = [$($crate::ffi::pointer::handle(&$argument)),*];
            let null = [$($crate::ffi::pointer::Seen::address(&$argument) == Some(0)),*].contains(&true);
            let of_device = [$(stringify!($argument)),*].first() == Some(&"device");
            $crate::ffi::answer(stringify!($name), &handles, |call| {
                if of_device {
                    call.answering(handles.first().copied().flatten())?;
                }
                Err(if null { $crate::code::Code::INVALID_ARGUMENT } else { $crate::code::Code::$code })
            })
        }
    )*};
}
pub(crate) use refused;

/// One call under the lock of its node.
pub(crate) struct Call<'a> {
    node: u16,
    state: MutexGuard<'a, State>,
    host: &'a Node,
}

/// What a device handle means.
pub(crate) enum Subject<'a> {
    Gpu(&'a Gpu),
    Instance(&'a Gpu, &'a GpuInstance, &'a ComputeInstance),
}

/// The GPU itself, and the instance of it.
fn parent(subject: Subject<'_>) -> (&Gpu, Option<(&GpuInstance, &ComputeInstance)>) {
    match subject {
        Subject::Gpu(gpu) => (gpu, None),
        Subject::Instance(gpu, instance, compute) => (gpu, Some((instance, compute))),
    }
}

/// Runs a call; nothing unwinds into C.
fn answer(function: &str, handles: &[Option<Handle>], body: impl FnOnce(&mut Call<'_>) -> Answer<()>) -> nvmlReturn_t {
    guarded(function, || {
        let handle = handles.iter().flatten().next();
        let number = handle.map_or_else(node::selected, |handle| handle.node);
        let host = node::numbered(number)?;
        let mut call = Call { node: number, state: host.lock(), host: &host };
        if call.state.users == 0 {
            return Err(Code::UNINITIALIZED);
        }
        call.world().driver?;
        let slot = handle.filter(|handle| handle.kind.is_of_gpu()).map(|handle| handle.slot());
        call.state.followed.world.failure(function, slot)?;
        body(&mut call)
    })
}

/// Runs what a C function does, in its typical time.
fn guarded(function: &str, body: impl FnOnce() -> Answer<()>) -> nvmlReturn_t {
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Code::UNKNOWN));
    latency::spend(function, began);
    match result {
        Ok(()) => 0,
        Err(code) => code.0,
    }
}

impl Call<'_> {
    fn world(&self) -> &World {
        self.state.world()
    }

    /// Virtual seconds.
    fn now(&self) -> f64 {
        self.state.now()
    }

    fn handle(&self, kind: Kind, slot: u32, serial: u32) -> Handle {
        Handle { kind, node: self.node, payload: slot << 24 | serial & 0xff_ffff }
    }

    fn gpu_handle(&self, gpu: &Gpu) -> Answer<Handle> {
        if gpu.lost { Err(Code::GPU_IS_LOST) } else { Ok(self.handle(Kind::Gpu, gpu.slot, 0)) }
    }

    /// The GPU of a slot, if it answers.
    fn slot(&self, slot: u32) -> Answer<&Gpu> {
        let gpu = self.world().gpus.get(slot as usize).ok_or(Code::INVALID_ARGUMENT)?;
        if gpu.lost || !gpu.present { Err(Code::GPU_IS_LOST) } else { Ok(gpu) }
    }

    /// The GPU of a handle, which must not be one of an instance.
    fn gpu(&self, device: Out<nvmlDevice_st>) -> Answer<&Gpu> {
        match self.subject(device)? {
            Subject::Gpu(gpu) => Ok(gpu),
            Subject::Instance(..) => Err(Code::INVALID_ARGUMENT),
        }
    }

    /// The handle is one of a device that answers.
    fn answering(&self, handle: Option<Handle>) -> Answer<()> {
        self.device(handle).map(|_| ())
    }

    fn subject(&self, device: Out<nvmlDevice_st>) -> Answer<Subject<'_>> {
        self.device(pointer::handle(&device))
    }

    fn device(&self, handle: Option<Handle>) -> Answer<Subject<'_>> {
        let handle = handle.ok_or(Code::INVALID_ARGUMENT)?;
        if !matches!(handle.kind, Kind::Gpu | Kind::Instance) {
            return Err(Code::INVALID_ARGUMENT);
        }
        let gpu = self.slot(handle.slot())?;
        if handle.kind == Kind::Gpu {
            return Ok(Subject::Gpu(gpu));
        }
        for instance in gpu.mig.iter().flatten() {
            if let Some(compute) = instance.compute.iter().find(|compute| compute.serial == handle.serial()) {
                return Ok(Subject::Instance(gpu, instance, compute));
            }
        }
        // It was divided anew since.
        Err(Code::INVALID_ARGUMENT)
    }

    /// Microseconds since 1970.
    fn timestamp(&self) -> u64 {
        self.state.timestamp()
    }
}

/// The calling thread talks to the node of this control file from now on; null: to that of the environment.
/// Not part of NVML.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn atollFakeNvmlSelect(path: *const std::ffi::c_char) -> nvmlReturn_t {
    // SAFETY: the caller passes null or text that ends with a zero byte.
    let path = unsafe { Param::take(path) };
    guarded("atollFakeNvmlSelect", || {
        let path = path.string().ok().map(std::path::PathBuf::from);
        node::select(path)
    })
}
