//! The C interface itself: what it says of wrong arguments, and what the safe wrapper does not pass on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]
#![allow(unsafe_code, reason = "calls of C functions with pointers to variables of their types")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "all pointers are null, handles, or to variables of the right type"
)]

mod common;

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

use common::Node;
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlDevice_t, nvmlEccSramErrorStatus_t, nvmlEventData_t, nvmlEventSet_t, nvmlFieldValue_t,
    nvmlGpmMetricsGet_t, nvmlGpmSample_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlProcessInfo_t,
};

const UNINITIALIZED: u32 = 1;
const INVALID_ARGUMENT: u32 = 2;
const NOT_SUPPORTED: u32 = 3;
const NO_PERMISSION: u32 = 4;
const NOT_FOUND: u32 = 6;
const INSUFFICIENT_SIZE: u32 = 7;
const TIMEOUT: u32 = 10;
const GPU_IS_LOST: u32 = 15;
const VERSION_MISMATCH: u32 = 25;

fn device(library: &NvmlLib, index: u32) -> nvmlDevice_t {
    let mut device = null_mut();
    assert_eq!(unsafe { library.nvmlDeviceGetHandleByIndex_v2(index, &raw mut device) }, 0);
    device
}

fn part(library: &NvmlLib, gpu: nvmlDevice_t, index: u32) -> nvmlDevice_t {
    let mut device = null_mut();
    assert_eq!(unsafe { library.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index, &raw mut device) }, 0);
    device
}

fn text(call: impl FnOnce(*mut c_char, u32) -> u32) -> String {
    let mut buffer = [0; 96];
    assert_eq!(call(buffer.as_mut_ptr(), 96), 0);
    unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap().to_owned()
}

fn field(library: &NvmlLib, gpu: nvmlDevice_t, id: u32, scope: u32) -> Result<(u32, u64), u32> {
    let mut value: nvmlFieldValue_t = unsafe { std::mem::zeroed() };
    (value.fieldId, value.scopeId) = (id, scope);
    assert_eq!(unsafe { library.nvmlDeviceGetFieldValues(gpu, 1, &raw mut value) }, 0);
    match value.nvmlReturn {
        0 => Ok((value.valueType, unsafe { value.value.ullVal })),
        code => Err(code),
    }
}

fn event(library: &NvmlLib, set: nvmlEventSet_t, limit: u32) -> Result<nvmlEventData_t, u32> {
    let mut data: nvmlEventData_t = unsafe { std::mem::zeroed() };
    match unsafe { library.nvmlEventSetWait_v2(set, &raw mut data, limit) } {
        0 => Ok(data),
        code => Err(code),
    }
}

#[test]
fn wrong_arguments_get_the_documented_errors() {
    let node = Node::new("h100:2");
    let library = node.library();
    let gpu = device(&library, 0);
    let mut number = 0;
    let mut stack = 7_u64;
    let wild: nvmlDevice_t = (&raw mut stack).cast();
    unsafe {
        assert_eq!(library.nvmlDeviceGetTemperature(gpu, 0, null_mut()), INVALID_ARGUMENT);
        assert_eq!(library.nvmlDeviceGetTemperature(null_mut(), 0, &raw mut number), INVALID_ARGUMENT);
        assert_eq!(library.nvmlDeviceGetTemperature(wild, 0, &raw mut number), INVALID_ARGUMENT);
        assert_eq!(library.nvmlDeviceGetTemperature(gpu, 9, &raw mut number), INVALID_ARGUMENT);
        assert_eq!(library.nvmlDeviceGetHandleByIndex_v2(2, null_mut()), INVALID_ARGUMENT);
        let mut short = [0; 8];
        assert_eq!(library.nvmlDeviceGetUUID(gpu, short.as_mut_ptr(), 8), INSUFFICIENT_SIZE);
        assert_eq!(short, [0; 8]);
        let mut other = null_mut();
        assert_eq!(library.nvmlDeviceGetHandleByUUID(c"GPU-none".as_ptr(), &raw mut other), NOT_FOUND);
        assert_eq!(library.nvmlDeviceSetPowerManagementLimit(gpu, 300_000), NO_PERMISSION);
        assert_eq!(library.nvmlDeviceSetPowerManagementLimit(wild, 300_000), INVALID_ARGUMENT);
        assert_eq!(library.nvmlDeviceGetActiveVgpus(gpu, &raw mut number, null_mut()), INVALID_ARGUMENT);
        assert_eq!(library.nvmlDeviceGetActiveVgpus(gpu, &raw mut number, &raw mut number), NOT_SUPPORTED);
        assert_eq!(library.nvmlEventSetWait_v2(null_mut(), null_mut(), 0), INVALID_ARGUMENT);
        assert_eq!(CStr::from_ptr(library.nvmlErrorString(15)), c"GPU is lost");
        assert_eq!(library.nvmlShutdown(), 0);
        assert_eq!(library.nvmlDeviceGetTemperature(gpu, 0, &raw mut number), UNINITIALIZED);
        assert_eq!(library.nvmlShutdown(), UNINITIALIZED);
    }
}

