//! The GPU models that a node can have, as data.

use crate::mig;

/// One model of GPU. Sizes and limits are those that the products' drivers report, as far as they are published;
/// the rest (idle power, vendor numbers of boards) is plausible.
#[derive(Debug, PartialEq)]
pub struct Model {
    /// Its name in a node's specification.
    pub key: &'static str,
    /// What nvmlDeviceGetName says.
    pub name: &'static str,
    /// `nvmlBrandType_t`.
    pub brand: u32,
    /// `nvmlDeviceArchitecture_t`.
    pub architecture: u32,
    /// Compute capability.
    pub compute: (i32, i32),
    /// MiB in all.
    pub memory_mib: u64,
    /// MiB that the driver keeps for itself.
    pub reserved_mib: u64,
    /// MiB of the window in the machine's address space.
    pub bar1_mib: u64,
    /// Bits.
    pub memory_bus_bits: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// CUDA cores.
    pub cores: u32,
    /// PCI device and vendor.
    pub pci_device: u32,
    /// PCI subsystem.
    pub pci_subsystem: u32,
    /// Generation of PCI Express.
    pub pcie_generation: u32,
    /// Milliwatts.
    pub power: Power,
    /// MHz.
    pub clocks: Clocks,
    /// Degrees Celsius.
    pub heat: Heat,
    /// Whether memory is protected by ECC.
    pub ecc: bool,
    /// How it is joined to other GPUs.
    pub links: Links,
    /// Counters of the hardware (GPM) can be read.
    pub gpm: bool,
    /// How it can be divided.
    pub mig: Option<&'static mig::Table>,
    /// Fans that the driver sees.
    pub fans: u32,
    /// `nvmlGpuTopologyLevel_t` between a GPU and its neighbour (0 and 1, 2 and 3, …).
    pub neighbour: u32,
    /// Part number of the board.
    pub part: &'static str,
    /// Version of the firmware.
    pub vbios: &'static str,
}

/// Milliwatts.
#[derive(Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Power {
    pub idle: u32,
    pub minimum: u32,
    pub limit: u32,
    pub maximum: u32,
}

/// MHz, idle and highest.
#[derive(Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Clocks {
    pub graphics: (u32, u32),
    pub memory: (u32, u32),
    pub video: (u32, u32),
}

/// Degrees Celsius.
#[derive(Debug, PartialEq)]
pub struct Heat {
    /// Without work.
    pub idle: i32,
    /// At full load.
    pub full: i32,
    /// The memory has a sensor of its own.
    pub memory_sensor: bool,
    /// Clocks are halved above it.
    pub slowdown: i32,
    /// The GPU turns itself off above it.
    pub shutdown: i32,
    /// Highest for work.
    pub gpu_maximum: i32,
    /// Highest for memory.
    pub memory_maximum: i32,
}

/// How GPUs are joined.
#[derive(Debug, PartialEq)]
pub struct Links {
    /// Links (`NVLink`) per GPU.
    pub count: u32,
    /// `nvmlNvlinkVersion_t`.
    pub version: u32,
    /// Megabytes a second of one link in one direction.
    pub speed: u32,
    /// Where they end.
    pub to: LinkEnd,
}

/// Where the links of a GPU end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// There are none.
    Nowhere,
    /// At switches that all GPUs of this model on the node share.
    Switches,
    /// At the neighbour (0 and 1, 2 and 3, …).
    Neighbour,
}

impl Model {
    /// The model of a name.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.key == key)
    }
}

const NO_LINKS: Links = Links { count: 0, version: 0, speed: 0, to: LinkEnd::Nowhere };

