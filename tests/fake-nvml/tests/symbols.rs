//! Every function that nvml-wrapper-sys looks for is there, with its type.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use atoll_fake_nvml::ffi;
use nvml_wrapper_sys::bindings::NvmlLib;

macro_rules! functions {
    ($($name:ident)*) => {
        /// Those that are not there. Does not compile if the bindings have one that is not in the list.
        fn missing(library: NvmlLib) -> (usize, Vec<&'static str>) {
            let NvmlLib { __library, $($name),* } = library;
            let found = [$((stringify!($name), $name.is_ok())),*];
            (found.len(), found.iter().filter(|(_, found)| !found).map(|(name, _)| *name).collect())
        }

        /// Name and address of each.
        fn addresses(library: &NvmlLib) -> Vec<(&'static str, usize)> {
            vec![$((stringify!($name), *library.$name.as_ref().unwrap() as usize)),*]
        }

        /// Does not compile if one has another type than in the bindings.
        fn types(library: &mut NvmlLib) {
            $(library.$name = Ok(ffi::$name);)*
        }
    };
}

functions! {
    nvmlInit_v2 nvmlInitWithFlags nvmlShutdown nvmlErrorString nvmlSystemGetDriverVersion nvmlSystemGetNVMLVersion
    nvmlSystemGetCudaDriverVersion nvmlSystemGetCudaDriverVersion_v2 nvmlSystemGetProcessName nvmlSystemGetHicVersion
    nvmlSystemGetTopologyGpuSet nvmlSystemGetDriverBranch nvmlUnitGetCount nvmlUnitGetHandleByIndex
    nvmlUnitGetUnitInfo nvmlUnitGetLedState nvmlUnitGetPsuInfo nvmlUnitGetTemperature nvmlUnitGetFanSpeedInfo
    nvmlUnitGetDevices nvmlDeviceGetCount_v2 nvmlDeviceGetAttributes_v2 nvmlDeviceGetHandleByIndex_v2
    nvmlDeviceGetHandleBySerial nvmlDeviceGetHandleByUUID nvmlDeviceGetHandleByUUIDV nvmlDeviceGetHandleByPciBusId_v2
    nvmlDeviceGetName nvmlDeviceGetBrand nvmlDeviceGetIndex nvmlDeviceGetSerial nvmlDeviceGetModuleId
    nvmlDeviceGetC2cModeInfoV nvmlDeviceGetMemoryAffinity nvmlDeviceGetCpuAffinityWithinScope nvmlDeviceGetCpuAffinity
    nvmlDeviceSetCpuAffinity nvmlDeviceClearCpuAffinity nvmlDeviceGetNumaNodeId nvmlDeviceGetAddressingMode
    nvmlDeviceGetRepairStatus nvmlDeviceGetTopologyCommonAncestor nvmlDeviceGetTopologyNearestGpus
    nvmlDeviceGetP2PStatus nvmlDeviceGetUUID nvmlDeviceGetMinorNumber nvmlDeviceGetBoardPartNumber
    nvmlDeviceGetInforomVersion nvmlDeviceGetInforomImageVersion nvmlDeviceGetInforomConfigurationChecksum
    nvmlDeviceValidateInforom nvmlDeviceGetLastBBXFlushTime nvmlDeviceGetDisplayMode nvmlDeviceGetDisplayActive
    nvmlDeviceGetPersistenceMode nvmlDeviceGetPciInfoExt nvmlDeviceGetPciInfo_v3 nvmlDeviceGetMaxPcieLinkGeneration
    nvmlDeviceGetGpuMaxPcieLinkGeneration nvmlDeviceGetMaxPcieLinkWidth nvmlDeviceGetCurrPcieLinkGeneration
    nvmlDeviceGetCurrPcieLinkWidth nvmlDeviceGetPcieThroughput nvmlDeviceGetPcieReplayCounter nvmlDeviceGetClockInfo
    nvmlDeviceGetMaxClockInfo nvmlDeviceGetGpcClkVfOffset nvmlDeviceGetApplicationsClock
    nvmlDeviceGetDefaultApplicationsClock nvmlDeviceGetClock nvmlDeviceGetMaxCustomerBoostClock
    nvmlDeviceGetSupportedMemoryClocks nvmlDeviceGetSupportedGraphicsClocks nvmlDeviceGetAutoBoostedClocksEnabled
    nvmlDeviceGetFanSpeed nvmlDeviceGetFanSpeed_v2 nvmlDeviceGetFanSpeedRPM nvmlDeviceGetTargetFanSpeed
    nvmlDeviceGetMinMaxFanSpeed nvmlDeviceGetFanControlPolicy_v2 nvmlDeviceGetNumFans nvmlDeviceGetTemperature
    nvmlDeviceGetCoolerInfo nvmlDeviceGetTemperatureV nvmlDeviceGetTemperatureThreshold nvmlDeviceGetMarginTemperature
    nvmlDeviceGetThermalSettings nvmlDeviceGetPerformanceState nvmlDeviceGetCurrentClocksEventReasons
    nvmlDeviceGetCurrentClocksThrottleReasons nvmlDeviceGetSupportedClocksEventReasons
    nvmlDeviceGetSupportedClocksThrottleReasons nvmlDeviceGetPowerState nvmlDeviceGetDynamicPstatesInfo
    nvmlDeviceGetMemClkVfOffset nvmlDeviceGetMinMaxClockOfPState nvmlDeviceGetSupportedPerformanceStates
    nvmlDeviceGetGpcClkMinMaxVfOffset nvmlDeviceGetMemClkMinMaxVfOffset nvmlDeviceGetClockOffsets
    nvmlDeviceSetClockOffsets nvmlDeviceGetPerformanceModes nvmlDeviceGetCurrentClockFreqs
    nvmlDeviceGetPowerManagementMode nvmlDeviceGetPowerManagementLimit nvmlDeviceGetPowerManagementLimitConstraints
    nvmlDeviceGetPowerManagementDefaultLimit nvmlDeviceGetPowerUsage nvmlDeviceGetPowerMizerMode_v1
    nvmlDeviceSetPowerMizerMode_v1 nvmlDeviceGetTotalEnergyConsumption nvmlDeviceGetEnforcedPowerLimit
    nvmlDeviceGetGpuOperationMode nvmlDeviceGetMemoryInfo nvmlDeviceGetMemoryInfo_v2 nvmlDeviceGetComputeMode
    nvmlDeviceGetCudaComputeCapability nvmlDeviceGetDramEncryptionMode nvmlDeviceSetDramEncryptionMode
    nvmlDeviceGetEccMode nvmlDeviceGetDefaultEccMode nvmlDeviceGetBoardId nvmlDeviceGetMultiGpuBoard
    nvmlDeviceGetTotalEccErrors nvmlDeviceGetDetailedEccErrors nvmlDeviceGetMemoryErrorCounter
    nvmlDeviceGetUtilizationRates nvmlDeviceGetEncoderUtilization nvmlDeviceGetEncoderCapacity
    nvmlDeviceGetEncoderStats nvmlDeviceGetEncoderSessions nvmlDeviceGetDecoderUtilization nvmlDeviceGetJpgUtilization
    nvmlDeviceGetOfaUtilization nvmlDeviceGetFBCStats nvmlDeviceGetFBCSessions nvmlDeviceGetDriverModel_v2
    nvmlDeviceGetVbiosVersion nvmlDeviceGetBridgeChipInfo nvmlDeviceGetComputeRunningProcesses_v3
    nvmlDeviceGetGraphicsRunningProcesses_v3 nvmlDeviceGetMPSComputeRunningProcesses_v3
    nvmlDeviceGetRunningProcessDetailList nvmlDeviceOnSameBoard nvmlDeviceGetAPIRestriction nvmlDeviceGetSamples
    nvmlDeviceGetBAR1MemoryInfo nvmlDeviceGetViolationStatus nvmlDeviceGetIrqNum nvmlDeviceGetNumGpuCores
    nvmlDeviceGetPowerSource nvmlDeviceGetMemoryBusWidth nvmlDeviceGetPcieLinkMaxSpeed nvmlDeviceGetPcieSpeed
    nvmlDeviceGetAdaptiveClockInfoStatus nvmlDeviceGetBusType nvmlDeviceGetGpuFabricInfo nvmlDeviceGetGpuFabricInfoV
    nvmlSystemGetConfComputeCapabilities nvmlSystemGetConfComputeState nvmlDeviceGetConfComputeMemSizeInfo
    nvmlSystemGetConfComputeGpusReadyState nvmlDeviceGetConfComputeProtectedMemoryUsage
    nvmlDeviceGetConfComputeGpuCertificate nvmlDeviceGetConfComputeGpuAttestationReport
    nvmlSystemGetConfComputeKeyRotationThresholdInfo nvmlDeviceSetConfComputeUnprotectedMemSize
    nvmlSystemSetConfComputeGpusReadyState nvmlSystemSetConfComputeKeyRotationThresholdInfo
    nvmlSystemGetConfComputeSettings nvmlDeviceGetGspFirmwareVersion nvmlDeviceGetGspFirmwareMode
    nvmlDeviceGetSramEccErrorStatus nvmlDeviceSetPowerManagementLimit_v2 nvmlDeviceGetAccountingMode
    nvmlDeviceGetAccountingStats nvmlDeviceGetAccountingPids nvmlDeviceGetAccountingBufferSize
    nvmlDeviceGetRetiredPages nvmlDeviceGetRetiredPages_v2 nvmlDeviceGetRetiredPagesPendingStatus
    nvmlDeviceGetRemappedRows nvmlDeviceGetRowRemapperHistogram nvmlDeviceGetArchitecture nvmlDeviceGetClkMonStatus
    nvmlDeviceGetProcessUtilization nvmlDeviceGetProcessesUtilizationInfo nvmlDeviceGetPlatformInfo nvmlDeviceGetPdi
    nvmlUnitSetLedState nvmlDeviceSetPersistenceMode nvmlDeviceSetComputeMode nvmlDeviceSetEccMode
    nvmlDeviceClearEccErrorCounts nvmlDeviceSetDriverModel nvmlDeviceSetGpuLockedClocks nvmlDeviceResetGpuLockedClocks
    nvmlDeviceSetMemoryLockedClocks nvmlDeviceResetMemoryLockedClocks nvmlDeviceSetApplicationsClocks
    nvmlDeviceResetApplicationsClocks nvmlDeviceSetAutoBoostedClocksEnabled
    nvmlDeviceSetDefaultAutoBoostedClocksEnabled nvmlDeviceSetDefaultFanSpeed_v2 nvmlDeviceSetFanControlPolicy
    nvmlDeviceSetTemperatureThreshold nvmlDeviceSetPowerManagementLimit nvmlDeviceSetGpuOperationMode
    nvmlDeviceSetAPIRestriction nvmlDeviceSetFanSpeed_v2 nvmlDeviceSetGpcClkVfOffset nvmlDeviceSetMemClkVfOffset
    nvmlDeviceSetAccountingMode nvmlDeviceClearAccountingPids nvmlDeviceGetNvLinkState nvmlDeviceGetNvLinkVersion
    nvmlDeviceGetNvLinkCapability nvmlDeviceGetNvLinkRemotePciInfo_v2 nvmlDeviceGetNvLinkErrorCounter
    nvmlDeviceResetNvLinkErrorCounters nvmlDeviceSetNvLinkUtilizationControl nvmlDeviceGetNvLinkUtilizationControl
    nvmlDeviceGetNvLinkUtilizationCounter nvmlDeviceFreezeNvLinkUtilizationCounter
    nvmlDeviceResetNvLinkUtilizationCounter nvmlDeviceGetNvLinkRemoteDeviceType
    nvmlDeviceSetNvLinkDeviceLowPowerThreshold nvmlSystemSetNvlinkBwMode nvmlSystemGetNvlinkBwMode
    nvmlDeviceGetNvlinkSupportedBwModes nvmlDeviceGetNvlinkBwMode nvmlDeviceSetNvlinkBwMode nvmlDeviceGetNvLinkInfo
    nvmlEventSetCreate nvmlDeviceRegisterEvents nvmlDeviceGetSupportedEventTypes nvmlEventSetWait_v2 nvmlEventSetFree
    nvmlSystemEventSetCreate nvmlSystemEventSetFree nvmlSystemRegisterEvents nvmlSystemEventSetWait
    nvmlDeviceModifyDrainState nvmlDeviceQueryDrainState nvmlDeviceRemoveGpu_v2 nvmlDeviceDiscoverGpus
    nvmlDeviceGetFieldValues nvmlDeviceClearFieldValues nvmlDeviceGetVirtualizationMode nvmlDeviceGetHostVgpuMode
    nvmlDeviceSetVirtualizationMode nvmlDeviceGetVgpuHeterogeneousMode nvmlDeviceSetVgpuHeterogeneousMode
    nvmlVgpuInstanceGetPlacementId nvmlDeviceGetVgpuTypeSupportedPlacements nvmlDeviceGetVgpuTypeCreatablePlacements
    nvmlVgpuTypeGetGspHeapSize nvmlVgpuTypeGetFbReservation nvmlVgpuInstanceGetRuntimeStateSize
    nvmlDeviceSetVgpuCapabilities nvmlDeviceGetGridLicensableFeatures_v4 nvmlGetVgpuDriverCapabilities
    nvmlDeviceGetVgpuCapabilities nvmlDeviceGetSupportedVgpus nvmlDeviceGetCreatableVgpus nvmlVgpuTypeGetClass
    nvmlVgpuTypeGetName nvmlVgpuTypeGetGpuInstanceProfileId nvmlVgpuTypeGetDeviceID nvmlVgpuTypeGetFramebufferSize
    nvmlVgpuTypeGetNumDisplayHeads nvmlVgpuTypeGetResolution nvmlVgpuTypeGetLicense nvmlVgpuTypeGetFrameRateLimit
    nvmlVgpuTypeGetMaxInstances nvmlVgpuTypeGetMaxInstancesPerVm nvmlVgpuTypeGetBAR1Info nvmlDeviceGetActiveVgpus
    nvmlVgpuInstanceGetVmID nvmlVgpuInstanceGetUUID nvmlVgpuInstanceGetVmDriverVersion nvmlVgpuInstanceGetFbUsage
    nvmlVgpuInstanceGetLicenseStatus nvmlVgpuInstanceGetType nvmlVgpuInstanceGetFrameRateLimit
    nvmlVgpuInstanceGetEccMode nvmlVgpuInstanceGetEncoderCapacity nvmlVgpuInstanceSetEncoderCapacity
    nvmlVgpuInstanceGetEncoderStats nvmlVgpuInstanceGetEncoderSessions nvmlVgpuInstanceGetFBCStats
    nvmlVgpuInstanceGetFBCSessions nvmlVgpuInstanceGetGpuInstanceId nvmlVgpuInstanceGetGpuPciId
    nvmlVgpuTypeGetCapabilities nvmlVgpuInstanceGetMdevUUID nvmlGpuInstanceGetCreatableVgpus
    nvmlVgpuTypeGetMaxInstancesPerGpuInstance nvmlGpuInstanceGetActiveVgpus nvmlGpuInstanceSetVgpuSchedulerState
    nvmlGpuInstanceGetVgpuSchedulerState nvmlGpuInstanceGetVgpuSchedulerLog
    nvmlGpuInstanceGetVgpuTypeCreatablePlacements nvmlGpuInstanceGetVgpuHeterogeneousMode
    nvmlGpuInstanceSetVgpuHeterogeneousMode nvmlVgpuInstanceGetMetadata nvmlDeviceGetVgpuMetadata
    nvmlGetVgpuCompatibility nvmlDeviceGetPgpuMetadataString nvmlDeviceGetVgpuSchedulerLog
    nvmlDeviceGetVgpuSchedulerState nvmlDeviceGetVgpuSchedulerCapabilities nvmlDeviceSetVgpuSchedulerState
    nvmlGetVgpuVersion nvmlSetVgpuVersion nvmlDeviceGetVgpuUtilization nvmlDeviceGetVgpuInstancesUtilizationInfo
    nvmlDeviceGetVgpuProcessUtilization nvmlDeviceGetVgpuProcessesUtilizationInfo nvmlVgpuInstanceGetAccountingMode
    nvmlVgpuInstanceGetAccountingPids nvmlVgpuInstanceGetAccountingStats nvmlVgpuInstanceClearAccountingPids
    nvmlVgpuInstanceGetLicenseInfo_v2 nvmlGetExcludedDeviceCount nvmlGetExcludedDeviceInfoByIndex
    nvmlDeviceReadWritePRM_v1 nvmlDeviceSetMigMode nvmlDeviceGetMigMode nvmlDeviceGetGpuInstanceProfileInfo
    nvmlDeviceGetGpuInstanceProfileInfoV nvmlDeviceGetGpuInstanceProfileInfoByIdV
    nvmlDeviceGetGpuInstancePossiblePlacements_v2 nvmlDeviceGetGpuInstanceRemainingCapacity
    nvmlDeviceCreateGpuInstance nvmlDeviceCreateGpuInstanceWithPlacement nvmlGpuInstanceDestroy
    nvmlDeviceGetGpuInstances nvmlDeviceGetGpuInstanceById nvmlGpuInstanceGetInfo
    nvmlGpuInstanceGetComputeInstanceProfileInfo nvmlGpuInstanceGetComputeInstanceProfileInfoV
    nvmlGpuInstanceGetComputeInstanceRemainingCapacity nvmlGpuInstanceGetComputeInstancePossiblePlacements
    nvmlGpuInstanceCreateComputeInstance nvmlGpuInstanceCreateComputeInstanceWithPlacement nvmlComputeInstanceDestroy
    nvmlGpuInstanceGetComputeInstances nvmlGpuInstanceGetComputeInstanceById nvmlComputeInstanceGetInfo_v2
    nvmlDeviceIsMigDeviceHandle nvmlDeviceGetGpuInstanceId nvmlDeviceGetComputeInstanceId
    nvmlDeviceGetMaxMigDeviceCount nvmlDeviceGetMigDeviceHandleByIndex nvmlDeviceGetDeviceHandleFromMigDeviceHandle
    nvmlGpmMetricsGet nvmlGpmSampleFree nvmlGpmSampleAlloc nvmlGpmSampleGet nvmlGpmMigSampleGet
    nvmlGpmQueryDeviceSupport nvmlGpmQueryIfStreamingEnabled nvmlGpmSetStreamingEnabled nvmlDeviceGetCapabilities
    nvmlDeviceWorkloadPowerProfileGetProfilesInfo nvmlDeviceWorkloadPowerProfileGetCurrentProfiles
    nvmlDeviceWorkloadPowerProfileSetRequestedProfiles nvmlDeviceWorkloadPowerProfileClearRequestedProfiles
    nvmlDevicePowerSmoothingActivatePresetProfile nvmlDevicePowerSmoothingUpdatePresetProfileParam
    nvmlDevicePowerSmoothingSetState nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts nvmlInit nvmlDeviceGetCount
    nvmlDeviceGetHandleByIndex nvmlDeviceGetHandleByPciBusId nvmlDeviceGetPciInfo nvmlDeviceGetPciInfo_v2
    nvmlDeviceGetNvLinkRemotePciInfo nvmlDeviceGetGridLicensableFeatures nvmlDeviceGetGridLicensableFeatures_v2
    nvmlDeviceGetGridLicensableFeatures_v3 nvmlDeviceRemoveGpu nvmlEventSetWait nvmlDeviceGetAttributes
    nvmlComputeInstanceGetInfo nvmlDeviceGetComputeRunningProcesses nvmlDeviceGetComputeRunningProcesses_v2
    nvmlDeviceGetGraphicsRunningProcesses nvmlDeviceGetGraphicsRunningProcesses_v2
    nvmlDeviceGetMPSComputeRunningProcesses nvmlDeviceGetMPSComputeRunningProcesses_v2
    nvmlDeviceGetGpuInstancePossiblePlacements nvmlVgpuInstanceGetLicenseInfo nvmlDeviceGetDriverModel
}