#[test]
fn structs_with_versions_are_checked() {
    let node = Node::new("h100:1");
    let library = node.library();
    let gpu = device(&library, 0);
    let mut memory: nvmlMemory_v2_t = unsafe { std::mem::zeroed() };
    let mut sram: nvmlEccSramErrorStatus_t = unsafe { std::mem::zeroed() };
    unsafe {
        assert_eq!(library.nvmlDeviceGetMemoryInfo_v2(gpu, &raw mut memory), VERSION_MISMATCH);
        memory.version = u32::try_from(size_of_val(&memory)).unwrap() | 2 << 24;
        assert_eq!(library.nvmlDeviceGetMemoryInfo_v2(gpu, &raw mut memory), 0);
        let mut first: nvmlMemory_t = std::mem::zeroed();
        assert_eq!(library.nvmlDeviceGetMemoryInfo(gpu, &raw mut first), 0);
        assert_eq!(first.used, memory.used + memory.reserved);
        assert_eq!(library.nvmlDeviceGetSramEccErrorStatus(gpu, &raw mut sram), VERSION_MISMATCH);
        sram.version = u32::try_from(size_of_val(&sram)).unwrap() | 1 << 24;
        assert_eq!(library.nvmlDeviceGetSramEccErrorStatus(gpu, &raw mut sram), 0);
    }
}

