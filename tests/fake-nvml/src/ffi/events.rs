//! Events, and waiting for them.

use std::ffi::{c_uint, c_ulonglong};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t, nvmlReturn_t};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::pointer::{Handle, Kind, Out, Param as _};
use super::{guarded, nvml};
use crate::code::{Answer, Code};
use crate::gpu::Gpu;
use crate::node;
use crate::node::EventSet;
use crate::world::{Event, World};

/// How often a control file is looked at while nobody says that it changed: it is not there yet, or the machine has no
/// more watches to give.
const LOOK: Duration = Duration::from_millis(20);

/// The kinds that a GPU reports.
fn supported(world: &World, gpu: &Gpu) -> u64 {
    // P-state, XID, clock.
    let mut bits = 0x4 | 0x8 | 0x10;
    if gpu.model.ecc {
        bits |= 0x1 | 0x2;
    }
    if gpu.model.mig.is_some() {
        bits |= 0x100;
    }
    if world.driver_version().0 >= 580 {
        // Unavailable, recovery action; and what has to do with ECC: storm, retirement, poison.
        bits |= if gpu.model.ecc { 0xfe00 } else { 0xc000 };
    }
    bits
}

nvml! {
    fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) |call| {
        let number = call.state.number();
        let handle = Handle { kind: Kind::EventSet, node: call.node, payload: number };
        set.put(handle.pointer())?;
        call.state.sets.insert(number, EventSet::default());
        Ok(())
    }

    fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, eventTypes: *mut c_ulonglong) |call| {
        eventTypes.put(supported(call.world(), call.gpu(device)?))
    }

    fn nvmlDeviceRegisterEvents(device: nvmlDevice_t, eventTypes: c_ulonglong, set: nvmlEventSet_t) |call| {
        let number = Handle::of(set, Kind::EventSet)?.payload;
        let gpu = call.gpu(device)?;
        let slot = gpu.slot;
        let known = supported(call.world(), gpu);
        let found = call.state.sets.get_mut(&number).ok_or(Code::INVALID_ARGUMENT)?;
        if eventTypes & !known != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        *found.registered.entry(slot).or_default() |= eventTypes;
        Ok(())
    }

    fn nvmlEventSetFree(set: nvmlEventSet_t) |call| {
        let number = Handle::of(set, Kind::EventSet)?.payload;
        call.state.sets.remove(&number).ok_or(Code::INVALID_ARGUMENT)?;
        call.host.changed.notify_all();
        Ok(())
    }
}

/// Waits until something writes to the control file or the time is over.
fn pause(watch: Option<&OwnedFd>, left: Duration) {
    let Some(watch) = watch else {
        std::thread::sleep(left.min(LOOK));
        return;
    };
    let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    // Interrupted or not: the caller looks again.
    let _ = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&left));
}

fn watch(path: &Path) -> Option<OwnedFd> {
    let descriptor = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
    let changes = inotify::WatchFlags::MODIFY | inotify::WatchFlags::ATTRIB | inotify::WatchFlags::MOVE_SELF;
    inotify::add_watch(&descriptor, path, changes).ok()?;
    Some(descriptor)
}

fn wait(function: &str, set: Handle, limit: Duration) -> Answer<(u16, Event)> {
    let until = Instant::now() + limit;
    let host = node::numbered(set.node)?;
    loop {
        let path = {
            let state = host.lock();
            state.followed.path().map(Path::to_path_buf)
        };
        // Before the look at what came, so that nothing comes unnoticed in between.
        let watch = path.as_deref().and_then(watch);
        let mut state = host.lock();
        if state.users == 0 {
            return Err(Code::UNINITIALIZED);
        }
        state.world().driver?;
        state.followed.world.failure(function, None)?;
        let found = state.sets.get_mut(&set.payload).ok_or(Code::INVALID_ARGUMENT)?;
        if let Some(event) = found.waiting.pop_front() {
            return Ok((set.node, event));
        }
        let slots: Vec<_> = found.registered.keys().copied().collect();
        let gpus = &state.world().gpus;
        if slots.iter().any(|slot| gpus.get(*slot as usize).is_none_or(|gpu| gpu.lost || !gpu.present)) {
            return Err(Code::GPU_IS_LOST);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Code::TIMEOUT);
        }
        if path.is_some() {
            drop(state);
            pause(watch.as_ref(), left);
        } else {
            drop(host.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// What both versions of the struct begin with.
#[repr(C)]
#[derive(Clone, Copy)]
struct EventDataV1 {
    device: nvmlDevice_t,
    kind: c_ulonglong,
    data: c_ulonglong,
}

fn wait_into(
    function: &str,
    set: nvmlEventSet_t,
    limit: c_uint,
    write: impl FnOnce(nvmlEventData_t) -> Answer<()>,
) -> nvmlReturn_t {
    guarded(function, || {
        // SAFETY: a handle, which is never followed.
        let set = Handle::of(unsafe { set.take() }, Kind::EventSet).or_else(|error| {
            // Without nvmlInit that is what has to be said first.
            let host = node::numbered(node::selected())?;
            Err(if host.lock().users == 0 { Code::UNINITIALIZED } else { error })
        })?;
        let (node, event) = wait(function, set, Duration::from_millis(u64::from(limit)))?;
        write(nvmlEventData_t {
            device: Handle { kind: Kind::Gpu, node, payload: event.slot << 24 }.pointer(),
            eventType: event.kind,
            eventData: event.data,
            gpuInstanceId: event.gpu_instance,
            computeInstanceId: event.compute_instance,
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    data: *mut nvmlEventData_t,
    timeoutms: c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller passes null or room for the struct.
    let data: Out<nvmlEventData_t> = unsafe { data.take() };
    if data.is_null() {
        return Code::INVALID_ARGUMENT.0;
    }
    wait_into("nvmlEventSetWait_v2", set, timeoutms, |event| data.put(event))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait(
    set: nvmlEventSet_t,
    data: *mut nvmlEventData_t,
    timeoutms: c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller passes null or room for the first version of the struct, which is the beginning of this one.
    let data: Out<EventDataV1> = unsafe { data.take() }.beginning();
    wait_into("nvmlEventSetWait", set, timeoutms, |event| {
        data.put(EventDataV1 { device: event.device, kind: event.eventType, data: event.eventData })
    })
}
