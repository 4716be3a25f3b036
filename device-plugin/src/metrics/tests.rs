use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::device::{
    ClockLimits, EccCounts, LinkCounts, Process, Reading, Reason, RemappedRows, State, Temperature, Verdict,
};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};
use tokio::sync::watch;

use super::{Exporter, Families, about_devices, about_round, dcgm, own};
use crate::attribution::Attributed;
use crate::backend::{Device, DeviceId, Driver, Profile, Sample, Usage};
use crate::engine::script::{gpu, instance};
use crate::kubelet::Registered;
use crate::state::{DeviceState, Holder, NodeDevices, Round};

/// A sample in which everything is known.
fn sample() -> Sample {
    let link = |link| LinkCounts { link, active: link != 1, replays: 1, recoveries: 2, crc_errors: 3 };
    Sample {
        reading: Reading {
            ecc: Some(EccCounts { corrected: 7, uncorrected: 1 }),
            remapped: Some(RemappedRows { corrected: 2, uncorrected: 3, pending: true, failed: false }),
            retirement_pending: Some(false),
            links: vec![link(0), link(1)],
            temperature: Some(Temperature { gpu: 61, memory: Some(70), slowdown: Some(87), shutdown: Some(92) }),
            clock_limits: Some(ClockLimits { software_power: true, ..ClockLimits::default() }),
            power_milliwatts: Some(412_345),
            power_limit_milliwatts: Some(700_000),
            processes: Some(vec![Process { pid: 1, memory_mib: None }]),
            memory_used_mib: Some(1024),
            ..Reading::default()
        },
        usage: Usage {
            sm_clock_mhz: Some(1980),
            memory_clock_mhz: Some(2619),
            vgpu_licensed: Some(false),
            energy_millijoules: Some(5_000_500),
            gpu_utilization: Some(0.57),
            memory_utilization: Some(0.2),
            encoder_utilization: Some(0.0),
            decoder_utilization: Some(1.0),
            memory_free_mib: Some(80_000),
            memory_reserved_mib: Some(535),
            pcie_replays: Some(4),
            nvlink_bytes: Some(3_000_000_000),
            profile: Some(Profile {
                graphics_active: Some(0.5),
                tensor_active: Some(0.25),
                dram_active: Some(0.125),
                sm_active: Some(0.75),
                sm_occupancy: Some(0.5),
                pcie_sent: Some(1e9),
                pcie_received: Some(2e9),
            }),
        },
    }
}

fn devices(of: &[Device]) -> NodeDevices {
    let driver = Driver { version: "580.95.05".to_owned(), cuda: Some((13, 0)) };
    let state = |device: &Device| DeviceState { device: Arc::new(device.clone()), verdict: Verdict::default() };
    NodeDevices { driver: Some(driver), devices: of.iter().map(state).collect() }
}

fn holder(pod: &str) -> Holder {
    Holder { namespace: "team".to_owned(), pod: pod.to_owned(), uid: String::new(), container: "main".to_owned() }
}

fn attributed(of: &[Device], holders: &[(&str, &[&str])]) -> Attributed {
    let mut before = sample();
    before.usage.nvlink_bytes = Some(1_000_000_000);
    let round = |at: u64, sample: Sample| Round {
        span: (Duration::from_secs(at), Duration::from_millis(at * 1000 + 250)),
        samples: of.iter().map(|device| (Arc::new(device.clone()), Arc::new(sample.clone()))).collect(),
        xids: vec![("GPU-0".into(), 31, 3)],
        last_xids: vec![("GPU-0".into(), 31)],
    };
    let pods = |pods: &[&str]| pods.iter().map(|pod| holder(pod)).collect::<BTreeSet<Holder>>();
    Attributed {
        round: Arc::new(round(12, sample())),
        previous: Arc::new(round(10, before)),
        holders: holders.iter().map(|(id, of)| (DeviceId::from(*id), pods(of))).collect(),
    }
}

fn collect(devices: &NodeDevices, attributed: Option<&Attributed>) -> Vec<MetricFamily> {
    let mut families = Families::default();
    about_devices(&mut families, devices);
    if let Some(attributed) = attributed {
        about_round(&mut families, "node-1", devices, attributed);
    }
    families.finish()
}

