//! What the engine is measured against: small single-thread programs that do one job by hand, as fast as plain Rust
//! with good libraries does it, and bare Kafka clients.
//!
//! They know their schema and their query, need no plan, no types at run time, no errors by row and no watching. Each
//! job reads real input and writes real output, so that nothing can be optimised away.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to a person")]

mod bids;
mod fraud;
mod images;
mod join;
mod json;
mod kafka;
mod window;

use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The error of a job: a sentence for people.
type Error = Box<dyn std::error::Error + Send + Sync>;

const HELP: &str = "\
handwritten bids ROWS SEED                       JSON Lines of bids on an auction, about 200 bytes each
handwritten filter FILE                          auction and price of bids on every 123rd auction
handwritten map FILE                             every bid, its price times 0.908
handwritten tumbling FILE                        count and sum of prices by auction and ten seconds
handwritten hopping FILE                         the same in windows that overlap, of more than four bids
handwritten join FILE                            bids with those of others on the same auction half a minute before
handwritten fraud FILE MODEL ALERTS              pipelines/fraud.yaml by hand: holds to standard output, alerts to a file
handwritten images ROWS SEED                     JSON Lines of 784 random numbers each
handwritten kafka-produce BROKERS TOPIC RATE COUNT [FILE [KEY]]
                                                 COUNT messages at RATE a second (0: as fast as can be), open loop:
                                                 the lines of FILE over and over, keyed by field KEY, or bids
handwritten kafka-consume BROKERS TOPIC COUNT    reads COUNT messages with librdkafka alone
handwritten kafka-arrivals BROKERS TOPIC FIELD...
                                                 of every message a line: its FIELDs, and its timestamp in ms
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Error> {
    match arguments {
        ["bids", rows, seed] => bids::write(rows.parse()?, seed.parse()?),
        ["filter", file] => json::run(file, json::filter),
        ["map", file] => json::run(file, json::map),
        ["tumbling", file] => window::tumbling(file),
        ["hopping", file] => window::hopping(file),
        ["join", file] => join::join(file),
        ["fraud", file, model, alerts] => fraud::run(file, Path::new(model), alerts),
        ["images", rows, seed] => images::write(rows.parse()?, seed.parse()?),
        ["kafka-produce", brokers, topic, rate, count, rest @ ..] if rest.len() <= 2 => {
            let (file, key) = (rest.first().copied(), rest.get(1).copied());
            kafka::produce(brokers, topic, rate.parse()?, count.parse()?, file, key)
        }
        ["kafka-consume", brokers, topic, count] => kafka::consume(brokers, topic, count.parse()?),
        ["kafka-arrivals", brokers, topic, fields @ ..] => kafka::arrivals(brokers, topic, fields),
        _ => Err(HELP.into()),
    }
}
