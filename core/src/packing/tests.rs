use proptest::prelude::*;

use super::{Gpus, MAX_GPUS, Machine, Models, Packer, Placement, SharePrices, Task, WHOLE, Workload};

const MODEL: u8 = 3;

fn task(gpus: Gpus, cpu: i64, memory: i64) -> Task {
    Task { gpus, cpu, memory, models: Models::ANY }
}

fn machine(cpu: i64, gpus: &[u16]) -> Machine {
    Machine::new(MODEL, cpu, 1_000_000, gpus.iter().copied())
}

/// A packer that saw these, as often as said.
fn after(seen: &[(Task, u32)]) -> Packer {
    let mut packer = Packer::new();
    for _ in 0..64 {
        for (task, count) in seen {
            packer.observe(task, *count);
        }
    }
    packer
}

fn cost(packer: &mut Packer, machine: &Machine, task: &Task) -> i64 {
    packer.place(machine, task).expect("fits").price.cost
}

#[test]
fn machines_that_differ_in_the_order_of_gpus_and_in_full_ones_are_equal() {
    assert_eq!(machine(8000, &[1000, 0, 300, 1000]), machine(8000, &[300, 1000, 1000]));
    assert_ne!(machine(8000, &[1000, 300]), machine(8000, &[1000, 301]));
    assert_eq!(machine(1, &[1000; 40]).gpus().len(), MAX_GPUS);
    assert_eq!(machine(1, &[2000]).free_milli(), i64::from(WHOLE));
}

#[test]
fn a_task_fits_where_gpus_cores_memory_and_model_do() {
    let there = Machine::new(MODEL, 8000, 64, [1000, 1000, 600]);
    for (wanted, fits) in [
        (task(Gpus::Whole(2), 8000, 64), true),
        (task(Gpus::Whole(3), 8000, 64), false),
        (task(Gpus::Share(600), 1, 1), true),
        (task(Gpus::None, 8001, 1), false),
        (task(Gpus::None, 1, 65), false),
        (Task { models: Models::NONE.with(MODEL), ..task(Gpus::Whole(1), 1, 1) }, true),
        (Task { models: Models::NONE.with(MODEL + 1), ..task(Gpus::Whole(1), 1, 1) }, false),
        (Task { models: Models::NONE, ..task(Gpus::None, 1, 1) }, true),
    ] {
        assert_eq!(there.fits(&wanted), fits, "{wanted:?}");
    }
    assert!(!machine(1, &[500, 500]).fits(&task(Gpus::Share(501), 0, 0)));
    assert_eq!(there.copies(&task(Gpus::Whole(1), 3000, 1)), 2);
    assert_eq!(there.copies(&task(Gpus::Whole(1), 5000, 1)), 1);
    assert_eq!(there.copies(&task(Gpus::Share(600), 1, 1)), 0);
}

#[test]
fn prices_of_shares_are_what_one_more_of_them_uses() {
    // As many 600 as 400: a pair is a GPU.
    let pair = SharePrices::new(&[(400, 10), (600, 10)]);
    assert_eq!(pair.price(400) + pair.price(600), WHOLE);
    // Far more 800 than 200: a 200 goes into a gap that is there anyhow, an 800 opens a GPU.
    let many = SharePrices::new(&[(200, 1), (800, 10)]);
    assert_eq!((many.price(200), many.price(800)), (0, WHOLE));
    assert_eq!(many.value(200), 0, "a gap of 200 is of no use to the next 800");
    // Three of 330 in a GPU, two of 480; a size that never came is worth what fits into it.
    let two = SharePrices::new(&[(330, 10), (480, 10)]);
    assert_eq!((two.price(330), two.price(480)), (333, 500));
    assert_eq!(two.price(400), 333);
    assert_eq!(two.price(900), 833);
    assert_eq!(SharePrices::new(&[]).value(WHOLE), WHOLE);
}

#[test]
fn a_share_goes_into_the_gap_that_suits_it_best() {
    // 650 and 320 belong together, so do 550, 230 and 220.
    let shares = [(650, 10), (320, 10), (550, 10), (230, 10), (220, 10)];
    let seen: Vec<(Task, u32)> =
        shares.iter().map(|(size, count)| (task(Gpus::Share(*size), 1000, 1), *count)).collect();
    let mut packer = after(&seen);
    let (beside_650, beside_550) = (machine(64_000, &[350]), machine(64_000, &[450]));
    let (small, large) = (task(Gpus::Share(230), 1000, 1), task(Gpus::Share(320), 1000, 1));
    assert!(cost(&mut packer, &beside_550, &small) < cost(&mut packer, &beside_650, &small));
    assert!(cost(&mut packer, &beside_650, &large) < cost(&mut packer, &beside_550, &large));
    // On one machine with both gaps the same choice is made.
    let both = machine(64_000, &[350, 450, 1000]);
    let placed = packer.place(&both, &small).expect("fits");
    assert_eq!(placed.after.gpus(), [220, 350, 1000]);
    let placed = packer.place(&both, &large).expect("fits");
    assert_eq!(placed.after.gpus(), [30, 450, 1000]);
}

