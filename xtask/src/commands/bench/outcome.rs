//! What a benchmark found, and how it is told: a table for people, JSON for programs.

use serde_json::{Value, json};
use xtask::process::Usage;

/// What a benchmark found.
#[derive(Default)]
pub(super) struct Outcome {
    /// The engine beside a hand-written program.
    pub(super) comparison: Option<Comparison>,
    pub(super) figures: Vec<Figure>,
    /// Pipelines that were run with several numbers of workers.
    pub(super) queries: Vec<Query>,
    /// What one must know to read the figures; above all, where something was not as it should be.
    pub(super) remarks: Vec<String>,
}

/// Two programs that did the same work.
pub(super) struct Comparison {
    pub(super) rows: u64,
    pub(super) ours: Vec<Usage>,
    pub(super) other: Vec<Usage>,
    /// How the outputs differ, if they do: then the ratio means little.
    pub(super) difference: Option<String>,
    /// What the ratio of CPU seconds should be at most.
    pub(super) target: Option<f64>,
}

/// A pipeline that was run with several numbers of workers.
pub(super) struct Query {
    pub(super) name: String,
    pub(super) rows: u64,
    /// The number of workers, the same ones for all queries, and its runs.
    pub(super) of_workers: Vec<(usize, Vec<Usage>)>,
}

impl Query {
    /// Of each number of workers: rows a second and CPU seconds, both medians, and MiB at most.
    fn figures(&self) -> impl Iterator<Item = (usize, f64, f64, u64)> {
        self.of_workers.iter().map(|(workers, usages)| {
            let rate = self.rows as f64 / median(usages.iter().map(|usage| usage.wall_s));
            let cpu_s = median(usages.iter().map(|usage| usage.cpu_s));
            (*workers, rate, cpu_s, usages.iter().map(|usage| usage.rss_bytes_max >> 20).max().unwrap_or(0))
        })
    }

    fn to_json(&self) -> Value {
        let figures = self.figures().map(|(workers, rate, cpu_s, mib)| {
            json!({ "workers": workers, "rows_per_s": rate, "cpu_s": cpu_s, "rss_mib_max": mib })
        });
        json!({ "name": self.name, "rows": self.rows, "figures": figures.collect::<Vec<_>>() })
    }
}

/// One number.
pub(super) struct Figure {
    pub(super) what: String,
    pub(super) kind: Kind,
    pub(super) value: f64,
    /// What it should be at most.
    pub(super) target: Option<f64>,
}

/// What sort of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Milliseconds from when something was due.
    Latency,
    /// Milliseconds that something takes.
    Duration,
    /// So many a second.
    Rate,
    /// Per cent of one core.
    Share,
    /// Seconds of CPU for a million rows.
    Cost,
    /// MiB.
    Size,
    Count,
    /// How many times as much.
    Ratio,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Latency => "latency",
            Kind::Duration => "duration",
            Kind::Rate => "rate",
            Kind::Share => "share",
            Kind::Cost => "cost",
            Kind::Size => "size",
            Kind::Count => "count",
            Kind::Ratio => "ratio",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Kind::Latency | Kind::Duration => "ms",
            Kind::Rate => "/s",
            Kind::Share => "% of a core",
            Kind::Cost => "CPU s / M rows",
            Kind::Size => "MiB",
            Kind::Count => "",
            Kind::Ratio => "times",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Kind::Latency | Kind::Duration => format!("{value:.1}"),
            Kind::Share | Kind::Cost | Kind::Ratio => format!("{value:.2}"),
            Kind::Rate | Kind::Size | Kind::Count => format!("{value:.0}"),
        }
    }
}

impl Outcome {
    pub(super) fn add(&mut self, what: impl Into<String>, kind: Kind, value: f64) {
        self.figures.push(Figure { what: what.into(), kind, value, target: None });
    }

    pub(super) fn add_with_target(&mut self, what: impl Into<String>, kind: Kind, value: f64, target: f64) {
        self.figures.push(Figure { what: what.into(), kind, value, target: Some(target) });
    }