fn text(devices: &NodeDevices, attributed: Option<&Attributed>) -> String {
    TextEncoder::new().encode_to_string(&collect(devices, attributed)).unwrap()
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|is| is == line), "no line {line}\nin\n{text}");
}

#[test]
fn quantities_have_base_units_in_ours_and_dcgms_in_theirs() {
    let gpus = [gpu(0)];
    let text = text(&devices(&gpus), Some(&attributed(&gpus, &[("GPU-0", &["train-0"])])));
    let pod = r#"namespace="team",pod="train-0",container="main""#;
    for (name, labels, value) in [
        ("atoll_gpu_power_watts", format!(",{pod}"), "412.345"),
        ("atoll_gpu_memory_used_bytes", format!(",{pod}"), "1073741824"),
        ("atoll_gpu_utilization_ratio", format!(r#",part="gpu",{pod}"#), "0.57"),
        ("atoll_gpu_clock_hertz", format!(r#",domain="sm",{pod}"#), "1980000000"),
        ("atoll_gpu_throttled", format!(r#",reason="software_power",{pod}"#), "1"),
        ("atoll_gpu_profile_ratio", format!(r#",part="tensor",{pod}"#), "0.25"),
        ("atoll_gpu_energy_joules_total", String::new(), "5000.5"),
        ("atoll_gpu_ecc_errors_total", r#",kind="corrected""#.to_owned(), "7"),
        ("atoll_gpu_nvlink_errors_total", r#",kind="crc""#.to_owned(), "6"),
        ("atoll_gpu_nvlinks", r#",state="inactive""#.to_owned(), "1"),
        ("atoll_gpu_remapped_rows", r#",kind="uncorrected""#.to_owned(), "3"),
        ("atoll_gpu_row_remap_pending", String::new(), "1"),
        ("atoll_gpu_holder", format!(",{pod}"), "1"),
    ] {
        has(&text, &format!(r#"{name}{{gpu="0",uuid="GPU-0"{labels}}} {value}"#));
    }
    has(&text, r#"atoll_gpu_xid_errors_total{uuid="GPU-0",gpu="0",xid="31"} 3"#);
    has(&text, "atoll_gpu_sample_round_seconds 0.25");
    let dcgm = format!(
        r#"gpu="0",UUID="GPU-0",pci_bus_id="00000000:00:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1",DCGM_FI_DRIVER_VERSION="580.95.05",{pod}"#
    );
    for (name, value) in [
        ("DCGM_FI_DEV_POWER_USAGE", "412.345"),
        ("DCGM_FI_DEV_FB_USED", "1024"),
        ("DCGM_FI_DEV_GPU_UTIL", "57"),
        ("DCGM_FI_DEV_SM_CLOCK", "1980"),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "5000500"),
        ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "0.25"),
        ("DCGM_FI_DEV_XID_ERRORS", "31"),
        ("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "1000"),
        ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "3"),
        ("DCGM_FI_DEV_VGPU_LICENSE_STATUS", "0"),
    ] {
        has(&text, &format!("{name}{{{dcgm}}} {value}"));
    }
}

#[test]
fn an_instance_says_whose_it_is() {
    let instances = [instance(1, 3)];
    let text = text(&devices(&instances), Some(&attributed(&instances, &[])));
    has(
        &text,
        r#"atoll_gpu_memory_used_bytes{gpu="1",uuid="MIG-1-3",gpu_instance="3",compute_instance="0"} 1073741824"#,
    );
    let line = text.lines().find(|line| line.starts_with("DCGM_FI_DEV_FB_USED")).unwrap();
    assert!(line.contains(r#"UUID="GPU-1""#), "{line}");
    assert!(line.contains(r#"GPU_I_PROFILE="1g.10gb",GPU_I_ID="3""#), "{line}");
}

#[test]
fn a_shared_device_names_its_holders_and_labels_no_sample() {
    let gpus = [gpu(0)];
    let text = text(&devices(&gpus), Some(&attributed(&gpus, &[("GPU-0", &["a", "b"])])));
    let named = text.lines().filter(|line| line.contains("pod=")).count();
    assert_eq!(named, 2);
    assert_eq!(text.lines().filter(|line| line.starts_with("atoll_gpu_holder")).count(), 2);
}

#[test]
fn a_sick_device_says_why_and_has_one_state() {
    let mut devices = devices(&[gpu(0), gpu(1)]);
    let reason = |code| Reason { code, message: "See there.".to_owned(), since: Duration::ZERO };
    devices.devices[1].verdict =
        Verdict { state: State::Unhealthy, reasons: vec![reason("Lost"), reason("Hot"), reason("Lost")] };
    let text = text(&devices, None);
    has(&text, r#"atoll_gpu_health{gpu="0",uuid="GPU-0",state="healthy"} 1"#);
    has(&text, r#"atoll_gpu_health{gpu="1",uuid="GPU-1",state="healthy"} 0"#);
    has(&text, r#"atoll_gpu_health{gpu="1",uuid="GPU-1",state="unhealthy"} 1"#);
    has(&text, r#"atoll_gpu_health_reason{gpu="1",uuid="GPU-1",reason="Hot"} 1"#);
    assert_eq!(text.lines().filter(|line| line.starts_with("atoll_gpu_health_reason")).count(), 2);
    has(&text, r#"atoll_gpu_driver_info{version="580.95.05",cuda="13.0"} 1"#);
    has(&text, "atoll_gpu_driver_up 1");
}

#[test]
fn no_series_is_there_twice_and_no_metric_is_split() {
    let all = [gpu(0), instance(1, 1), instance(1, 2), {
        let mut second = instance(1, 2);
        second.id = "MIG-1-2-1".into();
        second.instance.as_mut().unwrap().compute_instance = 1;
        second
    }];
    let families = collect(&devices(&all), Some(&attributed(&all, &[])));
    let names: BTreeSet<&str> = families.iter().map(MetricFamily::name).collect();
    assert_eq!(names.len(), families.len());
    let text = TextEncoder::new().encode_to_string(&families).unwrap();
    let series: Vec<&str> =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len());
}

#[test]
fn what_is_not_known_has_no_series() {
    let gpus = [gpu(0)];
    let mut attributed = attributed(&gpus, &[]);
    let sample = (Arc::new(gpu(0)), Arc::new(Sample::default()));
    attributed.round = Arc::new(Round { samples: vec![sample], ..Round::default() });
    let text = text(&devices(&gpus), Some(&attributed));
    for field in own::FIELDS.iter().chain(dcgm::FIELDS) {
        assert!(!text.contains(&format!("\n{}{{", field.name)), "{}", field.name);
    }
}

#[test]
fn samples_that_are_old_are_gone_and_health_stays() {
    let gpus = [gpu(0)];
    let (_keep, devices) = watch::channel(Arc::new(devices(&gpus)));
    let (_keep_too, attributed) = watch::channel(Arc::new(attributed(&gpus, &[])));
    let registered = [("nvidia.com/gpu".to_owned(), Registered { times: 2, connected: true })];
    let (_keep_this, registered) = watch::channel(registered.into());
    let scrape = |now: u64| {
        let registry = Registry::new();
        let exporter = Exporter {
            node: "node-1".to_owned(),
            devices: devices.clone(),
            attributed: attributed.clone(),
            registered: registered.clone(),
            period: Duration::from_secs(1),
            clock: Arc::new(move || Duration::from_secs(now)),
            description: Exporter::description().unwrap(),
        };
        registry.register(Box::new(exporter)).unwrap();
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    };
    let fresh = scrape(13);
    assert!(fresh.contains("DCGM_FI_DEV_GPU_TEMP{") && fresh.contains("atoll_gpu_health{"));
    has(&fresh, r#"atoll_gpu_kubelet_registrations_total{resource="nvidia.com/gpu"} 2"#);
    let stale = scrape(60);
    assert!(!stale.contains("DCGM_FI_DEV_GPU_TEMP{") && stale.contains("atoll_gpu_health{"));
}
