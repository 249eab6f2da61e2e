//! `pipelines/fraud.yaml` by hand: what a card did in the last five minutes and thirty days, the model `models/risk`, and what
//! is held.
//!
//! The history of a card is its rows by time, and running sums for each of the two windows: a row is added when it comes and
//! subtracted when it leaves. A row that comes late, which is rare, looks back over the rows themselves.

use crate::{Error, json};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

const RECENT_MS: i64 = 5 * 60_000;
const USUAL_MS: i64 = 30 * 86_400_000;
/// How late a row may be.
const MAX_DELAY_MS: i64 = 5_000;
const THRESHOLD: f32 = 0.9;
const FEATURES: usize = 8;
const FIRST: usize = 64;
const SECOND: usize = 32;

/// Scores the transactions of a file: holds to standard output, alerts to another file.
pub(crate) fn run(file: &str, model: &Path, alerts: &str) -> Result<(), Error> {
    let model = Model::load(model)?;
    let mut alerts = BufWriter::new(File::create(alerts)?);
    let mut cards = HashMap::new();
    json::run(file, |line, holds| row(line, &mut cards, &model, holds, &mut alerts))?;
    Ok(alerts.flush()?)
}

#[derive(Deserialize)]
struct Transaction<'a> {
    at: &'a str,
    #[serde(borrow)]
    card: Cow<'a, str>,
    tx_id: i64,
    amount: f64,
    currency: Option<&'a str>,
    #[serde(borrow)]
    merchant: Cow<'a, str>,
    #[serde(borrow)]
    country: Cow<'a, str>,
}

#[derive(Serialize)]
struct Hold<'a> {
    at: &'a str,
    card: &'a str,
    tx_id: i64,
    amount: f64,
    currency: &'a str,
    country: &'a str,
    tx_count: u32,
    usual: f64,
    risk: f32,
}

#[derive(Serialize)]
struct Alert<'a> {
    at: &'a str,
    card: &'a str,
    tx_id: i64,
    amount: f64,
    currency: &'a str,
    merchant: &'a str,
    country: &'a str,
    tx_count: u32,
    tx_mean: f64,
    tx_std: f64,
    usual: f64,
    hour: i64,
    z: f64,
    ratio: f64,
    risk: f32,
}

fn row(
    line: &[u8],
    cards: &mut HashMap<String, Card>,
    model: &Model,
    holds: &mut Vec<u8>,
    alerts: &mut impl Write,
) -> Result<(), Error> {
    let Transaction { at, card, tx_id, amount, currency, merchant, country } = sonic_rs::from_slice(line)?;
    let Some(currency) = currency.filter(|_| amount > 0.0) else { return Ok(()) };
    let at_ms = parse_time(at).ok_or_else(|| format!("`{at}` is no time"))?;
    let past = cards.entry_ref(&*card).or_default().add(at_ms, amount);
    let hour = at_ms.rem_euclid(86_400_000) / 3_600_000;
    let usual = past.usual.unwrap_or(amount);
    let z = (amount - past.mean) / past.std.max(1.0);
    let ratio = amount / usual.max(1.0);
    let features = [amount, hour as f64, f64::from(past.count), past.mean, past.std, z, usual, ratio];
    let risk = model.score(features.map(|feature| feature as f32));
    if risk > THRESHOLD {
        let (card, country, tx_count) = (&*card, &*country, past.count);
        sonic_rs::to_writer(&mut *holds, &Hold { at, card, tx_id, amount, currency, country, tx_count, usual, risk })?;
        holds.push(b'\n');
        let (merchant, tx_mean, tx_std) = (&*merchant, past.mean, past.std);
        let alert = Alert {
            at,
            card,
            tx_id,
            amount,
            currency,
            merchant,
            country,
            tx_count,
            tx_mean,
            tx_std,
            usual,
            hour,
            z,
            ratio,
            risk,
        };
        alerts.write_all(&sonic_rs::to_vec(&alert)?)?;
        alerts.write_all(b"\n")?;
    }
    Ok(())
}

/// What is known of a card when a row comes: over five minutes with the row, over thirty days without it.
#[derive(Debug, PartialEq)]
struct Past {
    count: u32,
    mean: f64,
    std: f64,
    usual: Option<f64>,
}

/// The rows of a card by time, and two windows over them that end at the last.
#[derive(Default)]
struct Card {
    rows: VecDeque<(i64, f64)>,
    recent: Window,
    usual: Window,
}

