//! Writes simulated card transactions as JSON Lines: see `fraud/mod.rs` for what is in them. None of it is real.
//!
//! ```text
//! cargo run --release -p engine-models --example fraud_data -- --rows 20000 --seed 2026 --bad --out pipelines/data/transactions.jsonl
//! ```
//!
//! `--labels` adds `fraud: true|false`; `--bad` puts in five records that a real feed might hold: one is cut off, one lacks
//! its amount, one has text for it, one has no currency and one is a refund.
#![allow(clippy::print_stderr)] // a program for the command line

mod fraud;
mod random;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

const USAGE: &str = "usage: fraud_data --rows N [--seed S] [--labels] [--bad] [--out PATH]";

/// Where `--bad` puts which record.
const BAD: [(u64, &str); 5] = [
    (1000, r#"{"at":"2026-01-01T12:00:00Z","card":"c00007","tx_id":90000"#),
    (
        5000,
        r#"{"at":"2026-01-03T09:00:00Z","card":"c00008","tx_id":900002,"amount":null,"currency":"EUR","merchant":"m0001","country":"DE"}"#,
    ),
    (
        9000,
        r#"{"at":"2026-01-05T10:00:00Z","card":"c00009","tx_id":900003,"amount":"12,50","currency":"EUR","merchant":"m0001","country":"DE"}"#,
    ),
    (
        13000,
        r#"{"at":"2026-01-07T09:00:00Z","card":"c00010","tx_id":900004,"amount":20.00,"currency":null,"merchant":"m0001","country":"DE"}"#,
    ),
    (
        17000,
        r#"{"at":"2026-01-09T08:00:00Z","card":"c00011","tx_id":900005,"amount":-20.00,"currency":"EUR","merchant":"m0001","country":"DE"}"#,
    ),
];

struct Options {
    rows: u64,
    seed: u64,
    labels: bool,
    bad: bool,
    out: Option<String>,
}

fn options() -> Option<Options> {
    let mut options = Options { rows: 0, seed: 2026, labels: false, bad: false, out: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rows" => options.rows = args.next()?.parse().ok()?,
            "--seed" => options.seed = args.next()?.parse().ok()?,
            "--labels" => options.labels = true,
            "--bad" => options.bad = true,
            "--out" => options.out = Some(args.next()?),
            _ => return None,
        }
    }
    (options.rows > 0).then_some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match write(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fraud_data: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(options: &Options) -> io::Result<()> {
    let out: Box<dyn Write> = match &options.out {
        Some(path) => Box::new(File::create(path)?),
        None => Box::new(io::stdout().lock()),
    };
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let mut bad = BAD.iter().peekable();
    for (tx_id, transaction) in (1u64..).zip(fraud::stream(options.rows, options.seed)) {
        write!(
            out,
            r#"{{"at":"{}","card":"c{:05}","tx_id":{tx_id},"amount":{}.{:02},"currency":"{}","merchant":"m{:04}","country":"{}""#,
            transaction.at(),
            transaction.card,
            transaction.cents / 100,
            transaction.cents % 100,
            transaction.currency,
            transaction.merchant,
            transaction.country,
        )?;
        if options.labels {
            write!(out, r#","fraud":{}"#, transaction.fraud)?;
        }
        out.write_all(b"}\n")?;
        if options.bad
            && let Some((_, record)) = bad.next_if(|(after, _)| *after == tx_id)
        {
            writeln!(out, "{record}")?;
        }
    }
    out.flush()
}