#[test]
fn a_divided_gpu_has_parts_with_names_processes_and_events_of_their_own() {
    let mut node = Node::new("a100/3g.40gb=1c-2c,2g.20gb,1g.10gb*2:2");
    let library = node.library();
    let gpu = device(&library, 1);
    let names: Vec<_> = (0..5)
        .map(|index| part(&library, gpu, index))
        .map(|part| text(|into, room| unsafe { library.nvmlDeviceGetName(part, into, room) }))
        .map(|name| name.strip_prefix("NVIDIA A100-SXM4-80GB MIG ").unwrap().to_owned())
        .collect();
    assert_eq!(names, ["1c.3g.40gb", "2c.3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"]);
    let mut beyond = null_mut();
    let (mut count, mut id) = (0, 0);
    unsafe {
        assert_eq!(library.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 5, &raw mut beyond), NOT_FOUND);
        assert_eq!(library.nvmlDeviceGetMaxMigDeviceCount(gpu, &raw mut count), 0);
        assert_eq!(count, 7);
    }
    let last = part(&library, gpu, 4);
    let mut parent = null_mut();
    unsafe {
        assert_eq!(library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(last, &raw mut parent), 0);
        assert_eq!(parent, gpu);
        assert_eq!(library.nvmlDeviceGetGpuInstanceId(last, &raw mut id), 0);
        assert_eq!(library.nvmlDeviceGetTemperature(last, 0, &raw mut count), INVALID_ARGUMENT);
        let mut rates = std::mem::zeroed();
        assert_eq!(library.nvmlDeviceGetUtilizationRates(gpu, &raw mut rates), NOT_SUPPORTED);
    }

    node.send(&format!("process 1 77 512 gi={id} ci=0"));
    let mut found: [nvmlProcessInfo_t; 4] = unsafe { std::mem::zeroed() };
    for (handle, expected) in [(last, 1), (part(&library, gpu, 0), 0), (gpu, 1)] {
        let mut count = 4;
        let code =
            unsafe { library.nvmlDeviceGetComputeRunningProcesses_v3(handle, &raw mut count, found.as_mut_ptr()) };
        assert_eq!((code, count), (0, expected));
    }
    assert_eq!((found[0].pid, found[0].gpuInstanceId, found[0].computeInstanceId), (77, id, 0));
    let mut room = 0;
    let code = unsafe { library.nvmlDeviceGetComputeRunningProcesses_v3(gpu, &raw mut room, null_mut()) };
    assert_eq!((code, room), (INSUFFICIENT_SIZE, 1));

    let mut set = null_mut();
    unsafe {
        assert_eq!(library.nvmlEventSetCreate(&raw mut set), 0);
        assert_eq!(library.nvmlDeviceRegisterEvents(gpu, 0x8 | 0x100, set), 0);
    }
    node.send(&format!("xid 1 94 gi={id} ci=0"));
    node.send("xid 1 79");
    let one = event(&library, set, 0).unwrap();
    assert_eq!((one.eventType, one.eventData, one.gpuInstanceId, one.computeInstanceId), (8, 94, id, 0));
    let whole = event(&library, set, 0).unwrap();
    assert_eq!((whole.eventData, whole.gpuInstanceId, whole.computeInstanceId), (79, u32::MAX, u32::MAX));
    assert_eq!(whole.device, gpu);

    let uuid = text(|into, room| unsafe { library.nvmlDeviceGetUUID(last, into, room) });
    node.send("mig 1 1g.10gb*7");
    assert_eq!(event(&library, set, 0).unwrap().eventType, 0x100);
    let mut buffer = [0; 96];
    unsafe {
        assert_eq!(library.nvmlDeviceGetUUID(last, buffer.as_mut_ptr(), 96), INVALID_ARGUMENT);
    }
    assert_ne!(text(|into, room| unsafe { library.nvmlDeviceGetUUID(part(&library, gpu, 4), into, room) }), uuid);
    node.send("mig 1 off");
    let (mut current, mut pending) = (9, 9);
    unsafe {
        assert_eq!(library.nvmlDeviceGetMigMode(gpu, &raw mut current, &raw mut pending), 0);
    }
    assert_eq!((current, pending), (0, 0));
}