/// All models.
pub const MODELS: &[Model] = &[
    Model {
        key: "h100",
        name: "NVIDIA H100 80GB HBM3",
        brand: 14,
        architecture: 9,
        compute: (9, 0),
        memory_mib: 81_559,
        reserved_mib: 554,
        bar1_mib: 131_072,
        memory_bus_bits: 5120,
        multiprocessors: 132,
        cores: 16_896,
        pci_device: 0x2330_10de,
        pci_subsystem: 0x16c1_10de,
        pcie_generation: 5,
        power: Power { idle: 70_000, minimum: 200_000, limit: 700_000, maximum: 700_000 },
        clocks: Clocks { graphics: (345, 1980), memory: (2619, 2619), video: (765, 1545) },
        heat: Heat {
            idle: 29,
            full: 66,
            memory_sensor: true,
            slowdown: 90,
            shutdown: 95,
            gpu_maximum: 87,
            memory_maximum: 95,
        },
        ecc: true,
        links: Links { count: 18, version: 6, speed: 26_562, to: LinkEnd::Switches },
        gpm: true,
        mig: Some(&mig::H100_80),
        fans: 0,
        neighbour: 40,
        part: "692-2G520-0200-000",
        vbios: "96.00.74.00.01",
    },
    Model {
        key: "a100",
        name: "NVIDIA A100-SXM4-80GB",
        brand: 14,
        architecture: 7,
        compute: (8, 0),
        memory_mib: 81_920,
        reserved_mib: 609,
        bar1_mib: 131_072,
        memory_bus_bits: 5120,
        multiprocessors: 108,
        cores: 6912,
        pci_device: 0x20b2_10de,
        pci_subsystem: 0x147f_10de,
        pcie_generation: 4,
        power: Power { idle: 62_000, minimum: 100_000, limit: 400_000, maximum: 400_000 },
        clocks: Clocks { graphics: (210, 1410), memory: (1593, 1593), video: (585, 1290) },
        heat: Heat {
            idle: 31,
            full: 63,
            memory_sensor: true,
            slowdown: 89,
            shutdown: 92,
            gpu_maximum: 85,
            memory_maximum: 95,
        },
        ecc: true,
        links: Links { count: 12, version: 5, speed: 25_000, to: LinkEnd::Switches },
        gpm: false,
        mig: Some(&mig::A100_80),
        fans: 0,
        neighbour: 20,
        part: "692-2G506-0210-002",
        vbios: "92.00.45.00.03",
    },
    Model {
        key: "a100-pcie",
        name: "NVIDIA A100 80GB PCIe",
        brand: 14,
        architecture: 7,
        compute: (8, 0),
        memory_mib: 81_920,
        reserved_mib: 609,
        bar1_mib: 131_072,
        memory_bus_bits: 5120,
        multiprocessors: 108,
        cores: 6912,
        pci_device: 0x20b5_10de,
        pci_subsystem: 0x1533_10de,
        pcie_generation: 4,
        power: Power { idle: 45_000, minimum: 150_000, limit: 300_000, maximum: 300_000 },
        clocks: Clocks { graphics: (210, 1410), memory: (1512, 1512), video: (585, 1290) },
        heat: Heat {
            idle: 33,
            full: 68,
            memory_sensor: true,
            slowdown: 90,
            shutdown: 93,
            gpu_maximum: 85,
            memory_maximum: 95,
        },
        ecc: true,
        links: Links { count: 12, version: 5, speed: 25_000, to: LinkEnd::Neighbour },
        gpm: false,
        mig: Some(&mig::A100_80),
        fans: 0,
        neighbour: 30,
        part: "900-21001-0020-000",
        vbios: "92.00.68.00.01",
    },
    Model {
        key: "l40s",
        name: "NVIDIA L40S",
        brand: 14,
        architecture: 8,
        compute: (8, 9),
        memory_mib: 46_068,
        reserved_mib: 599,
        bar1_mib: 65_536,
        memory_bus_bits: 384,
        multiprocessors: 142,
        cores: 18_176,
        pci_device: 0x26b9_10de,
        pci_subsystem: 0x1851_10de,
        pcie_generation: 4,
        power: Power { idle: 34_000, minimum: 100_000, limit: 350_000, maximum: 350_000 },
        clocks: Clocks { graphics: (210, 2520), memory: (405, 9001), video: (1185, 1965) },
        heat: Heat {
            idle: 32,
            full: 72,
            memory_sensor: false,
            slowdown: 99,
            shutdown: 102,
            gpu_maximum: 88,
            memory_maximum: 0,
        },
        ecc: true,
        links: NO_LINKS,
        gpm: false,
        mig: None,
        fans: 0,
        neighbour: 10,
        part: "900-2G133-0080-000",
        vbios: "95.02.66.00.02",
    },
    Model {
        key: "rtx4090",
        name: "NVIDIA GeForce RTX 4090",
        brand: 5,
        architecture: 8,
        compute: (8, 9),
        memory_mib: 24_564,
        reserved_mib: 352,
        bar1_mib: 32_768,
        memory_bus_bits: 384,
        multiprocessors: 128,
        cores: 16_384,
        pci_device: 0x2684_10de,
        pci_subsystem: 0x889d_1043,
        pcie_generation: 4,
        power: Power { idle: 22_000, minimum: 150_000, limit: 450_000, maximum: 600_000 },
        clocks: Clocks { graphics: (210, 3105), memory: (405, 10_501), video: (1185, 2415) },
        heat: Heat {
            idle: 34,
            full: 70,
            memory_sensor: false,
            slowdown: 97,
            shutdown: 100,
            gpu_maximum: 84,
            memory_maximum: 0,
        },
        ecc: false,
        links: NO_LINKS,
        gpm: false,
        mig: None,
        fans: 2,
        neighbour: 30,
        part: "",
        vbios: "95.02.3C.00.8C",
    },
];
