//! What decoding and encoding cost: CPU seconds of one thread, the least of five runs, for a file of JSON Lines.
//!
//! `cargo run --release -p engine-connectors --example formats -- bids.jsonl auction:int64 price:int64 url:string …`
//!
//! The columns named are decoded, all others skipped; `typed` is serde with sonic-rs into a struct of the six columns of a
//! Nexmark bid, for comparison, if all of them are named.
#![allow(clippy::print_stdout)]

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine_connectors::formats::json::{JsonDecoder, JsonEncoder};
use engine_connectors::formats::split::{Split, Splitter, Splitting};
use engine_connectors::formats::{RecordDecoder, RecordEncoder, Timestamps};
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

/// The six columns of a bid.
#[derive(serde::Deserialize)]
#[allow(dead_code)]
struct Bid<'a> {
    auction: i64,
    bidder: i64,
    price: i64,
    channel: &'a str,
    url: &'a str,
    date_time: i64,
}

/// What one run does with each record, and with each batch.
enum Work {
    Split,
    Typed,
    Decode,
    Encode,
}

/// CPU seconds of this thread.
fn cpu_s() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse::<f64>()? / 1e9)
}

fn run(path: &str, schema: &SchemaRef, work: &Work) -> Result<(f64, usize), Box<dyn Error>> {
    let mut decoder = JsonDecoder::new(schema, schema.fields(), false)?;
    let mut encoder = JsonEncoder::new(schema, Timestamps::Rfc3339);
    let mut splitter = Splitter::new(Splitting::Lines, 16 << 20);
    let (mut chunk, mut out, mut rows) = (vec![0; 256 * 1024], Vec::new(), 0);
    let mut file = File::open(path)?;
    let start_s = cpu_s()?;
    loop {
        let len = file.read(&mut chunk)?;
        if len == 0 {
            return Ok((cpu_s()? - start_s, rows));
        }
        let mut at = 0;
        while let Some(split) = splitter.next(&chunk[..len], &mut at) {
            let Split::Record(record) = split else { continue };
            rows += 1;
            match work {
                Work::Split => (),
                Work::Typed => {
                    let _: Bid<'_> = sonic_rs::from_slice(record)?;
                }
                Work::Decode | Work::Encode => decoder.decode(record)?,
            }
            if decoder.rows() == 8_192 {
                let columns = decoder.finish();
                if let Work::Encode = work {
                    out.clear();
                    encoder.encode(&RecordBatch::try_new(schema.clone(), columns)?, &mut out, None)?;
                }
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name a file of JSON Lines, then columns such as `price:int64`")?;
    let mut fields = Vec::new();
    for argument in arguments {
        let (name, written) = argument.split_once(':').unwrap_or((&argument, "string"));
        let data_type = match written {
            "int64" => DataType::Int64,
            "float64" => DataType::Float64,
            "bool" => DataType::Boolean,
            "string" => DataType::Utf8,
            other => return Err(format!("there is no type `{other}` here").into()),
        };
        fields.push(Field::new(name, data_type, true));
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let mut works = vec![("read and split", Work::Split), ("and decode", Work::Decode), ("and encode", Work::Encode)];
    if schema.fields().len() == 6 {
        works.insert(1, ("typed", Work::Typed));
    }
    for (name, work) in works {
        let runs = (0..5).map(|_| run(&path, &schema, &work)).collect::<Result<Vec<_>, _>>()?;
        let least = runs.iter().map(|(seconds, _)| *seconds).fold(f64::MAX, f64::min);
        println!("{name:<16} {least:.3} s for {} rows", runs[0].1);
    }
    Ok(())
}