#[test]
fn every_function_resolves_with_its_type() {
    #[allow(unsafe_code, reason = "loading a library")]
    // SAFETY: the library was made for it.
    let open = || unsafe { NvmlLib::new(common::library()) }.unwrap();
    let (count, missing) = missing(open());
    assert_eq!(missing, [""; 0]);
    assert_eq!(count, 396);
    types(&mut open());
}

/// Calls a function with eight times the same argument; those that take fewer ignore the others.
#[allow(unsafe_code, reason = "a call of a function that takes numbers and pointers only")]
fn call(address: usize, argument: usize) -> u32 {
    type Any = unsafe extern "C" fn(usize, usize, usize, usize, usize, usize, usize, usize) -> u32;
    // SAFETY: numbers and pointers are passed alike, arguments too many do no harm, and a pointer that is null or a handle
    // has to be noticed: that is what is tested.
    unsafe {
        let function: Any = std::mem::transmute(address);
        function(argument, argument, argument, argument, argument, argument, argument, argument)
    }
}

/// What is answered without nvmlInit.
const ANYTIME: &[&str] = &[
    "nvmlInit",
    "nvmlInit_v2",
    "nvmlInitWithFlags",
    "nvmlErrorString",
    "nvmlSystemGetNVMLVersion",
    "nvmlSystemGetCudaDriverVersion",
    "nvmlSystemGetCudaDriverVersion_v2",
];

