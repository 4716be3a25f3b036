//! Figures to look at: `cargo test --release -p atoll-core scheduling::decide::tests::speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::*;

const NODES: usize = 5_000;

fn site() -> Nodes {
    nodes((0..NODES).map(|i| {
        let rack = format!("rack-{:02}", i / 100);
        let mut labels: Vec<(String, String)> =
            (0..20).map(|label| (format!("label.example.com/l{label}"), i.to_string())).collect();
        labels.push((RACK.to_owned(), rack));
        let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        labelled(node(&format!("node-{i:05}"), 8, 128), &labels)
    }))
}

/// Takes what was answered, and learns from it.
fn take(nodes: &mut Nodes, decider: &mut Decider, request: &GangRequest, assignment: &Assignment) {
    for (member, node) in request.members.iter().zip(&assignment.nodes) {
        nodes.put(node.as_ref().unwrap(), occupant(&member.shape));
        decider.observe(&member.shape, 1);
    }
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let total: Duration = times.iter().sum();
    println!(
        "{what}: mean {:?}, median {:?}, most {:?} of {}",
        total / u32::try_from(times.len()).unwrap(),
        times[times.len() / 2],
        times[times.len() - 1],
        times.len()
    );
}

fn timed<T>(times: &mut Vec<Duration>, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    times.push(start.elapsed());
    result
}

#[test]
#[ignore = "a measurement"]
fn single_pods() {
    let (mut nodes, mut decider) = (site(), Decider::default());
    let request = alike(&shape(1, 1), 1);
    let (mut first, mut next, mut learning) = (Vec::new(), Vec::new(), Vec::new());
    for pod in 0..10_000 {
        let times = if pod == 0 { &mut first } else { &mut next };
        let answer = timed(times, || decider.decide(&mut nodes, &request)).unwrap();
        timed(&mut learning, || take(&mut nodes, &mut decider, &request, &answer));
    }
    print("putting and learning", &mut learning);
    print("first pod of a class", &mut first);
    print("next pods", &mut next);
    let other = alike(&shape(1, 2), 1);
    let mut fresh = Vec::new();
    for _ in 0..50 {
        let mut decider = Decider::default();
        timed(&mut fresh, || decider.decide(&mut nodes, &other)).unwrap();
    }
    print("first pod of another class", &mut fresh);
    let in_a_rack = GangRequest { topology: vec![required(RACK)], ..other };
    let mut fresh = Vec::new();
    for _ in 0..50 {
        let mut decider = Decider::default();
        timed(&mut fresh, || decider.decide(&mut nodes, &in_a_rack)).unwrap();
    }
    print("first gang of another class in a rack", &mut fresh);
}

/// As bad as it gets for what the packing remembers: no two nodes are alike, cores are scarce, pods come and go in 40
/// shapes, and what comes changes.
#[test]
#[ignore = "a measurement"]
fn many_shapes_on_nodes_that_all_differ() {
    let mut random = 1_u64;
    let mut below = |count: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % count
    };
    let mut nodes = nodes((0..NODES).map(|i| {
        let mut state = node(&format!("node-{i:05}"), 8, 0);
        state.allocatable.set("cpu", 64_000 + i128::try_from(i).unwrap() * 7);
        state
    }));
    let shapes: Vec<_> =
        [1, 1, 1, 2, 4, 8, 1, 0].into_iter().cycle().zip(0..40).map(|(gpus, i)| shape(gpus, 4 + i % 13)).collect();
    let (mut decider, mut times, mut there) = (Decider::default(), Vec::new(), Vec::new());
    for pod in 0..20_000 {
        let common = if pod < 10_000 { 0 } else { 20 };
        let request = alike(&shapes[usize::try_from(common + below(20)).unwrap()], 1);
        if let Ok(answer) = timed(&mut times, || decider.decide(&mut nodes, &request)) {
            there.push(nodes.put(answer.nodes[0].as_ref().unwrap(), occupant(&request.members[0].shape)));
            decider.observe(&request.members[0].shape, 1);
        }
        if there.len() > 8_000 {
            nodes.take_off(there.swap_remove(usize::try_from(below(8_000)).unwrap()));
        }
    }
    print("first 1,000", &mut times[..1_000].to_vec());
    print("all", &mut times);
}

#[test]
#[ignore = "a measurement"]
fn gangs_of_one_rack() {
    for count in [8, 800] {
        let (mut nodes, mut decider) = (site(), Decider::default());
        let request = GangRequest { topology: vec![required(RACK)], ..alike(&shape(1, 1), count) };
        let (mut first, mut next) = (Vec::new(), Vec::new());
        for pod in 0..50 {
            let times = if pod == 0 { &mut first } else { &mut next };
            let answer = timed(times, || decider.decide(&mut nodes, &request)).unwrap();
            take(&mut nodes, &mut decider, &request, &answer);
        }
        print(&format!("first gang of {count}"), &mut first);
        print(&format!("gangs of {count}"), &mut next);
    }
}

#[test]
#[ignore = "a measurement"]
fn refusals() {
    let (mut nodes, mut decider) = (site(), Decider::default());
    let gang = GangRequest { topology: vec![required(RACK)], ..alike(&shape(1, 1), 801) };
    let single = alike(&shape(9, 1), 1);
    for (what, request) in [("gang", gang), ("single", single)] {
        let (mut quick, mut full) = (Vec::new(), Vec::new());
        for round in 0..200 {
            nodes.put(&format!("node-{round:05}"), occupant(&shape(8, 1)));
            assert!(!timed(&mut quick, || decider.might_fit(&nodes, &request)));
            timed(&mut full, || decider.decide(&mut nodes, &request).unwrap_err().to_string());
        }
        print(&format!("{what} might fit"), &mut quick);
        print(&format!("{what} refused"), &mut full);
    }
}

#[test]
#[ignore = "a measurement"]
fn mixed_and_coupled() {
    let (mut nodes, mut decider) = (site(), Decider::default());
    let (one, two) = (shape(1, 1), shape(2, 1));
    let members: Vec<_> = (0..400).map(|i| (if i % 2 == 0 { &one } else { &two }, None)).collect();
    let mixed = GangRequest { topology: vec![required(RACK)], ..gang(&members) };
    let apart = GangRequest { topology: vec![], ..in_namespace(alike(&anti_affinity(), 50)) };
    for (what, request) in [("mixed 400", mixed), ("coupled 50", apart.clone())] {
        let mut times = Vec::new();
        for _ in 0..10 {
            timed(&mut times, || decider.decide(&mut nodes, &request)).unwrap();
        }
        print(what, &mut times);
    }
    let members: Vec<_> = (0..800).map(|i| (if i % 2 == 0 { &one } else { &two }, None)).collect();
    let mixed = GangRequest { topology: vec![required(RACK)], ..gang(&members) };
    let mut times = Vec::new();
    for _ in 0..3 {
        timed(&mut times, || decider.decide(&mut nodes, &mixed)).unwrap_err();
    }
    print("mixed 800 refused", &mut times);
    let one_too_many =
        GangRequest { members: [apart.members.clone(), apart.members[..1].to_vec()].concat(), minimum: 51, ..apart };
    let mut times = Vec::new();
    for _ in 0..3 {
        timed(&mut times, || decider.decide(&mut nodes, &one_too_many)).unwrap_err();
    }
    print("coupled 51 refused", &mut times);
}
