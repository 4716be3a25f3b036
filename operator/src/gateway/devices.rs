//! Devices of a node between the wire and the hub's `GPUNode`.

use std::collections::BTreeSet;

use atoll_api::gpu_node::HUB_DEVICES_BYTES;
use atoll_api::{DeviceHealth, DeviceReason, GpuDevice};
use atoll_wire::limits::{
    MAX_DEVICE_REASONS, MAX_DEVICES_PER_NODE, MAX_PRODUCT_BYTES, MAX_TEXT_BYTES, MAX_UUID_BYTES, MAX_WORD_BYTES,
};
use atoll_wire::v1;
use atoll_wire::v1::device::Health;

/// Whether these can be the devices of a node.
pub fn believable(devices: &[v1::Device]) -> bool {
    let readable = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
    let device = |device: &v1::Device| {
        !device.uuid.is_empty()
            && readable(&device.uuid, MAX_UUID_BYTES)
            && Health::try_from(device.health).is_ok_and(|health| health != Health::Unspecified)
            && device.reasons.len() <= MAX_DEVICE_REASONS
            && device.reasons.iter().all(|reason| {
                !reason.code.is_empty()
                    && reason.code.len() <= MAX_WORD_BYTES / 2
                    && reason.code.bytes().all(|byte| byte.is_ascii_alphanumeric())
                    && readable(&reason.message, MAX_TEXT_BYTES)
            })
            && readable(&device.product, MAX_PRODUCT_BYTES)
            && readable(&device.profile, MAX_UUID_BYTES - 1)
            && i32::try_from(device.memory_mib).is_ok()
    };
    let names: BTreeSet<&str> = devices.iter().map(|device| device.uuid.as_str()).collect();
    devices.len() <= MAX_DEVICES_PER_NODE
        && names.len() == devices.len()
        && devices.iter().all(device)
        && serde_json::to_vec(&from_wire(devices)).is_ok_and(|json| json.len() <= HUB_DEVICES_BYTES)
}

/// As the hub's copy has them.
pub fn from_wire(devices: &[v1::Device]) -> Vec<GpuDevice> {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let devices = devices.iter().map(|device| GpuDevice {
        uuid: device.uuid.clone(),
        health: match device.health() {
            Health::Healthy | Health::Unspecified => DeviceHealth::Healthy,
            Health::Degraded => DeviceHealth::Degraded,
            Health::Unhealthy => DeviceHealth::Unhealthy,
        },
        reasons: device
            .reasons
            .iter()
            .map(|reason| DeviceReason { code: reason.code.clone(), message: reason.message.clone() })
            .collect(),
        product: some(&device.product),
        memory_mib: i64::try_from(device.memory_mib).ok().filter(|memory| *memory > 0),
        profile: some(&device.profile),
        ..GpuDevice::default()
    });
    devices.collect()
}

/// As the agent said them; the inverse of [`from_wire`].
pub fn to_wire(devices: &[GpuDevice]) -> Vec<v1::Device> {
    let devices = devices.iter().map(|device| v1::Device {
        uuid: device.uuid.clone(),
        health: match device.health {
            DeviceHealth::Healthy => Health::Healthy,
            DeviceHealth::Degraded => Health::Degraded,
            DeviceHealth::Unhealthy => Health::Unhealthy,
        }
        .into(),
        reasons: device
            .reasons
            .iter()
            .map(|reason| v1::DeviceReason { code: reason.code.clone(), message: reason.message.clone() })
            .collect(),
        product: device.product.clone().unwrap_or_default(),
        memory_mib: device.memory_mib.and_then(|memory| u64::try_from(memory).ok()).unwrap_or(0),
        profile: device.profile.clone().unwrap_or_default(),
    });
    devices.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sick(uuid: &str) -> v1::Device {
        v1::Device {
            uuid: uuid.to_owned(),
            health: Health::Unhealthy.into(),
            reasons: vec![v1::DeviceReason {
                code: "RowRemapFailed".to_owned(),
                message: "no spare row is left; \"replace\" the GPU".to_owned(),
            }],
            product: "NVIDIA L40S".to_owned(),
            memory_mib: 46_068,
            profile: "1g.10gb".to_owned(),
        }
    }

    #[test]
    fn what_the_hub_keeps_is_what_the_agent_said() {
        let healthy = v1::Device { uuid: "GPU-1".to_owned(), health: Health::Healthy.into(), ..v1::Device::default() };
        let devices = vec![sick("GPU-0"), healthy];
        assert!(believable(&devices));
        assert_eq!(to_wire(&from_wire(&devices)), devices);
        let json = serde_json::to_string(&from_wire(&devices[1..])).unwrap();
        assert_eq!(json, r#"[{"uuid":"GPU-1"}]"#, "a healthy one costs no more than its name");
    }

    #[test]
    fn devices_that_cannot_be_are_refused() {
        let with = |change: fn(&mut v1::Device)| {
            let mut device = sick("GPU-0");
            change(&mut device);
            vec![device]
        };
        let cases = [
            ("no name", with(|d| d.uuid.clear())),
            ("a long name", with(|d| d.uuid = "u".repeat(65))),
            ("a name with a line's end", with(|d| d.uuid = "GPU\n".to_owned())),
            ("no health", with(|d| d.health = 0)),
            ("a health of the future", with(|d| d.health = 9)),
            ("a reason without a word", with(|d| d.reasons[0].code.clear())),
            ("a reason that is no word", with(|d| d.reasons[0].code = "two words".to_owned())),
            ("an unreadable message", with(|d| d.reasons[0].message = "\u{1b}[31m".to_owned())),
            ("endless reasons", with(|d| d.reasons = vec![d.reasons[0].clone(); 9])),
            ("an impossible memory", with(|d| d.memory_mib = u64::MAX)),
            ("one device twice", vec![sick("GPU-0"), sick("GPU-0")]),
            ("more than a copy may hold", (0..20).map(|index| sick(&format!("GPU-{index}"))).collect()),
        ];
        for (what, devices) in cases {
            assert!(!believable(&devices), "{what}");
        }
    }
}
