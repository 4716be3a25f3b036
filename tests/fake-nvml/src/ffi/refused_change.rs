//! Functions that answer with an error which the documentation gives for them, whatever is asked: it would change
//! something, for which a program on a node has no rights. Commands change GPUs.

use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::*;

use super::refused;

refused! {
    NO_PERMISSION:
    fn nvmlDeviceSetCpuAffinity(device: nvmlDevice_t);
    fn nvmlDeviceClearCpuAffinity(device: nvmlDevice_t);
    fn nvmlDeviceSetClockOffsets(device: nvmlDevice_t, info: *mut nvmlClockOffset_t);
    fn nvmlDeviceSetPowerMizerMode_v1(device: nvmlDevice_t, powerMizerMode: *mut nvmlDevicePowerMizerModes_v1_t);
    fn nvmlDeviceSetDramEncryptionMode(device: nvmlDevice_t, dramEncryption: *const nvmlDramEncryptionInfo_t);
    fn nvmlDeviceSetConfComputeUnprotectedMemSize(device: nvmlDevice_t, sizeKiB: c_ulonglong);
    fn nvmlSystemSetConfComputeGpusReadyState(isAcceptingWork: c_uint);
    fn nvmlSystemSetConfComputeKeyRotationThresholdInfo(pKeyRotationThrInfo: *mut nvmlConfComputeSetKeyRotationThresholdInfo_t);
    fn nvmlDeviceSetPowerManagementLimit_v2(device: nvmlDevice_t, powerValue: *mut nvmlPowerValue_v2_t);
    fn nvmlDeviceSetPersistenceMode(device: nvmlDevice_t, mode: nvmlEnableState_t);
    fn nvmlDeviceSetComputeMode(device: nvmlDevice_t, mode: nvmlComputeMode_t);
    fn nvmlDeviceSetEccMode(device: nvmlDevice_t, ecc: nvmlEnableState_t);
    fn nvmlDeviceClearEccErrorCounts(device: nvmlDevice_t, counterType: nvmlEccCounterType_t);
    fn nvmlDeviceSetDriverModel(device: nvmlDevice_t, driverModel: nvmlDriverModel_t, flags: c_uint);
    fn nvmlDeviceSetGpuLockedClocks(device: nvmlDevice_t, minGpuClockMHz: c_uint, maxGpuClockMHz: c_uint);
    fn nvmlDeviceResetGpuLockedClocks(device: nvmlDevice_t);
    fn nvmlDeviceSetMemoryLockedClocks(device: nvmlDevice_t, minMemClockMHz: c_uint, maxMemClockMHz: c_uint);
    fn nvmlDeviceResetMemoryLockedClocks(device: nvmlDevice_t);
    fn nvmlDeviceSetApplicationsClocks(device: nvmlDevice_t, memClockMHz: c_uint, graphicsClockMHz: c_uint);
    fn nvmlDeviceResetApplicationsClocks(device: nvmlDevice_t);
    fn nvmlDeviceSetAutoBoostedClocksEnabled(device: nvmlDevice_t, enabled: nvmlEnableState_t);
    fn nvmlDeviceSetDefaultAutoBoostedClocksEnabled(device: nvmlDevice_t, enabled: nvmlEnableState_t, flags: c_uint);
    fn nvmlDeviceSetDefaultFanSpeed_v2(device: nvmlDevice_t, fan: c_uint);
    fn nvmlDeviceSetFanControlPolicy(device: nvmlDevice_t, fan: c_uint, policy: nvmlFanControlPolicy_t);
    fn nvmlDeviceSetTemperatureThreshold(device: nvmlDevice_t, thresholdType: nvmlTemperatureThresholds_t, temp: *mut c_int);
    fn nvmlDeviceSetPowerManagementLimit(device: nvmlDevice_t, limit: c_uint);
    fn nvmlDeviceSetGpuOperationMode(device: nvmlDevice_t, mode: nvmlGpuOperationMode_t);
    fn nvmlDeviceSetAPIRestriction(device: nvmlDevice_t, apiType: nvmlRestrictedAPI_t, isRestricted: nvmlEnableState_t);
    fn nvmlDeviceSetFanSpeed_v2(device: nvmlDevice_t, fan: c_uint, speed: c_uint);
    fn nvmlDeviceSetGpcClkVfOffset(device: nvmlDevice_t, offset: c_int);
    fn nvmlDeviceSetMemClkVfOffset(device: nvmlDevice_t, offset: c_int);
    fn nvmlDeviceSetAccountingMode(device: nvmlDevice_t, mode: nvmlEnableState_t);
    fn nvmlDeviceClearAccountingPids(device: nvmlDevice_t);
    fn nvmlDeviceResetNvLinkErrorCounters(device: nvmlDevice_t, link: c_uint);
    fn nvmlDeviceSetNvLinkUtilizationControl(device: nvmlDevice_t, link: c_uint, counter: c_uint, control: *mut nvmlNvLinkUtilizationControl_t, reset: c_uint);
    fn nvmlDeviceFreezeNvLinkUtilizationCounter(device: nvmlDevice_t, link: c_uint, counter: c_uint, freeze: nvmlEnableState_t);
    fn nvmlDeviceResetNvLinkUtilizationCounter(device: nvmlDevice_t, link: c_uint, counter: c_uint);
    fn nvmlDeviceSetNvLinkDeviceLowPowerThreshold(device: nvmlDevice_t, info: *mut nvmlNvLinkPowerThres_t);
    fn nvmlSystemSetNvlinkBwMode(nvlinkBwMode: c_uint);
    fn nvmlDeviceSetNvlinkBwMode(device: nvmlDevice_t, setBwMode: *mut nvmlNvlinkSetBwMode_t);
    fn nvmlDeviceModifyDrainState(pciInfo: *mut nvmlPciInfo_t, newState: nvmlEnableState_t);
    fn nvmlDeviceRemoveGpu_v2(pciInfo: *mut nvmlPciInfo_t, gpuState: nvmlDetachGpuState_t, linkState: nvmlPcieLinkState_t);
    fn nvmlDeviceDiscoverGpus(pciInfo: *mut nvmlPciInfo_t);
    fn nvmlDeviceClearFieldValues(device: nvmlDevice_t, valuesCount: c_int, values: *mut nvmlFieldValue_t);
    fn nvmlDeviceSetVirtualizationMode(device: nvmlDevice_t, virtualMode: nvmlGpuVirtualizationMode_t);
    fn nvmlDeviceReadWritePRM_v1(device: nvmlDevice_t, buffer: *mut nvmlPRMTLV_v1_t);
    fn nvmlDeviceSetMigMode(device: nvmlDevice_t, mode: c_uint, activationStatus: *mut nvmlReturn_t);
    fn nvmlDeviceCreateGpuInstance(device: nvmlDevice_t, profileId: c_uint, gpuInstance: *mut nvmlGpuInstance_t);
    fn nvmlDeviceCreateGpuInstanceWithPlacement(device: nvmlDevice_t, profileId: c_uint, placement: *const nvmlGpuInstancePlacement_t, gpuInstance: *mut nvmlGpuInstance_t);
    fn nvmlGpuInstanceDestroy(gpuInstance: nvmlGpuInstance_t);
    fn nvmlGpuInstanceCreateComputeInstance(gpuInstance: nvmlGpuInstance_t, profileId: c_uint, computeInstance: *mut nvmlComputeInstance_t);
    fn nvmlGpuInstanceCreateComputeInstanceWithPlacement(gpuInstance: nvmlGpuInstance_t, profileId: c_uint, placement: *const nvmlComputeInstancePlacement_t, computeInstance: *mut nvmlComputeInstance_t);
    fn nvmlComputeInstanceDestroy(computeInstance: nvmlComputeInstance_t);
    fn nvmlGpmSetStreamingEnabled(device: nvmlDevice_t, state: c_uint);
    fn nvmlDeviceWorkloadPowerProfileSetRequestedProfiles(device: nvmlDevice_t, requestedProfiles: *mut nvmlWorkloadPowerProfileRequestedProfiles_t);
    fn nvmlDeviceWorkloadPowerProfileClearRequestedProfiles(device: nvmlDevice_t, requestedProfiles: *mut nvmlWorkloadPowerProfileRequestedProfiles_t);
    fn nvmlDevicePowerSmoothingActivatePresetProfile(device: nvmlDevice_t, profile: *mut nvmlPowerSmoothingProfile_t);
    fn nvmlDevicePowerSmoothingUpdatePresetProfileParam(device: nvmlDevice_t, profile: *mut nvmlPowerSmoothingProfile_t);
    fn nvmlDevicePowerSmoothingSetState(device: nvmlDevice_t, state: *mut nvmlPowerSmoothingState_t);
    fn nvmlDeviceRemoveGpu(pciInfo: *mut nvmlPciInfo_t);
}
