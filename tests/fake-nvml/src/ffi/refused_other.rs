//! Functions that answer with an error which the documentation gives for them, whatever is asked: no GPU here can do
//! it, or not on Linux.

use std::ffi::{c_int, c_uint, c_ulong, c_ulonglong};

use nvml_wrapper_sys::bindings::*;

use super::refused;

refused! {
    NOT_SUPPORTED:
    fn nvmlUnitGetHandleByIndex(index: c_uint, unit: *mut nvmlUnit_t);
    fn nvmlUnitGetUnitInfo(unit: nvmlUnit_t, info: *mut nvmlUnitInfo_t);
    fn nvmlUnitGetLedState(unit: nvmlUnit_t, state: *mut nvmlLedState_t);
    fn nvmlUnitGetPsuInfo(unit: nvmlUnit_t, psu: *mut nvmlPSUInfo_t);
    fn nvmlUnitGetTemperature(unit: nvmlUnit_t, type_: c_uint, temp: *mut c_uint);
    fn nvmlUnitGetFanSpeedInfo(unit: nvmlUnit_t, fanSpeeds: *mut nvmlUnitFanSpeeds_t);
    fn nvmlUnitGetDevices(unit: nvmlUnit_t, deviceCount: *mut c_uint, devices: *mut nvmlDevice_t);
    fn nvmlDeviceGetAddressingMode(device: nvmlDevice_t, mode: *mut nvmlDeviceAddressingMode_t);
    fn nvmlDeviceGetLastBBXFlushTime(device: nvmlDevice_t, timestamp: *mut c_ulonglong, durationUs: *mut c_ulong);
    fn nvmlDeviceGetAutoBoostedClocksEnabled(device: nvmlDevice_t, isEnabled: *mut nvmlEnableState_t, defaultIsEnabled: *mut nvmlEnableState_t);
    fn nvmlDeviceGetCoolerInfo(device: nvmlDevice_t, coolerInfo: *mut nvmlCoolerInfo_t);
    fn nvmlDeviceGetGpcClkMinMaxVfOffset(device: nvmlDevice_t, minOffset: *mut c_int, maxOffset: *mut c_int);
    fn nvmlDeviceGetMemClkMinMaxVfOffset(device: nvmlDevice_t, minOffset: *mut c_int, maxOffset: *mut c_int);
    fn nvmlDeviceGetClockOffsets(device: nvmlDevice_t, info: *mut nvmlClockOffset_t);
    fn nvmlDeviceGetPerformanceModes(device: nvmlDevice_t, perfModes: *mut nvmlDevicePerfModes_t);
    fn nvmlDeviceGetPowerMizerMode_v1(device: nvmlDevice_t, powerMizerMode: *mut nvmlDevicePowerMizerModes_v1_t);
    fn nvmlDeviceGetGpuOperationMode(device: nvmlDevice_t, current: *mut nvmlGpuOperationMode_t, pending: *mut nvmlGpuOperationMode_t);
    fn nvmlDeviceGetDramEncryptionMode(device: nvmlDevice_t, current: *mut nvmlDramEncryptionInfo_t, pending: *mut nvmlDramEncryptionInfo_t);
    fn nvmlDeviceGetDriverModel_v2(device: nvmlDevice_t, current: *mut nvmlDriverModel_t, pending: *mut nvmlDriverModel_t);
    fn nvmlDeviceGetBridgeChipInfo(device: nvmlDevice_t, bridgeHierarchy: *mut nvmlBridgeChipHierarchy_t);
    fn nvmlDeviceGetAPIRestriction(device: nvmlDevice_t, apiType: nvmlRestrictedAPI_t, isRestricted: *mut nvmlEnableState_t);
    fn nvmlSystemGetConfComputeCapabilities(capabilities: *mut nvmlConfComputeSystemCaps_t);
    fn nvmlDeviceGetConfComputeMemSizeInfo(device: nvmlDevice_t, memInfo: *mut nvmlConfComputeMemSizeInfo_t);
    fn nvmlSystemGetConfComputeGpusReadyState(isAcceptingWork: *mut c_uint);
    fn nvmlDeviceGetConfComputeProtectedMemoryUsage(device: nvmlDevice_t, memory: *mut nvmlMemory_t);
    fn nvmlDeviceGetConfComputeGpuCertificate(device: nvmlDevice_t, gpuCert: *mut nvmlConfComputeGpuCertificate_t);
    fn nvmlDeviceGetConfComputeGpuAttestationReport(device: nvmlDevice_t, gpuAtstReport: *mut nvmlConfComputeGpuAttestationReport_t);
    fn nvmlSystemGetConfComputeKeyRotationThresholdInfo(pKeyRotationThrInfo: *mut nvmlConfComputeGetKeyRotationThresholdInfo_t);
    fn nvmlSystemGetConfComputeSettings(settings: *mut nvmlSystemConfComputeSettings_t);
    fn nvmlDeviceGetAccountingStats(device: nvmlDevice_t, pid: c_uint, stats: *mut nvmlAccountingStats_t);
    fn nvmlDeviceGetClkMonStatus(device: nvmlDevice_t, status: *mut nvmlClkMonStatus_t);
    fn nvmlDeviceGetPdi(device: nvmlDevice_t, pdi: *mut nvmlPdi_t);
    fn nvmlUnitSetLedState(unit: nvmlUnit_t, color: nvmlLedColor_t);
    fn nvmlDeviceGetNvLinkUtilizationControl(device: nvmlDevice_t, link: c_uint, counter: c_uint, control: *mut nvmlNvLinkUtilizationControl_t);
    fn nvmlDeviceGetNvLinkUtilizationCounter(device: nvmlDevice_t, link: c_uint, counter: c_uint, rxcounter: *mut c_ulonglong, txcounter: *mut c_ulonglong);
    fn nvmlSystemGetNvlinkBwMode(nvlinkBwMode: *mut c_uint);
    fn nvmlDeviceGetNvlinkSupportedBwModes(device: nvmlDevice_t, supportedBwMode: *mut nvmlNvlinkSupportedBwModes_t);
    fn nvmlDeviceGetNvlinkBwMode(device: nvmlDevice_t, getBwMode: *mut nvmlNvlinkGetBwMode_t);
    fn nvmlDeviceGetNvLinkInfo(device: nvmlDevice_t, info: *mut nvmlNvLinkInfo_t);
    fn nvmlSystemEventSetCreate(request: *mut nvmlSystemEventSetCreateRequest_t);
    fn nvmlSystemEventSetFree(request: *mut nvmlSystemEventSetFreeRequest_t);
    fn nvmlSystemRegisterEvents(request: *mut nvmlSystemRegisterEventRequest_t);
    fn nvmlSystemEventSetWait(request: *mut nvmlSystemEventSetWaitRequest_t);
    fn nvmlDeviceQueryDrainState(pciInfo: *mut nvmlPciInfo_t, currentState: *mut nvmlEnableState_t);
    fn nvmlDeviceWorkloadPowerProfileGetProfilesInfo(device: nvmlDevice_t, profilesInfo: *mut nvmlWorkloadPowerProfileProfilesInfo_t);
    fn nvmlDeviceWorkloadPowerProfileGetCurrentProfiles(device: nvmlDevice_t, currentProfiles: *mut nvmlWorkloadPowerProfileCurrentProfiles_t);
    fn nvmlDeviceGetGridLicensableFeatures(device: nvmlDevice_t, pGridLicensableFeatures: *mut nvmlGridLicensableFeatures_t);
    fn nvmlDeviceGetGridLicensableFeatures_v2(device: nvmlDevice_t, pGridLicensableFeatures: *mut nvmlGridLicensableFeatures_t);
    fn nvmlDeviceGetGridLicensableFeatures_v3(device: nvmlDevice_t, pGridLicensableFeatures: *mut nvmlGridLicensableFeatures_t);
    fn nvmlDeviceGetDriverModel(device: nvmlDevice_t, current: *mut nvmlDriverModel_t, pending: *mut nvmlDriverModel_t);
}