/// The sums of a window that ends at the last row.
#[derive(Clone, Copy, Default)]
struct Window {
    count: usize,
    sum: f64,
    squares: f64,
}

impl Window {
    fn add(&mut self, amount: f64) {
        self.count += 1;
        self.sum += amount;
        self.squares += amount * amount;
    }

    /// Lets go of the rows that are as old as `before` or older.
    fn leave(&mut self, rows: &VecDeque<(i64, f64)>, before: i64) {
        while self.count > 0 {
            let (at, amount) = rows[rows.len() - self.count];
            if at > before {
                return;
            }
            self.count -= 1;
            self.sum -= amount;
            self.squares -= amount * amount;
        }
        *self = Window::default(); // what rounding left goes too
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// The deviation of a sample; 0 of one row.
    fn std(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let count = self.count as f64;
        ((self.squares - self.sum * self.sum / count).max(0.0) / (count - 1.0)).sqrt()
    }
}

impl Card {
    fn add(&mut self, at_ms: i64, amount: f64) -> Past {
        if self.rows.back().is_some_and(|(last, _)| *last > at_ms) {
            return self.add_late(at_ms, amount);
        }
        self.recent.leave(&self.rows, at_ms - RECENT_MS);
        self.usual.leave(&self.rows, at_ms - USUAL_MS);
        while self.rows.front().is_some_and(|(at, _)| *at <= at_ms - USUAL_MS - MAX_DELAY_MS) {
            self.rows.pop_front();
        }
        let usual = self.usual.mean();
        self.rows.push_back((at_ms, amount));
        self.recent.add(amount);
        self.usual.add(amount);
        past(&self.recent, usual)
    }

    /// A row that is older than the last: it sees the rows up to its own time only.
    fn add_late(&mut self, at_ms: i64, amount: f64) -> Past {
        let place = self.rows.partition_point(|(at, _)| *at <= at_ms);
        let (mut recent, mut usual) = (Window::default(), Window::default());
        for (at, amount) in self.rows.range(..place) {
            if *at > at_ms - RECENT_MS {
                recent.add(*amount);
            }
            if *at > at_ms - USUAL_MS {
                usual.add(*amount);
            }
        }
        recent.add(amount);
        self.rows.insert(place, (at_ms, amount));
        for window in [&mut self.recent, &mut self.usual] {
            // A place within the window: the row is part of what the next one sees.
            if self.rows.len() - place <= window.count + 1 {
                window.add(amount);
            }
        }
        past(&recent, usual.mean())
    }
}

fn past(recent: &Window, usual: Option<f64>) -> Past {
    Past { count: recent.count as u32, mean: recent.mean().unwrap_or(0.0), std: recent.std(), usual }
}

/// Milliseconds since 1970 of `2026-01-03T10:20:30.123Z`; the fraction may be missing.
fn parse_time(text: &str) -> Option<i64> {
    let text = text.as_bytes();
    let number = |from: usize, to: usize| {
        text.get(from..to)?
            .iter()
            .try_fold(0, |number: i64, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let ms = match text.len() {
        20 => 0,
        24 => number(20, 23)?,
        _ => return None,
    };
    // Howard Hinnant's days_from_civil: years begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    Some(days * 86_400_000 + number(11, 13)? * 3_600_000 + number(14, 16)? * 60_000 + number(17, 19)? * 1000 + ms)
}

/// `models/risk`: normalize, 8-64-32-1 with relu, sigmoid. Weights are kept input by input, so that the inner loops run over
/// neighbours and become vector instructions.
struct Model {
    mean: [f32; FEATURES],
    std: [f32; FEATURES],
    first: Layer<FEATURES, FIRST>,
    second: Layer<FIRST, SECOND>,
    third: Layer<SECOND, 1>,
    isa: Isa,
}

struct Layer<const INPUTS: usize, const OUTPUTS: usize> {
    weight: Box<[[f32; OUTPUTS]; INPUTS]>,
    bias: [f32; OUTPUTS],
}

#[derive(Clone, Copy)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Isa {
    /// The best of this machine.
    fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Isa::Avx512;
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return Isa::Avx2;
            }
        }
        Isa::Plain
    }
}