#[test]
fn tasks_of_many_cores_go_where_cores_are_plenty() {
    let (light, heavy) = (task(Gpus::Whole(1), 4000, 1), task(Gpus::Whole(1), 16_000, 1));
    let mut packer = after(&[(light, 10), (heavy, 1)]);
    let (poor, rich) = (machine(32_000, &[1000; 4]), machine(128_000, &[1000; 4]));
    assert!(cost(&mut packer, &rich, &heavy) < cost(&mut packer, &poor, &heavy));
}

#[test]
fn tasks_without_gpus_take_the_cores_that_gpus_do_not_need() {
    let usual = task(Gpus::Whole(1), 8000, 1);
    let mut packer = after(&[(usual, 1)]);
    let without = task(Gpus::None, 8000, 1);
    let (needed, spare, taken) = (machine(16_000, &[1000; 2]), machine(64_000, &[1000; 2]), machine(16_000, &[]));
    assert_eq!(cost(&mut packer, &spare, &without), 0);
    assert_eq!(cost(&mut packer, &taken, &without), 0);
    assert!(cost(&mut packer, &needed, &without) > 0);
}

#[test]
fn machines_that_large_tasks_can_use_are_kept_for_them() {
    let (one, eight) = (task(Gpus::Whole(1), 8000, 1), task(Gpus::Whole(8), 64_000, 1));
    let mut packer = after(&[(one, 8), (eight, 1)]);
    let (broken, untouched) = (machine(56_000, &[1000; 7]), machine(64_000, &[1000; 8]));
    assert!(cost(&mut packer, &broken, &one) < cost(&mut packer, &untouched, &one));
    assert_eq!(packer.place(&broken, &eight), None);
}

#[test]
fn a_packer_that_saw_nothing_places_what_fits() {
    let mut packer = Packer::new();
    assert!(packer.place(&machine(8000, &[500, 1000]), &task(Gpus::Share(500), 1, 1)).is_some());
    assert_eq!(packer.place(&machine(8000, &[500]), &task(Gpus::Whole(1), 1, 1)), None);
    assert_eq!(packer.version(), 0);
}

#[test]
fn more_of_the_same_is_no_news() {
    let mut packer = after(&[(task(Gpus::Whole(8), 64_000, 1), 4), (task(Gpus::Whole(1), 8000, 1), 4)]);
    let version = packer.version();
    for _ in 0..10_000 {
        packer.observe(&task(Gpus::Whole(8), 64_000, 1), 1);
        packer.observe(&task(Gpus::Whole(1), 8000, 1), 1);
        packer.observe(&task(Gpus::None, 8000, 1), 1);
    }
    assert_eq!(packer.version(), version);
    packer.observe(&task(Gpus::Whole(2), 16_000, 1), 30_000);
    assert!(packer.version() > version);
}

#[test]
fn a_workload_forgets_what_no_longer_comes() {
    let (old, new) = (task(Gpus::Whole(1), 1, 1), task(Gpus::Whole(2), 1, 1));
    let mut workload = Workload::new();
    workload.observe(&old, 1000);
    for _ in 0..400 {
        workload.observe(&new, 1000);
    }
    assert_eq!(workload.kinds().iter().map(|kind| kind.task).collect::<Vec<_>>(), [new]);
    // Bounded, whatever comes; what comes often stays.
    for cpu in 0..10_000 {
        workload.observe(&task(Gpus::Whole(1), cpu, 1), 1);
    }
    assert!(workload.kinds().len() <= 256);
    assert!(workload.kinds().iter().any(|kind| kind.task == new));
}

fn any_gpus() -> impl Strategy<Value = Gpus> {
    prop_oneof![
        1 => Just(Gpus::None),
        4 => prop::sample::select(vec![100_u16, 160, 320, 470, 650, 810, 999]).prop_map(Gpus::Share),
        4 => prop::sample::select(vec![1_u8, 1, 1, 2, 4, 8]).prop_map(Gpus::Whole),
    ]
}

fn any_task() -> impl Strategy<Value = Task> {
    (
        any_gpus(),
        prop::sample::select(vec![0_i64, 1000, 4000, 11_300]),
        prop::sample::select(vec![0_i64, 16, 48]),
        0..4_u8,
    )
        .prop_map(|(gpus, cpu, memory, model)| {
            let models = if model == 0 { Models::ANY } else { Models::NONE.with(model) };
            Task { gpus, cpu, memory, models }
        })
}

fn any_machine() -> impl Strategy<Value = Machine> {
    (0..4_u8, 0..96_000_i64, 0..400_i64, prop::collection::vec(0..=WHOLE, 0..=MAX_GPUS))
        .prop_map(|(model, cpu, memory, gpus)| Machine::new(model, cpu, memory, gpus))
}