    /// The median and the 99th percentile of latencies in milliseconds, and how many they are.
    pub(super) fn add_latencies(&mut self, what: &str, latencies_ms: &mut [f64], p99_target: Option<f64>) {
        latencies_ms.sort_by(f64::total_cmp);
        self.add(format!("{what}, p50"), Kind::Latency, percentile(latencies_ms, 0.5));
        let value = percentile(latencies_ms, 0.99);
        self.figures.push(Figure { what: format!("{what}, p99"), kind: Kind::Latency, value, target: p99_target });
        self.add(format!("{what}, rows"), Kind::Count, latencies_ms.len() as f64);
    }

    pub(super) fn to_json(&self, name: &str) -> Value {
        let mut result = json!({ "name": name, "remarks": self.remarks });
        if let Some(comparison) = &self.comparison {
            result["comparison"] = comparison.to_json();
        }
        let figure = |one: &Figure| {
            json!({
                "what": one.what, "kind": one.kind.name(), "value": one.value, "unit": one.kind.unit(),
                "target_max": one.target,
            })
        };
        result["figures"] = self.figures.iter().map(figure).collect();
        if !self.queries.is_empty() {
            result["queries"] = self.queries.iter().map(Query::to_json).collect();
        }
        result
    }
}

impl Comparison {
    /// The median over the pairs of the ratio of CPU seconds.
    pub(super) fn ratio(&self) -> f64 {
        median(self.ours.iter().zip(&self.other).map(|(ours, other)| ours.cpu_s / other.cpu_s))
    }

    fn to_json(&self) -> Value {
        let side = |usages: &[Usage]| {
            json!({
                "cpu_s": median(usages.iter().map(|usage| usage.cpu_s)),
                "wall_s": median(usages.iter().map(|usage| usage.wall_s)),
                "rss_bytes_max": usages.iter().map(|usage| usage.rss_bytes_max).max(),
            })
        };
        json!({
            "rows": self.rows, "engine": side(&self.ours), "handwritten": side(&self.other), "cpu_ratio": self.ratio(),
            "target_max": self.target, "difference": self.difference,
        })
    }
}

/// Everything that was found, for people.
pub(super) fn tables(outcomes: &[(&str, Outcome)], runs: usize) -> String {
    let mut text = String::new();
    let compared: Vec<_> =
        outcomes.iter().filter_map(|(name, outcome)| Some((name, outcome.comparison.as_ref()?))).collect();
    if !compared.is_empty() {
        text += &format!("Medians of {runs} paired runs:\n\n");
        text +=
            "| benchmark | rows | engine CPU s | other CPU s | ratio | target | engine s | other s | engine MiB |\n";
        text += "|---|---|---|---|---|---|---|---|---|\n";
    }
    for (name, one) in &compared {
        let cpu_s = |usages: &[Usage]| median(usages.iter().map(|usage| usage.cpu_s));
        let wall_s = |usages: &[Usage]| median(usages.iter().map(|usage| usage.wall_s));
        let mib = one.ours.iter().map(|usage| usage.rss_bytes_max >> 20).max().unwrap_or(0);
        text += &format!(
            "| {name} | {} | {:.3} | {:.3} | {:.2} | {} | {:.3} | {:.3} | {mib} |\n",
            one.rows,
            cpu_s(&one.ours),
            cpu_s(&one.other),
            one.ratio(),
            one.target.map(|target| target.to_string()).unwrap_or_default(),
            wall_s(&one.ours),
            wall_s(&one.other),
        );
    }
    for (name, outcome) in outcomes.iter().filter(|(_, outcome)| !outcome.queries.is_empty()) {
        text += if text.is_empty() { "" } else { "\n" };
        text += &format!("{name}, medians of {runs} runs:\n\n| query | rows |");
        let columns: Vec<usize> = outcome.queries[0].of_workers.iter().map(|(workers, _)| *workers).collect();
        text.extend(columns.iter().map(|of| format!(" workers: {of}, rows/s | CPU s | MiB |")));
        text += &format!("\n|---|---|{}\n", "---|---|---|".repeat(columns.len()));
        for query in &outcome.queries {
            text += &format!("| {} | {} |", query.name, query.rows);
            text.extend(query.figures().map(|(_, rate, cpu_s, mib)| format!(" {rate:.0} | {cpu_s:.2} | {mib} |")));
            text += "\n";
        }
    }
    if outcomes.iter().any(|(_, outcome)| !outcome.figures.is_empty()) {
        let space = if text.is_empty() { "" } else { "\n" };
        text += &format!("{space}| benchmark | figure | value | unit | target |\n|---|---|---|---|---|\n");
    }
    for (name, outcome) in outcomes {
        for one in &outcome.figures {
            let target = one.target.map(|target| format!("< {target}")).unwrap_or_default();
            let (value, unit) = (one.kind.show(one.value), one.kind.unit());
            text += &format!("| {name} | {} | {value} | {unit} | {target} |\n", one.what);
        }
    }
    for (name, outcome) in outcomes {
        let difference = outcome.comparison.as_ref().and_then(|comparison| comparison.difference.as_ref());
        let difference = difference.map(|difference| format!("the outputs differ: {difference}"));
        for remark in difference.iter().chain(&outcome.remarks) {
            text += &format!("\n{name}: {remark}\n");
        }
    }
    text
}

