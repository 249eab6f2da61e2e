//! The features of `pipelines/fraud.yaml` in plain loops: what the engine's `rolling` and `map` must agree with.
//!
//! A row sees the rows of its card that have arrived so far, itself included, whose time is in `(t - D, t]`.

use super::Transaction;
use std::collections::HashMap;

/// Values of a row, in the order in which the model takes them.
pub(crate) const FEATURES: [&str; 8] = ["amount", "hour", "tx_count", "tx_mean", "tx_std", "z", "usual", "ratio"];

const RECENT_MS: i64 = 5 * 60_000;
const USUAL_MS: i64 = 30 * 86_400_000;

/// The rows of each card so far: time and amount.
#[derive(Default)]
pub(crate) struct History(HashMap<u64, Vec<(i64, f64)>>);

impl History {
    /// The features of a row, which is then a part of the history.
    pub(crate) fn features(&mut self, row: &Transaction) -> [f64; FEATURES.len()] {
        let (now, amount) = (row.at_ms, row.amount());
        let rows = self.0.entry(row.card).or_default();
        let within = |over: i64| move |(at, _): &&(i64, f64)| *at > now - over && *at <= now;

        let before: Vec<f64> = rows.iter().filter(within(USUAL_MS)).map(|(_, amount)| *amount).collect();
        let usual = if before.is_empty() { amount } else { mean(&before) };

        rows.push((now, amount));
        let recent: Vec<f64> = rows.iter().filter(within(RECENT_MS)).map(|(_, amount)| *amount).collect();
        let (count, tx_mean) = (recent.len() as f64, mean(&recent));
        let squares: f64 = recent.iter().map(|amount| (amount - tx_mean).powi(2)).sum();
        let tx_std = if recent.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };

        let z = (amount - tx_mean) / tx_std.max(1.0);
        let ratio = amount / usual.max(1.0);
        [amount, row.hour() as f64, count, tx_mean, tx_std, z, usual, ratio]
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