/// Puts the tasks on the cheapest machines, the first of equal ones.
fn fill(machines: &mut [Machine], tasks: &[Task]) -> Vec<Option<(usize, Placement)>> {
    let mut packer = Packer::new();
    tasks
        .iter()
        .map(|task| {
            packer.observe(task, 1);
            let mut best: Option<(usize, Placement)> = None;
            for (at, machine) in machines.iter().enumerate() {
                if let Some(placed) = packer.place(machine, task)
                    && best.is_none_or(|(_, best)| placed.price < best.price)
                {
                    best = Some((at, placed));
                }
            }
            if let Some((at, placed)) = best {
                machines[at] = placed.after;
            }
            best
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_fits_is_placed_and_takes_exactly_what_it_asks(
        machines in prop::collection::vec(any_machine(), 1..6),
        tasks in prop::collection::vec(any_task(), 1..60),
    ) {
        let mut now = machines.clone();
        let placed = fill(&mut now, &tasks);
        // Once more, each step checked by hand.
        let mut there = machines.clone();
        for (task, placed) in tasks.iter().zip(&placed) {
            let Some((at, placed)) = placed else {
                prop_assert!(there.iter().all(|machine| !machine.fits(task)), "refused although it fits");
                continue;
            };
            let (before, after) = (&there[*at], &placed.after);
            prop_assert!(before.fits(task));
            prop_assert_eq!(before.cpu() - after.cpu(), task.cpu);
            prop_assert_eq!(before.memory() - after.memory(), task.memory);
            prop_assert!(after.cpu() >= 0 && after.memory() >= 0);
            prop_assert_eq!(before.free_milli() - after.free_milli(), task.gpus.milli());
            // GPU by GPU: only one changes for a share, only whole ones go for whole ones.
            let gone: Vec<u16> = without(before.gpus(), after.gpus());
            let come: Vec<u16> = without(after.gpus(), before.gpus());
            match task.gpus {
                Gpus::None => prop_assert!(gone.is_empty() && come.is_empty()),
                Gpus::Whole(count) => {
                    prop_assert_eq!(gone, vec![WHOLE; usize::from(count)]);
                    prop_assert!(come.is_empty());
                }
                Gpus::Share(size) => {
                    prop_assert_eq!(gone.len(), 1);
                    let rest: Vec<u16> = Some(gone[0] - size).filter(|rest| *rest > 0).into_iter().collect();
                    prop_assert_eq!(come, rest);
                }
            }
            there[*at] = *after;
        }
        // The same again: the same answers.
        let mut again = machines;
        prop_assert_eq!(fill(&mut again, &tasks), placed);
    }

    #[test]
    fn prices_never_value_a_gpu_above_itself_and_bound_the_packing(
        demand in prop::collection::btree_map(1..WHOLE, 1..50_u64, 1..12),
    ) {
        let demand: Vec<(u16, u64)> = demand.into_iter().collect();
        let prices = SharePrices::new(&demand);
        // No set of shares that fits into a GPU is worth more than one, rounding apart.
        let mut best = vec![0_u32; usize::from(WHOLE) + 1];
        for gap in 1..best.len() {
            let fill = demand.iter().filter(|(size, _)| usize::from(*size) <= gap);
            best[gap] = fill.map(|(size, _)| best[gap - usize::from(*size)] + u32::from(prices.price(*size))).max().unwrap_or(0).max(best[gap - 1]);
        }
        let rounding = u32::from(WHOLE / demand[0].0);
        prop_assert!(best[usize::from(WHOLE)] <= u32::from(WHOLE) + rounding, "{best:?}");
        // So that the prices of all shares together are at most the GPUs of any packing: here first fit.
        let mut open: Vec<u16> = Vec::new();
        let mut bound = 0;
        for (size, count) in demand.iter().rev() {
            for _ in 0..*count {
                bound += u64::from(prices.price(*size));
                match open.iter_mut().find(|free| **free >= *size) {
                    Some(free) => *free -= size,
                    None => open.push(WHOLE - size),
                }
            }
        }
        let shares: u64 = demand.iter().map(|(_, count)| count).sum();
        prop_assert!(bound <= u64::try_from(open.len()).unwrap() * u64::from(WHOLE) + shares);
        // Values rise with the gap, and a share never gains by spoiling.
        for gap in 1..=WHOLE {
            prop_assert!(prices.value(gap) >= prices.value(gap - 1));
        }
    }

    #[test]
    fn difference_of_workloads_is_a_distance(tasks in prop::collection::vec((any_task(), 1..5_u32), 1..20), cut in 0..20_usize) {
        let of = |tasks: &[(Task, u32)]| {
            let mut workload = Workload::new();
            for (task, count) in tasks {
                workload.observe(task, *count);
            }
            workload
        };
        let (all, part) = (of(&tasks), of(&tasks[..cut.min(tasks.len())]));
        prop_assert_eq!(all.differs(&all), 0);
        prop_assert_eq!(all.differs(&part), part.differs(&all));
        prop_assert!(all.differs(&part) <= 1000);
    }
}

/// What the first has more often than the second; both ascending.
fn without(some: &[u16], others: &[u16]) -> Vec<u16> {
    let mut left = others.to_vec();
    some.iter()
        .copied()
        .filter(|value| match left.iter().position(|other| other == value) {
            Some(at) => {
                left.remove(at);
                false
            }
            None => true,
        })
        .collect()
}