impl<const INPUTS: usize, const OUTPUTS: usize> Layer<INPUTS, OUTPUTS> {
    fn load(bytes: &[u8], name: &str) -> Result<Self, Error> {
        let rows = tensor(bytes, &format!("{name}.weight"), INPUTS * OUTPUTS)?;
        let mut weight = Box::new([[0.0; OUTPUTS]; INPUTS]);
        for (at, value) in rows.into_iter().enumerate() {
            weight[at % INPUTS][at / INPUTS] = value;
        }
        let bias = tensor(bytes, &format!("{name}.bias"), OUTPUTS)?;
        Ok(Layer { weight, bias: bias.try_into().map_err(|_| "a bias of another length")? })
    }

    #[inline(always)]
    fn apply<const FUSED: bool>(&self, inputs: &[f32; INPUTS]) -> [f32; OUTPUTS] {
        let mut sums = self.bias;
        for (input, weights) in inputs.iter().zip(&*self.weight) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = if FUSED { input.mul_add(*weight, *sum) } else { *sum + input * weight };
            }
        }
        sums
    }
}

impl Model {
    fn load(folder: &Path) -> Result<Model, Error> {
        let bytes = fs::read(folder.join("risk.safetensors"))?;
        let card = fs::read_to_string(folder.join("model.yaml"))?;
        Ok(Model {
            mean: numbers(&card, "mean")?,
            std: numbers(&card, "std")?,
            first: Layer::load(&bytes, "fc1")?,
            second: Layer::load(&bytes, "fc2")?,
            third: Layer::load(&bytes, "fc3")?,
            isa: Isa::detect(),
        })
    }

