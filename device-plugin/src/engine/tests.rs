use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_core::device::{Fault, Reading, State};
use tokio::sync::watch;

use super::owner::Owner;
use super::script::{Script, gpu, instance, xid};
use super::watcher::Watcher;
use super::{Command, Node, Shared};
use crate::backend::{BackendError, Device, DeviceId, Event, Subject};
use crate::kubelet::Prepare as _;
use crate::state::{NodeDevices, Round};

/// XIDs of NVIDIA's catalogue: fell off the bus; an application's fault.
const OFF_THE_BUS: u32 = 79;
const APPLICATION: u32 = 31;

const SECOND: Duration = Duration::from_secs(1);

/// Both threads, stepped by hand.
struct Bench {
    script: Script,
    owner: Owner,
    watcher: Watcher,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    devices: watch::Receiver<Arc<NodeDevices>>,
    rounds: watch::Receiver<Arc<Round>>,
}

impl Bench {
    fn new(script: &Script) -> Self {
        let (devices_sent, devices) = watch::channel(Arc::default());
        let (rounds_sent, rounds) = watch::channel(Arc::default());
        let (to_owner, commands) = channel();
        let (to_watcher, events) = channel();
        let shared = Arc::new(Shared { node: Mutex::default(), clock: script.clock(), devices: devices_sent });
        shared.node().occupied(BTreeSet::new(), Duration::ZERO);
        let owner = Owner::new(script.backend(), SECOND, Arc::clone(&shared), rounds_sent, to_watcher);
        let watcher = Watcher::new(Arc::clone(&shared), to_owner, events);
        Self { script: script.clone(), owner, watcher, commands, shared, devices, rounds }
    }

    /// As many rounds as seconds.
    fn seconds(&mut self, count: u32) {
        for _ in 0..count {
            assert!(self.owner.round(&self.commands));
            self.script.pass(SECOND);
        }
    }

    /// The watcher takes what comes next.
    fn event(&mut self, event: Event) {
        self.script.world().events.push_back(Ok(vec![event]));
        assert!(self.watcher.step());
    }

    /// The owner does what it was told.
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            assert!(self.owner.obey(command));
        }
        self.owner.look_if_due();
    }

    /// The published devices that are in this state.
    fn are(&self, state: State) -> Vec<String> {
        let devices = self.devices.borrow();
        let are = devices.devices.iter().filter(|device| device.verdict.state == state);
        are.map(|device| device.device.id.to_string()).collect()
    }
}

