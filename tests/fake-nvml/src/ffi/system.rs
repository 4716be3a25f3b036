//! Start, end, versions, errors.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlConfComputeSystemState_t, nvmlExcludedDeviceInfo_t, nvmlHwbcEntry_t, nvmlReturn_t, nvmlSystemDriverBranchInfo_t,
};

use super::pointer::{Out, Param, array};
use super::{Call, guarded, nvml};
use crate::code::{Answer, Code};
use crate::node;

fn init(function: &str) -> nvmlReturn_t {
    guarded(function, || {
        let host = node::numbered(node::selected())?;
        let mut state = host.lock();
        state.world().driver?;
        state.followed.world.failure(function, None)?;
        state.users = state.users.saturating_add(1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    init("nvmlInit_v2")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInit() -> nvmlReturn_t {
    init("nvmlInit")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    init("nvmlInitWithFlags")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    guarded("nvmlShutdown", || {
        let host = node::numbered(node::selected())?;
        let mut state = host.lock();
        state.users = state.users.checked_sub(1).ok_or(Code::UNINITIALIZED)?;
        if state.users == 0 {
            state.close();
            host.changed.notify_all();
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    Code::text(result).as_ptr()
}

/// Answered without nvmlInit, as the documentation says.
fn anytime(function: &str, body: impl FnOnce(&Call<'_>) -> Answer<()>) -> nvmlReturn_t {
    guarded(function, || {
        let host = node::numbered(node::selected())?;
        let call = Call { node: node::selected(), state: host.lock(), host: &host };
        body(&call)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    // SAFETY: the caller passes null or room for `length` bytes.
    let version: Out<c_char> = unsafe { version.take() };
    anytime("nvmlSystemGetNVMLVersion", |call| {
        version.text(length, &format!("{}.{}", call.world().cuda_version() / 1000, call.world().version))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion(cudaDriverVersion: *mut c_int) -> nvmlReturn_t {
    // SAFETY: the caller passes null or room for one number.
    let version: Out<c_int> = unsafe { cudaDriverVersion.take() };
    anytime("nvmlSystemGetCudaDriverVersion", |call| version.put(call.world().cuda_version()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion: *mut c_int) -> nvmlReturn_t {
    // SAFETY: the caller passes null or room for one number.
    let version: Out<c_int> = unsafe { cudaDriverVersion.take() };
    anytime("nvmlSystemGetCudaDriverVersion_v2", |call| {
        call.world().driver?;
        version.put(call.world().cuda_version())
    })
}

nvml! {
    fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) |call| {
        version.text(length, &call.world().version)
    }

    fn nvmlSystemGetDriverBranch(branchInfo: *mut nvmlSystemDriverBranchInfo_t, length: c_uint) |call| {
        branchInfo.version(1)?;
        let branch = format!("r{}_00", call.world().driver_version().0);
        if branch.len() >= length as usize {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        branchInfo.edit(|info| info.branch = array(&branch))
    }

    fn nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) |call| {
        let known = call.world().gpus.iter().flat_map(|gpu| &gpu.processes).find(|process| process.pid == pid);
        let known = known.ok_or(Code::NOT_FOUND)?;
        name.text(length, known.name.as_deref().unwrap_or("/usr/bin/python3"))
    }

    fn nvmlSystemGetHicVersion(hwbcCount: *mut c_uint, hwbcEntries: *mut nvmlHwbcEntry_t) |_call| {
        hwbcEntries.list(hwbcCount, &[])
    }

    fn nvmlUnitGetCount(unitCount: *mut c_uint) |_call| { unitCount.put(0) }

    fn nvmlGetExcludedDeviceCount(deviceCount: *mut c_uint) |_call| { deviceCount.put(0) }

    fn nvmlGetExcludedDeviceInfoByIndex(_index: c_uint, _info: *mut nvmlExcludedDeviceInfo_t) |_call| {
        Err(Code::INVALID_ARGUMENT)
    }

    fn nvmlSystemGetConfComputeState(state: *mut nvmlConfComputeSystemState_t) |_call| {
        state.put(nvmlConfComputeSystemState_t { environment: 0, ccFeature: 0, devToolsMode: 0 })
    }
}