/// The middle value; of an even number the mean of the two in the middle; NaN of none.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length => (values[(length - 1) / 2] + values[length / 2]) / 2.0,
    }
}

/// The least value that at least the share `of` of the sorted values does not exceed; NaN of none.
pub(super) fn percentile(sorted: &[f64], of: f64) -> f64 {
    let rank = (sorted.len() as f64 * of).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.5), 50.0);
        assert_eq!(percentile(&hundred, 0.99), 99.0);
        assert_eq!(percentile(&hundred[..1], 0.99), 1.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn figures_and_comparisons_are_told_in_both_ways() {
        let usage = |cpu_s| Usage { cpu_s, wall_s: 1.0, rss_bytes_max: 3 << 20 };
        let comparison = Comparison {
            rows: 10,
            ours: vec![usage(3.0), usage(5.0)],
            other: vec![usage(2.0), usage(2.0)],
            difference: None,
            target: Some(2.0),
        };
        let first = Outcome { comparison: Some(comparison), ..Outcome::default() };
        let mut second = Outcome::default();
        second.add_latencies("there", &mut [3.0, 1.0, 2.0], Some(20.0));
        second.remarks.push("one must know this".into());
        let mut third = Outcome::default();
        let of_workers = vec![(1, vec![usage(1.0), usage(3.0)]), (2, vec![usage(4.0)])];
        third.queries.push(Query { name: "q5".into(), rows: 10, of_workers });
        let json = third.to_json("c");
        assert_eq!(json["queries"][0]["figures"][0]["cpu_s"], 2.0);
        let text = tables(&[("a", first), ("b", second), ("c", third)], 2);
        assert!(text.contains("\n\nc, medians of 2 runs:\n\n| query | rows | workers: 1, rows/s |"), "{text}");
        assert!(
            text.contains("|---|---|---|---|---|---|---|---|\n| q5 | 10 | 10 | 2.00 | 3 | 10 | 4.00 | 3 |\n\n| bench"),
            "{text}"
        );
        assert!(text.contains("| a | 10 | 4.000 | 2.000 | 2.00 | 2 | 1.000 | 1.000 | 3 |"), "{text}");
        assert!(text.contains("| b | there, p99 | 3.0 | ms | < 20 |"), "{text}");
        assert!(text.ends_with("\nb: one must know this\n"), "{text}");
        let mut outcome = Outcome::default();
        outcome.add_with_target("share", Kind::Share, 2.5, 3.0);
        let json = outcome.to_json("c");
        assert_eq!(json["figures"][0]["kind"], "share");
        assert_eq!(json["figures"][0]["target_max"], 3.0);
        assert!(json["comparison"].is_null());
    }
}
