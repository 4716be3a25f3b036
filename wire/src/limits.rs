//! How large anything on the wire may be. Each end refuses what is larger.
//!
//! [`MAX_MESSAGE_BYTES`] follows from the others with room to spare; the tests add up the largest message of each kind.

/// The most bytes of one message, either way.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// The most bytes of one slice's `spec_json`: 500 members with the longest node names and a template of 64 KiB take a
/// quarter of it.
pub const MAX_SPEC_BYTES: usize = 1024 * 1024;

/// The most slices of one Site: all of them are named in one `Hello` and in one `SyncComplete`.
pub const MAX_SLICES: usize = 10_000;

/// The most nodes in one part of an inventory.
pub const MAX_NODES_PER_MESSAGE: usize = 1_000;

/// The most nodes of one Site.
pub const MAX_NODES: usize = 20_000;

/// The most members in one report: those of the slice, and as many of older incarnations that have not stopped yet.
pub const MAX_REPORT_MEMBERS: usize = 1_000;

/// The most bytes of a node's name: what a `GPUNode` name of the hub leaves after the Site's name and the dot.
pub const MAX_NODE_NAME_BYTES: usize = 253 - crate::pin::SITE_NAME_BYTES - 1;

/// The most bytes of a product name, as a label value or NVML gives it.
pub const MAX_PRODUCT_BYTES: usize = 128;

/// The most bytes of a driver's version.
pub const MAX_DRIVER_BYTES: usize = 64;

/// The most bytes of a reason, an agent's version or a boot id.
pub const MAX_WORD_BYTES: usize = 128;

/// The most bytes of a message for people; longer ones are cut by who receives them.
pub const MAX_TEXT_BYTES: usize = 512;

/// The most bytes of a Site's display name.
pub const MAX_DISPLAY_NAME_BYTES: usize = 63;

/// The most GPUs of one node that are believed.
pub const MAX_GPUS_PER_NODE: u32 = 1_024;

/// The most devices of one node that are described. How much all of them may say together follows from the size of the
/// hub's copy, `atoll_api::gpu_node::HUB_DEVICES_BYTES`.
pub const MAX_DEVICES_PER_NODE: usize = 32;

/// The most bytes of a device's UUID.
pub const MAX_UUID_BYTES: usize = 64;

/// The most members that a watchdog says run on its node.
pub const MAX_RUNNING_MEMBERS: usize = 1_024;

/// The most bytes of a message between a watchdog and its agent, either way.
pub const MAX_WATCHDOG_MESSAGE_BYTES: usize = 256 * 1024;

/// The most reasons of one device.
pub const MAX_DEVICE_REASONS: usize = 8;

/// The most bytes of a certificate signing request.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// How long the gateway waits for `Hello`, in seconds.
pub const HELLO_SECONDS: u64 = 10;

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::v1;

    fn text(bytes: usize) -> String {
        "x".repeat(bytes)
    }

    fn key() -> v1::SliceKey {
        v1::SliceKey { namespace: text(63), name: text(63), cluster_uid: text(36) }
    }

    #[test]
    fn the_largest_message_of_each_kind_fits() {
        let node = v1::Node {
            name: text(MAX_NODE_NAME_BYTES),
            product: text(MAX_PRODUCT_BYTES),
            memory_mib: u64::MAX,
            allocatable: u32::MAX,
            used_by_others: u32::MAX,
            ready: true,
            driver: text(MAX_DRIVER_BYTES),
            unschedulable: true,
            price_per_gpu_hour: text(32),
            unhealthy: u32::MAX,
            // More than fits into the hub's copy, in any form.
            devices: vec![v1::Device { uuid: text(MAX_UUID_BYTES), ..v1::Device::default() }; MAX_DEVICES_PER_NODE],
            fence: 2,
        };
        let inventory = v1::InventoryDelta {
            full: true,
            nodes: vec![node; MAX_NODES_PER_MESSAGE],
            removed: vec![text(MAX_NODE_NAME_BYTES); MAX_NODES_PER_MESSAGE],
            more: true,
        };
        let hello = v1::Hello {
            agent_version: text(MAX_WORD_BYTES),
            boot_id: text(MAX_WORD_BYTES),
            inventory_digest: vec![0; 32],
            slices: vec![v1::SliceDigest { key: Some(key()), digest: vec![0; 32] }; MAX_SLICES],
            availability: 3,
        };
        let member = v1::Member {
            rank: u32::MAX,
            incarnation: u64::MAX,
            phase: 7,
            node: text(253),
            address: text(45),
            reason: text(MAX_WORD_BYTES),
            message: text(MAX_TEXT_BYTES),
        };
        let report = v1::SliceReport {
            key: Some(key()),
            observed_epoch: u64::MAX,
            observed_generation: i64::MAX,
            reservation: 3,
            reason: text(MAX_WORD_BYTES),
            message: text(MAX_TEXT_BYTES),
            members: vec![member; MAX_REPORT_MEMBERS],
            gone: true,
        };
        let slice = v1::Slice { key: Some(key()), generation: i64::MAX, spec_json: vec![0; MAX_SPEC_BYTES] };
        let sync = v1::SyncComplete { slices: vec![key(); MAX_SLICES] };
        let sizes = [
            inventory.encoded_len(),
            hello.encoded_len(),
            report.encoded_len(),
            slice.encoded_len(),
            sync.encoded_len(),
        ];
        assert!(sizes.iter().all(|size| *size + 16 <= MAX_MESSAGE_BYTES), "{sizes:?}");
    }
}