#[test]
fn no_function_follows_a_wrong_pointer() {
    let node = common::Node::new("a100/1g.10gb*7:1");
    let library = node.library();
    let mut handles = [std::ptr::null_mut(); 2];
    let mut set = std::ptr::null_mut();
    #[allow(unsafe_code, reason = "calls with pointers to variables")]
    // SAFETY: all pointers are to variables of the right types.
    unsafe {
        assert_eq!(library.nvmlDeviceGetHandleByIndex_v2(0, &raw mut handles[0]), 0);
        assert_eq!(library.nvmlDeviceGetMigDeviceHandleByIndex(handles[0], 0, &raw mut handles[1]), 0);
        assert_eq!(library.nvmlEventSetCreate(&raw mut set), 0);
    }
    let mut arguments: Vec<_> = handles.iter().map(|handle| handle.addr()).collect();
    arguments.extend([0, set.addr()]);
    for (name, address) in addresses(&library) {
        if ANYTIME[..4].contains(&name) || matches!(name, "nvmlShutdown" | "nvmlEventSetFree") {
            continue;
        }
        for argument in &arguments {
            let code = call(address, *argument);
            // 999 would be a panic that was caught.
            assert!((0..=30).contains(&code), "{name}({argument:#x}) is {code}");
        }
    }
    for (name, address) in addresses(&library) {
        // Once closed, all say so.
        if name == "nvmlShutdown" {
            assert_eq!(call(address, 0), 0);
        }
    }
    for (name, address) in addresses(&library) {
        if !ANYTIME.contains(&name) && !name.starts_with("nvmlEventSetWait") {
            assert_eq!(call(address, arguments[0]), 1, "{name}");
        }
    }
}
