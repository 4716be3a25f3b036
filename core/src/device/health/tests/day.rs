//! A normal day, without a false alarm.

use super::*;

/// xorshift64*: a test's own numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn once_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A figure around zero.
    fn around(&mut self, limit: u32) -> i32 {
        i32::try_from(self.below(u64::from(2 * limit + 1))).unwrap() - i32::try_from(limit).unwrap()
    }
}

/// One GPU of a busy node: jobs of minutes to hours, with pauses, at most of its power.
struct Gpu {
    random: Random,
    reading: Reading,
    busy: bool,
    /// Seconds until the job ends or the next one begins.
    left: u64,
    /// Tenths of a degree.
    heat: i32,
    /// Seconds that a spike of heat goes on, and until the next may come.
    spike: u64,
    pause: u64,
    jobs: usize,
    hottest: i32,
}

impl Gpu {
    fn new(seed: u64, driver_known: bool) -> Self {
        Self {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            reading: clean(driver_known),
            busy: false,
            left: 30,
            heat: 330,
            spike: 0,
            pause: 0,
            jobs: 0,
            hottest: 0,
        }
    }

    fn second(&mut self, health: &mut DeviceHealth, now: Duration) {
        self.job(health, now);
        self.weather();
        self.noise();
        let mut reading = self.reading.clone();
        // Values that cannot be read now and then.
        if self.random.once_in(500) {
            reading.recovery_action = None;
            reading.processes = None;
        }
        if self.random.once_in(500) {
            reading.links.clear();
            reading.temperature = None;
        }
        health.reading(&reading, now);
        // Applications that fail, memory that repairs itself.
        if self.busy && self.random.once_in(1800) {
            let codes = [13, 31, 43, 45, 63, 68, 69, 92, 94, 106, 162];
            let code = codes[usize::try_from(self.random.below(11)).unwrap()];
            health.fault(&Fault::Xid(code), now);
        }
        // Somebody runs a tool on an idle GPU.
        if !self.busy && self.left > 10 && self.random.once_in(1000) {
            let tool = Reading { processes: Some(vec![Process { pid: 1, memory_mib: Some(300) }]), ..reading };
            health.reading(&tool, now + Duration::from_millis(500));
        }
    }

    fn job(&mut self, health: &mut DeviceHealth, now: Duration) {
        self.left -= 1;
        if self.left == 0 {
            self.busy = !self.busy;
            self.left = 60 + self.random.below(if self.busy { 7200 } else { 1800 });
            self.jobs += usize::from(self.busy);
            health.occupied(self.busy, now);
            if !self.busy {
                self.reading.processes = Some(Vec::new());
                self.reading.memory_used_mib = Some(self.random.below(20));
            }
        } else if self.busy && self.reading.memory_used_mib < Some(1000) && self.random.once_in(5) {
            let pid = u32::try_from(self.random.below(1 << 22)).unwrap();
            self.reading.processes = Some(vec![Process { pid, memory_mib: Some(60_000) }]);
            self.reading.memory_used_mib = Some(60_000);
        }
    }

    /// Heat and clocks.
    fn weather(&mut self) {
        let goal = if self.busy { 740 } else { 330 };
        self.heat += (goal - self.heat) / 20 + self.random.around(10);
        self.pause = self.pause.saturating_sub(1);
        self.spike = self.spike.saturating_sub(1);
        if self.busy && self.spike == 0 && self.pause == 0 && self.random.once_in(300) {
            self.spike = 1 + self.random.below(3);
            self.pause = 30;
        }
        let hot = self.spike > 0;
        let temperature = self.reading.temperature.as_mut().unwrap();
        // Lowered clocks keep it below the limit at which it would turn itself off.
        temperature.gpu = (self.heat / 10 + if hot { 12 } else { 0 }).min(90);
        self.hottest = self.hottest.max(temperature.gpu);
        self.reading.clock_limits = Some(ClockLimits {
            software_power: self.busy && !self.random.once_in(4),
            software_thermal: hot || (self.busy && self.random.once_in(40)),
            hardware_thermal: self.spike == 1,
            hardware: self.spike == 1 || self.left < 2,
            power_brake: false,
        });
    }

    /// Power, and counters that grow a little.
    fn noise(&mut self) {
        let draw = if self.busy { 600_000 + self.random.below(140_000) } else { 70_000 + self.random.below(10_000) };
        self.reading.power_milliwatts = Some(draw);
        if self.random.once_in(3000) {
            self.reading.ecc.as_mut().unwrap().corrected += 1;
        }
        if self.random.once_in(600) {
            self.reading.links[1].replays += 1 + self.random.below(3);
            self.reading.links[2].crc_errors += self.random.below(20);
        }
    }
}

#[test]
fn a_normal_day_has_no_false_alarm() {
    for seed in 1..=3 {
        for driver_known in [true, false] {
            let mut health = DeviceHealth::new(false);
            let mut gpu = Gpu::new(seed, driver_known);
            for second in 0..24 * 3600 {
                let now = Duration::from_secs(second);
                gpu.second(&mut health, now);
                let verdict = health.verdict(now);
                assert_eq!(verdict, Verdict::default(), "seed {seed}, second {second}");
                assert_eq!(health.next_due(), None);
            }
            assert!(gpu.jobs > 5 && gpu.hottest >= 87, "too quiet a day: {} jobs, {} °C", gpu.jobs, gpu.hottest);
            assert!(health.xids().len() > 3, "{:?}", health.xids());
        }
    }
}
