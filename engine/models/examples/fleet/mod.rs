//! A simulated fleet of machines: no plant, machine or sensor behind it is real.
//!
//! Everything follows from the seed, through whole numbers and the four basic operations only, so that a seed gives the
//! same bytes on every machine. A machine gives a reading every five seconds. Its load goes to another level every ten to
//! forty minutes; the current follows the load at once, the temperature within some minutes, and vibration grows with it.
//! Each machine is a little warmer, shakier or thirstier than the next.
//!
//! Faults can be planted, of four kinds:
//!
//! - *drift*: the temperature creeps up, a quarter of a degree a minute, as of a cooler that clogs;
//! - *wear*: vibration grows and gets rougher, as of a bearing that wears;
//! - *stuck*: a sensor repeats its last value;
//! - *spike*: the current is far too high for two or three readings.

#![allow(dead_code)] // each program uses a part

pub(crate) mod features;

use crate::random::Random;

/// Seconds between two readings of a machine.
pub(crate) const EVERY_S: i64 = 5;
/// So long a machine has run before its first reading: its temperature fits its load.
const WARM_UP_S: i64 = 7_200;
/// When the first reading may be: 2026-03-02T06:00:00Z.
pub(crate) const START_S: i64 = 1_772_431_200;

/// What a sensor is, as an index into the values of a reading.
pub(crate) const SENSORS: [&str; 3] = ["temperature", "vibration", "current"];

/// One reading, in the units in which it is written: hundredths of a degree, thousandths of a mm/s, hundredths of an ampere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Seconds since 1970.
    pub(crate) at_s: i64,
    pub(crate) values: [i64; 3],
}

/// What one unit of a written value is in the sensor's own.
pub(crate) const UNITS: [f64; 3] = [100.0, 1000.0, 100.0];

impl Reading {
    /// The value of a sensor, as the engine reads it.
    pub(crate) fn value(&self, sensor: usize) -> f64 {
        self.values[sensor] as f64 / UNITS[sensor]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Drift,
    Wear,
    Stuck,
    Spike,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Drift => "drift",
            Kind::Wear => "wear",
            Kind::Stuck => "stuck",
            Kind::Spike => "spike",
        }
    }
}

/// A planted fault: of a machine's sensor, from one second to before another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// The machine's number, from zero.
    pub(crate) machine: u64,
    pub(crate) sensor: usize,
    pub(crate) kind: Kind,
    /// Seconds since the first reading may be.
    pub(crate) from_s: i64,
    pub(crate) to_s: i64,
}

const fn fault(machine: u64, sensor: usize, kind: Kind, from_s: i64, to_s: i64) -> Fault {
    Fault { machine, sensor, kind, from_s, to_s }
}

/// The faults of `pipelines/data/fleet.csv`, whose fleet is eight machines for four hours; the eighth has none.
pub(crate) const PLANTED: [Fault; 9] = [
    fault(2, 1, Kind::Stuck, 2_400, 3_300),
    fault(0, 0, Kind::Drift, 3_600, 6_000),
    fault(3, 2, Kind::Spike, 4_325, 4_335),
    fault(1, 1, Kind::Wear, 5_000, 7_400),
    fault(5, 2, Kind::Stuck, 6_000, 6_900),
    fault(4, 0, Kind::Stuck, 8_000, 9_200),
    fault(2, 2, Kind::Spike, 9_000, 9_015),
    fault(6, 1, Kind::Wear, 9_600, 12_000),
    fault(5, 0, Kind::Drift, 10_500, 12_900),
];
/// How many machines there are in it, and for how many hours.
pub(crate) const FLEET: (u64, i64) = (8, 4);

/// A machine's name.
pub(crate) fn name(machine: u64) -> String {
    format!("m{}", machine + 1)
}

/// `2026-03-02T06:00:05Z`, of seconds since 1970 on that day.
pub(crate) fn time(at_s: i64) -> String {
    let second = at_s.rem_euclid(86_400);
    format!("2026-03-02T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

/// A machine and where it stands.
pub(crate) struct Machine {
    random: Random,
    faults: Vec<Fault>,
    next_s: i64,
    /// When the load goes to another level.
    change_s: i64,
    target: f64,
    load: f64,
    /// The load as the metal feels it.
    heat: f64,
    warmer: f64,
    shakier: f64,
    thirstier: f64,
    last: [i64; 3],
}

impl Machine {
    /// A machine of a fleet. `faults` may hold those of others.
    pub(crate) fn new(seed: u64, number: u64, faults: &[Fault]) -> Machine {
        let mut random = Random(seed ^ number.wrapping_add(1).wrapping_mul(0xd134_2543_de82_ef95));
        random.bits();
        let load = random.between(0.3, 1.0);
        let mut machine = Machine {
            warmer: 0.6 * random.normal(),
            shakier: 1.0 + 0.03 * random.normal(),
            thirstier: 1.0 + 0.015 * random.normal(),
            random,
            faults: faults.iter().filter(|fault| fault.machine == number).copied().collect(),
            // Machines are read at one second after the other, so that the stream as a whole stands nowhere for long.
            next_s: START_S + (number % EVERY_S as u64) as i64 - WARM_UP_S,
            change_s: 0,
            target: load,
            load,
            heat: load,
            last: [0; 3],
        };
        while machine.next_s < START_S {
            machine.read();
        }
        machine
    }

    /// The next reading.
    pub(crate) fn read(&mut self) -> Reading {
        let at_s = self.next_s;
        self.next_s += EVERY_S;
        if at_s >= self.change_s {
            self.target = self.random.between(0.3, 1.0);
            self.change_s = at_s + self.random.range(600, 2400) as i64;
        }
        self.load += (self.target - self.load) * EVERY_S as f64 / 60.0 + 0.004 * self.random.normal();
        self.heat += (self.load - self.heat) * EVERY_S as f64 / 300.0;
        let noise = [(); 3].map(|()| self.random.normal());
        let mut values = [
            32.0 + self.warmer + 34.0 * self.heat + 0.25 * noise[0],
            self.shakier * (1.2 + 1.6 * self.load) + 0.08 * noise[1],
            self.thirstier * (4.0 + 18.0 * self.load) + 0.2 * noise[2],
        ];
        let mut stuck = [false; 3];
        for fault in &self.faults {
            let (since, until) = (at_s - START_S - fault.from_s, fault.to_s - (at_s - START_S));
            if since < 0 || until <= 0 {
                continue;
            }
            let minutes = since as f64 / 60.0;
            match fault.kind {
                Kind::Drift => values[fault.sensor] += 0.25 * minutes,
                Kind::Wear => values[fault.sensor] += minutes * (0.03 + 0.015 * self.random.normal()),
                Kind::Stuck => stuck[fault.sensor] = true,
                Kind::Spike => values[fault.sensor] += 12.0 + self.random.normal(),
            }
        }
        for sensor in 0..3 {
            if !stuck[sensor] {
                // Half a unit more than nothing, so that cutting off rounds.
                self.last[sensor] = (values[sensor] * UNITS[sensor] + 0.5).max(0.0) as i64;
            }
        }
        Reading { at_s, values: self.last }
    }
}