#[test]
fn waiting_keeps_its_time_and_says_when_a_gpu_is_lost() {
    let mut node = Node::new("h100:8");
    let library = node.library();
    let mut set = null_mut();
    let mut bits = 0;
    unsafe {
        assert_eq!(library.nvmlEventSetCreate(&raw mut set), 0);
        for index in 0..8 {
            let gpu = device(&library, index);
            assert_eq!(library.nvmlDeviceGetSupportedEventTypes(gpu, &raw mut bits), 0);
            assert_eq!(library.nvmlDeviceRegisterEvents(gpu, bits, set), 0);
            assert_eq!(library.nvmlDeviceRegisterEvents(gpu, 1 << 40, set), NOT_SUPPORTED);
        }
    }
    assert_eq!(bits & 0xfe00, 0xfe00);
    let began = std::time::Instant::now();
    assert_eq!(event(&library, set, 60).err(), Some(TIMEOUT));
    assert!((60..500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());

    node.send("recovery 2 drain-and-reset");
    let changed = event(&library, set, 0).unwrap();
    assert_eq!((changed.eventType, changed.eventData, changed.device), (0x8000, 4, device(&library, 2)));
    assert_eq!(field(&library, device(&library, 2), 230, 0), Ok((1, 4)));
    node.send("xid 3 79");
    node.send("lost 3");
    assert_eq!(event(&library, set, 0).unwrap().eventData, 79);
    assert_eq!(event(&library, set, 1000).err(), Some(GPU_IS_LOST));
    node.send("reset 3");
    assert_eq!(event(&library, set, 0).err(), Some(TIMEOUT));
    unsafe {
        assert_eq!(library.nvmlEventSetFree(set), 0);
    }
    assert_eq!(event(&library, set, 0).err(), Some(INVALID_ARGUMENT));
}

#[test]
fn faults_are_counted_where_programs_look_for_them() {
    let mut node = Node::new("h100:2+rtx4090:1");
    let library = node.library();
    let gpu = device(&library, 0);
    for command in [
        "remap 0 uncorrected 2",
        "remap 0 pending",
        "ecc 0 uncorrected 1",
        "ecc 0 corrected 9 sram",
        "nvlink 0 4 down",
        "nvlink 0 5 recoveries 3",
        "temperature 0 95",
        "memory-temperature 0 101",
        "pcie-replays 0 12",
        "throttle 0 power-brake",
        "clock stop",
        "clock +10",
    ] {
        node.send(command);
    }
    for (id, scope, value) in [
        (143, 0, 2),
        (144, 0, 1),
        (4, 0, 1),
        (3, 0, 9),
        (162, 5, 3),
        (162, u32::MAX, 3),
        (165, 4, 0),
        (165, 5, 1),
        (82, 0, 101),
        (94, 0, 12),
    ] {
        assert_eq!(field(&library, gpu, id, scope).map(|(_, value)| value), Ok(value), "{id} {scope}");
    }
    // The default driver numbers the reasons of clocks from 269 on.
    assert!(field(&library, gpu, 271, 0).unwrap().1 >= 10_000_000_000);
    assert!(field(&library, gpu, 270, 0).unwrap().1 >= 10_000_000_000);
    assert_eq!(field(&library, gpu, 253, 0).err(), Some(NOT_SUPPORTED));
    assert_eq!(field(&library, gpu, 9999, 0).err(), Some(INVALID_ARGUMENT));
    assert_eq!(field(&library, device(&library, 2), 144, 0).err(), Some(NOT_SUPPORTED));
    let mut reasons = 0;
    let mut rows = [9; 4];
    let [corrected, uncorrected, pending, failed] = &mut rows;
    unsafe {
        assert_eq!(library.nvmlDeviceGetCurrentClocksEventReasons(gpu, &raw mut reasons), 0);
        assert_eq!(library.nvmlDeviceGetRemappedRows(gpu, corrected, uncorrected, pending, failed), 0);
    }
    assert_eq!(reasons & 0xc8, 0xc8);
    assert_eq!(rows, [0, 2, 1, 0]);
    node.send("reset 0");
    assert_eq!(field(&library, gpu, 144, 0).unwrap().1, 0);
    assert_eq!(field(&library, gpu, 143, 0).unwrap().1, 2);
    node.send("driver 570.86.15");
    assert!(field(&library, gpu, 253, 0).is_ok());
}

#[test]
fn a_call_can_be_made_to_fail() {
    let mut node = Node::new("l40s:2");
    let library = node.library();
    let mut power = 0;
    let mut measure = |index| unsafe { library.nvmlDeviceGetPowerUsage(device(&library, index), &raw mut power) };
    node.send("fail 1 nvmlDeviceGetPowerUsage unknown 2");
    assert_eq!([measure(1), measure(0), measure(1), measure(1)], [999, 0, 999, 0]);
    node.send("fail any nvmlDeviceGetPowerUsage not-supported");
    assert_eq!([measure(1), measure(0)], [NOT_SUPPORTED; 2]);
    node.send("work nvmlDeviceGetPowerUsage");
    assert_eq!([measure(1), measure(0)], [0; 2]);
}

#[test]
fn links_join_what_the_profile_says() {
    let node = Node::new("a100-pcie:4");
    let library = node.library();
    let gpus: Vec<_> = (0..4).map(|index| device(&library, index)).collect();
    let (mut status, mut level) = (9, 9);
    for (one, other, joined, near) in [(0, 1, 0, 30), (0, 2, 5, 40), (2, 3, 0, 30)] {
        unsafe {
            assert_eq!(library.nvmlDeviceGetP2PStatus(gpus[one], gpus[other], 2, &raw mut status), 0);
            assert_eq!(library.nvmlDeviceGetTopologyCommonAncestor(gpus[one], gpus[other], &raw mut level), 0);
        }
        assert_eq!((status, level), (joined, near), "{one} {other}");
    }
    let mut remote: nvmlPciInfo_t = unsafe { std::mem::zeroed() };
    let mut own: nvmlPciInfo_t = unsafe { std::mem::zeroed() };
    let mut kind = 9;
    unsafe {
        assert_eq!(library.nvmlDeviceGetNvLinkRemotePciInfo_v2(gpus[2], 7, &raw mut remote), 0);
        assert_eq!(library.nvmlDeviceGetPciInfo_v3(gpus[3], &raw mut own), 0);
        assert_eq!(library.nvmlDeviceGetNvLinkRemoteDeviceType(gpus[2], 7, &raw mut kind), 0);
        assert_eq!(library.nvmlDeviceGetNvLinkState(gpus[2], 12, &raw mut kind), INVALID_ARGUMENT);
    }
    assert_eq!((remote.busId, kind), (own.busId, 0));

    let node = Node::new("h100:16");
    let library = node.library();
    let mut word = 0;
    unsafe {
        assert_eq!(library.nvmlDeviceGetMemoryAffinity(device(&library, 5), 1, &raw mut word, 0), 0);
        assert_eq!(library.nvmlDeviceGetNvLinkRemoteDeviceType(device(&library, 15), 17, &raw mut kind), 0);
        let mut near = 0;
        let (gpu, nowhere) = (device(&library, 0), null_mut());
        assert_eq!(library.nvmlDeviceGetTopologyNearestGpus(gpu, 40, &raw mut near, nowhere), 0);
        assert_eq!(near, 3);
    }
    assert_eq!((word, kind), (0b10, 2));
}

#[test]
fn counters_of_the_hardware_span_the_time_between_two_samples() {
    let mut node = Node::new("h100:1+a100:1");
    let library = node.library();
    let gpu = device(&library, 0);
    let mut samples: [nvmlGpmSample_t; 2] = [null_mut(); 2];
    node.send("clock stop");
    node.send("load 0 60");
    unsafe {
        for sample in &mut samples {
            assert_eq!(library.nvmlGpmSampleAlloc(sample), 0);
        }
        assert_eq!(library.nvmlGpmSampleGet(device(&library, 1), samples[0]), NOT_SUPPORTED);
        assert_eq!(library.nvmlGpmSampleGet(gpu, samples[0]), 0);
        node.send("clock +970");
        assert_eq!(library.nvmlGpmSampleGet(gpu, samples[1]), 0);
        let mut get: Box<nvmlGpmMetricsGet_t> = Box::new(std::mem::zeroed());
        assert_eq!(library.nvmlGpmMetricsGet(&raw mut *get), VERSION_MISMATCH);
        (get.version, get.numMetrics, get.sample1, get.sample2) = (1, 3, samples[0], samples[1]);
        (get.metrics[0].metricId, get.metrics[1].metricId, get.metrics[2].metricId) = (1, 61, 200);
        assert_eq!(library.nvmlGpmMetricsGet(&raw mut *get), 0);
        // Ten whole waves: the average is exact.
        assert!((get.metrics[0].value - 60.0).abs() < 0.1, "{}", get.metrics[0].value);
        assert_eq!(CStr::from_ptr(get.metrics[0].metricInfo.unit), c"%");
        assert!(get.metrics[1].value > 1000.0);
        assert_eq!(get.metrics[2].nvmlReturn, INVALID_ARGUMENT);
        assert_eq!(library.nvmlGpmSampleFree(samples[0]), 0);
        assert_eq!(library.nvmlGpmSampleFree(samples[0]), INVALID_ARGUMENT);
    }
}