fn names(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[test]
fn a_fault_is_published_without_waiting_for_a_sample() {
    let script = Script::gpus(8);
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    assert_eq!(bench.are(State::Healthy).len(), 8);
    let sampled = script.world().sampled.len();
    bench.event(xid(Subject::Gpu("GPU-3".into()), OFF_THE_BUS));
    assert_eq!(bench.are(State::Unhealthy), ["GPU-3"]);
    assert_eq!(bench.are(State::Healthy).len(), 7);
    assert_eq!(script.world().sampled.len(), sampled);
    // And whom it hit is looked at besides the rounds.
    bench.obey();
    assert_eq!(script.world().sampled[sampled..], ["GPU-3".into()]);
}

#[test]
fn a_fault_of_a_gpu_hits_all_its_instances_and_one_of_an_instance_hits_that_one() {
    let divided = || {
        let script = Script::gpus(0);
        script.world().devices = vec![gpu(0), instance(1, 1), instance(1, 2), instance(2, 1)];
        let mut bench = Bench::new(&script);
        bench.seconds(1);
        bench
    };
    let mut bench = divided();
    bench.event(xid(Subject::Gpu("GPU-1".into()), OFF_THE_BUS));
    assert_eq!(bench.are(State::Unhealthy), names(&["MIG-1-1", "MIG-1-2"]));
    let mut bench = divided();
    bench.event(xid(Subject::Instance("MIG-1-2".into()), OFF_THE_BUS));
    assert_eq!(bench.are(State::Unhealthy), names(&["MIG-1-2"]));
}

#[test]
fn an_event_of_nobody_known_condemns_nobody_and_has_everything_looked_at() {
    for subject in [Subject::Unknown, Subject::Instance("MIG-9-9".into())] {
        let script = Script::gpus(2);
        let mut bench = Bench::new(&script);
        bench.seconds(1);
        script.world().sampled.clear();
        bench.event(xid(subject, OFF_THE_BUS));
        assert_eq!(bench.are(State::Healthy).len(), 2);
        bench.obey();
        assert_eq!(script.world().sampled, ["GPU-0".into(), "GPU-1".into()]);
    }
}

#[test]
fn a_fault_of_an_application_condemns_nothing_and_is_counted() {
    let script = Script::gpus(2);
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    for _ in 0..3 {
        bench.event(xid(Subject::Gpu("GPU-1".into()), APPLICATION));
    }
    bench.seconds(1);
    assert_eq!(bench.are(State::Healthy).len(), 2);
    let round = bench.rounds.borrow();
    assert_eq!(round.xids, [("GPU-1".into(), APPLICATION, 3)]);
    assert_eq!(round.last_xids, [("GPU-1".into(), APPLICATION)]);
}

#[test]
fn a_storm_of_events_is_no_storm_of_samples() {
    let script = Script::gpus(8);
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    script.world().sampled.clear();
    for _ in 0..1000 {
        bench.event(xid(Subject::Gpu("GPU-1".into()), APPLICATION));
        bench.obey();
    }
    assert_eq!(script.world().sampled, ["GPU-1".into()]);
    script.pass(SECOND);
    bench.obey();
    assert_eq!(script.world().sampled.len(), 2);
}

#[test]
fn one_lost_gpu_of_eight_leaves_seven_and_comes_back_by_itself() {
    let script = Script::gpus(8);
    let mut bench = Bench::new(&script);
    bench.seconds(2);
    script.world().devices[5] = Device { lost: true, product: String::new(), ..gpu(5) };
    script.world().sampled.clear();
    bench.seconds(1);
    assert_eq!(bench.are(State::Unhealthy), ["GPU-5"]);
    assert_eq!(bench.are(State::Healthy).len(), 7);
    // A lost device is not asked, which may hang, and it still is what it was.
    assert!(!script.world().sampled.contains(&"GPU-5".into()));
    assert_eq!(bench.devices.borrow().devices[5].device.product, gpu(5).product);
    assert_eq!(bench.rounds.borrow().samples.len(), 7);
    script.world().devices[5] = gpu(5);
    bench.seconds(10);
    assert_eq!(bench.are(State::Healthy).len(), 8);
}

#[test]
fn one_failed_sample_is_no_news_and_two_are_a_lost_device() {
    let script = Script::gpus(2);
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    let failure = BackendError::Call { call: "nvmlDeviceGetTemperature", message: "unknown error".to_owned() };
    script.says("GPU-0", Err(failure));
    bench.seconds(1);
    assert_eq!(bench.are(State::Healthy).len(), 2);
    bench.seconds(1);
    assert_eq!(bench.are(State::Unhealthy), ["GPU-0"]);
    script.says("GPU-0", Ok(Reading::default()));
    bench.seconds(10);
    assert_eq!(bench.are(State::Healthy).len(), 2);
}

#[test]
fn a_new_gpu_is_offered_once_it_was_looked_at_and_events_follow_the_set() {
    let script = Script::gpus(2);
    let mut bench = Bench::new(&script);
    bench.seconds(2);
    script.world().devices.push(gpu(2));
    script.says("GPU-2", Err(BackendError::Unknown("GPU-2".into())));
    bench.seconds(1);
    assert_eq!(bench.devices.borrow().devices.len(), 2);
    script.says("GPU-2", Ok(Reading::default()));
    bench.seconds(1);
    assert_eq!(bench.devices.borrow().devices.len(), 3);
    let sets: Vec<usize> = script.world().event_sets.iter().map(Vec::len).collect();
    assert_eq!(sets, [2, 3]);
}

#[test]
fn a_divided_gpu_gives_way_to_its_instances_and_faults_are_remembered_across() {
    let script = Script::gpus(2);
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    bench.event(xid(Subject::Gpu("GPU-1".into()), OFF_THE_BUS));
    script.world().devices = vec![gpu(0), instance(1, 1), instance(1, 2)];
    bench.seconds(1);
    assert_eq!(bench.are(State::Healthy), names(&["GPU-0", "MIG-1-1", "MIG-1-2"]));
    assert_eq!(bench.rounds.borrow().xids, [("GPU-1".into(), OFF_THE_BUS, 1)]);
    script.world().devices = vec![gpu(0), gpu(1)];
    bench.seconds(1);
    assert_eq!(bench.devices.borrow().devices.len(), 2);
}

#[test]
fn devices_of_a_driver_that_went_away_are_lost_and_back_with_it() {
    let script = Script::gpus(2);
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    let driver = script.world().driver.take();
    bench.seconds(3);
    assert_eq!(bench.devices.borrow().driver, None);
    assert_eq!(bench.are(State::Unhealthy).len(), 2);
    assert!(bench.rounds.borrow().samples.is_empty());
    script.world().driver = driver;
    bench.seconds(10);
    assert!(bench.devices.borrow().driver.is_some());
    assert_eq!(bench.are(State::Healthy).len(), 2);
    assert_eq!(script.world().event_sets.len(), 2);
}

#[test]
fn without_a_driver_it_is_told_that_there_is_nothing() {
    let script = Script::gpus(0);
    script.world().driver = None;
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    assert_eq!(**bench.devices.borrow(), NodeDevices::default());
    assert_eq!(bench.shared.node().published(SECOND), Some(NodeDevices::default()));
}

#[test]
fn a_failing_event_wait_condemns_nobody_and_is_made_anew_once_a_period() {
    let script = Script::gpus(2);
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    let failure = BackendError::Call { call: "nvmlEventSetWait_v2", message: "unknown error".to_owned() };
    for made in 2..5 {
        for _ in 0..3 {
            script.world().events.push_back(Err(failure.clone()));
        }
        assert!(bench.watcher.step());
        bench.obey();
        assert_eq!(script.world().event_sets.len(), made - 1);
        script.world().events.clear();
        bench.seconds(1);
        assert_eq!(script.world().event_sets.len(), made);
    }
    assert_eq!(bench.are(State::Healthy).len(), 2);
    bench.event(xid(Subject::Gpu("GPU-0".into()), OFF_THE_BUS));
    assert_eq!(bench.are(State::Unhealthy), ["GPU-0"]);
}

#[test]
fn a_driver_without_events_is_sampled() {
    let script = Script::gpus(2);
    script.world().no_event_sets = true;
    let mut bench = Bench::new(&script);
    bench.seconds(2);
    assert_eq!(bench.are(State::Healthy).len(), 2);
    script.world().no_event_sets = false;
    bench.seconds(1);
    assert_eq!(script.world().event_sets.len(), 1);
}

#[test]
fn nothing_is_published_when_nothing_changed() {
    let script = Script::gpus(8);
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    bench.devices.mark_unchanged();
    bench.seconds(60);
    assert!(!bench.devices.has_changed().unwrap());
    assert!(bench.rounds.has_changed().unwrap());
}

#[test]
fn nothing_is_offered_before_everything_was_looked_at_once() {
    let script = Script::gpus(2);
    let mut bench = Bench::new(&script);
    bench.devices.mark_unchanged();
    bench.shared.decide(|node, now| node.fault(&xid(Subject::Unknown, APPLICATION), now));
    assert!(!bench.devices.has_changed().unwrap());
    bench.seconds(1);
    assert_eq!(bench.devices.borrow().devices.len(), 2);
}

#[test]
fn a_call_that_hangs_costs_its_device_and_no_other() {
    let script = Script::gpus(3);
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    let ask = |bench: &Bench, question| {
        let now = bench.shared.now();
        bench.shared.node().asked(question, now);
    };
    ask(&bench, super::node::Question::Device("GPU-1".into()));
    for _ in 0..40 {
        assert!(bench.watcher.step());
    }
    assert_eq!(bench.are(State::Unhealthy), ["GPU-1"]);
    bench.event(xid(Subject::Gpu("GPU-2".into()), OFF_THE_BUS));
    assert_eq!(bench.are(State::Unhealthy), names(&["GPU-1", "GPU-2"]));
    // One that lists devices concerns them all.
    ask(&bench, super::node::Question::Devices);
    for _ in 0..40 {
        assert!(bench.watcher.step());
    }
    assert_eq!(bench.devices.borrow().driver, None);
    bench.seconds(1);
    assert!(bench.devices.borrow().driver.is_some());
    assert!(bench.are(State::Healthy).contains(&"GPU-0".to_owned()));
}

#[test]
fn processes_of_pods_that_were_there_before_are_no_strangers() {
    let script = Script::gpus(1);
    let busy = Reading {
        processes: Some(vec![atoll_core::device::Process { pid: 4711, memory_mib: Some(1000) }]),
        memory_used_mib: Some(1000),
        ..Reading::default()
    };
    script.says("GPU-0", Ok(busy));
    let mut bench = Bench::new(&script);
    *bench.shared.node() = Node::default();
    bench.seconds(120);
    assert_eq!(bench.are(State::Healthy), ["GPU-0"]);
    bench.shared.decide(|node, now| node.occupied(BTreeSet::new(), now));
    bench.seconds(120);
    assert_eq!(bench.are(State::Unhealthy), ["GPU-0"]);
    let held: BTreeSet<DeviceId> = ["GPU-0".into()].into();
    bench.shared.decide(|node, now| node.occupied(held, now));
    assert_eq!(bench.are(State::Healthy), ["GPU-0"]);
}

#[test]
fn a_fault_by_another_event_than_an_xid_hits_its_device() {
    let script = Script::gpus(2);
    let mut bench = Bench::new(&script);
    bench.seconds(1);
    bench.event(Event { subject: Subject::Gpu("GPU-0".into()), fault: Fault::Unavailable });
    assert_eq!(bench.are(State::Unhealthy), ["GPU-0"]);
}

#[tokio::test]
async fn the_threads_prepare_publish_and_end() {
    let script = Script::gpus(2);
    script.world().live = true;
    let clock = {
        let begun = std::time::Instant::now();
        Arc::new(move || begun.elapsed())
    };
    let mut engine = super::start(script.backend(), Duration::from_millis(20), clock).unwrap();
    engine.devices.changed().await.unwrap();
    let edits = engine.handle.prepare(&["GPU-1".into(), "GPU-0".into()]).await.unwrap();
    assert_eq!(edits.env, [("DEVICES".to_owned(), "GPU-1,GPU-0".to_owned())]);
    let unknown = engine.handle.prepare(&["GPU-7".into()]).await;
    assert_eq!(unknown, Err(BackendError::Unknown("GPU-7".into())));
    script.world().events.push_back(Ok(vec![xid(Subject::Gpu("GPU-1".into()), OFF_THE_BUS)]));
    engine.devices.changed().await.unwrap();
    assert_eq!(engine.devices.borrow().devices[1].verdict.state, State::Unhealthy);
    drop(engine.handle);
    while engine.rounds.changed().await.is_ok() {}
    while engine.devices.changed().await.is_ok() {}
}