    fn score(&self, features: [f32; FEATURES]) -> f32 {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine was asked for these instructions when the model was loaded.
            Isa::Avx512 => unsafe { self.score_avx512(features) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { self.score_avx2(features) },
            Isa::Plain => self.forward::<false>(features),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,fma")]
    unsafe fn score_avx512(&self, features: [f32; FEATURES]) -> f32 {
        self.forward::<true>(features)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn score_avx2(&self, features: [f32; FEATURES]) -> f32 {
        self.forward::<true>(features)
    }

    #[inline(always)]
    fn forward<const FUSED: bool>(&self, mut features: [f32; FEATURES]) -> f32 {
        for ((feature, mean), std) in features.iter_mut().zip(&self.mean).zip(&self.std) {
            *feature = (*feature - mean) / std;
        }
        let first = self.first.apply::<FUSED>(&features).map(|value| value.max(0.0));
        let second = self.second.apply::<FUSED>(&first).map(|value| value.max(0.0));
        // One output: a sum over the inputs in lanes, where the layer's own loop would be one long chain.
        let mut lanes = [0.0; 16];
        for (at, (value, weight)) in second.iter().zip(&*self.third.weight).enumerate() {
            lanes[at % 16] += value * weight[0];
        }
        let logit = lanes.iter().sum::<f32>() + self.third.bias[0];
        1.0 / (1.0 + (-logit).exp())
    }
}

/// A tensor of a safetensors file: eight bytes of length, a JSON header, the numbers.
fn tensor(bytes: &[u8], name: &str, length: usize) -> Result<Vec<f32>, Error> {
    #[derive(Deserialize)]
    struct Info<'a> {
        dtype: &'a str,
        data_offsets: [usize; 2],
    }
    let start = bytes.first_chunk().map(|length| u64::from_le_bytes(*length) as usize + 8).ok_or("no safetensors")?;
    let (header, numbers) = bytes.split_at_checked(start).ok_or("no safetensors")?;
    let info = sonic_rs::get(&header[8..], &[name])?;
    let info: Info<'_> = sonic_rs::from_str(info.as_raw_str())?;
    let [from, to] = info.data_offsets;
    let data = numbers.get(from..to).filter(|data| info.dtype == "F32" && data.len() == length * 4);
    let data = data.ok_or_else(|| format!("`{name}` is not {length} single-precision numbers"))?;
    Ok(data.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect())
}

/// The numbers of `key: [...]` in the card.
fn numbers(card: &str, key: &str) -> Result<[f32; FEATURES], Error> {
    let list = card.split_once(&format!(" {key}: [")).and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.ok_or_else(|| format!("the card has no `{key}`"))?;
    let numbers = list.split(',').map(|number| number.trim().parse()).collect::<Result<Vec<f32>, _>>()?;
    Ok(numbers.try_into().map_err(|_| format!("`{key}` is not of {FEATURES} numbers"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sonic_rs::{JsonValueTrait, Value};

    fn model() -> Model {
        Model::load(&card_folder()).unwrap()
    }

    /// Where cargo says that this package is now: a binary of another clone may be found in a shared build folder.
    fn card_folder() -> std::path::PathBuf {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Path::new(&package).join("../../models/risk")
    }

    #[test]
    fn scores_are_those_of_the_reference() {
        let expected = card_folder().join("expected.json");
        let rows: Vec<Value> = sonic_rs::from_str(&fs::read_to_string(expected).unwrap()).unwrap();
        let mut model = model();
        for row in &rows {
            let features: Vec<f32> = sonic_rs::from_value(&row["features"]).unwrap();
            let features: [f32; FEATURES] = features.try_into().unwrap();
            let score = row["score"].as_f64().unwrap();
            for plain in [false, true] {
                let isa = model.isa;
                if plain {
                    model.isa = Isa::Plain;
                }
                let ours = f64::from(model.score(features));
                assert!((ours - score).abs() < 1e-5, "{features:?}: {ours}, not {score}");
                model.isa = isa;
            }
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(parse_time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse_time("2024-02-29T23:59:59.999Z"), Some(1_709_251_199_999));
        assert_eq!(parse_time("2026-03-01T00:00:00Z"), Some(1_772_323_200_000));
        assert_eq!(parse_time("2026-03-01"), None);
        assert_eq!(parse_time("2026-03-0xT00:00:00Z"), None);
    }

    /// Rows in a disorder of seconds, against plain loops over all rows that have come.
    #[test]
    fn windows_agree_with_plain_loops() {
        let mut random = crate::bids::Generator::new(7);
        let (mut card, mut seen, mut clock) = (Card::default(), Vec::new(), 0);
        for _ in 0..3000 {
            clock += (random.next() % 200_000) as i64 * if random.next().is_multiple_of(100) { 5_000 } else { 1 };
            let at_ms = clock - (random.next() % 4_000) as i64 * (random.next() % 2) as i64;
            let amount = (random.next() % 100_000) as f64 / 100.0;
            let within = |over: i64| {
                let inside = |(at, _): &&(i64, f64)| *at > at_ms - over && *at <= at_ms;
                seen.iter().filter(inside).map(|(_, amount)| *amount).collect::<Vec<f64>>()
            };
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let (mut recent, usual) = (within(RECENT_MS), within(USUAL_MS));
            recent.push(amount);
            let squares: f64 = recent.iter().map(|value| (value - mean(&recent)).powi(2)).sum();
            let std = if recent.len() > 1 { (squares / (recent.len() - 1) as f64).sqrt() } else { 0.0 };
            let past = card.add(at_ms, amount);
            seen.push((at_ms, amount));
            let near = |a: f64, b: f64| (a - b).abs() < 1e-4;
            assert_eq!(past.count as usize, recent.len());
            assert!(near(past.mean, mean(&recent)) && near(past.std, std), "{past:?} at {at_ms}");
            assert_eq!(past.usual.is_some(), !usual.is_empty());
            assert!(past.usual.is_none_or(|value| near(value, mean(&usual))), "{past:?} at {at_ms}");
        }
    }

    #[test]
    fn a_risky_row_is_held() {
        let mut cards = HashMap::new();
        let (mut holds, mut alerts) = (Vec::new(), Vec::new());
        let model = model();
        let mut give = |second: usize, amount: f64, currency: &str| {
            let line = format!(
                r#"{{"at":"2026-01-01T10:00:{second:02}Z","card":"a","tx_id":{second},"amount":{amount:?},"currency":{currency},"merchant":"m","country":"DE"}}"#
            );
            row(line.as_bytes(), &mut cards, &model, &mut holds, &mut alerts).unwrap();
        };
        for second in 0..5 {
            give(second, 1.5, "\"EUR\"");
        }
        give(5, 400.0, "null");
        give(6, 400.0, "\"EUR\"");
        let holds = String::from_utf8(holds).unwrap();
        let last = r#""tx_id":6,"amount":400.0,"currency":"EUR","country":"DE","tx_count":6"#;
        assert!(holds.ends_with('\n') && holds.contains(last), "{holds}");
        assert!(String::from_utf8(alerts).unwrap().contains(r#""merchant":"m""#));
    }
}
