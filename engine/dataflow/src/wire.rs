//! Rows as bytes, for the exchange between processes: an Arrow IPC stream behind the hidden columns.
//!
//! ```text
//! u64 length of the hidden part | hidden part | Arrow IPC stream (schema and one batch) | zeros to a multiple of 8
//! ```
//!
//! A message carries its schema, because `from_bytes` gets no context. Timely asks for the length before the bytes, so
//! what was encoded for the length is kept for the bytes.

use crate::rows::{Positions, Rows, Times};
use arrow::array::{BinaryBuilder, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use std::io::{self, Write};
use timely::Accountable;
use timely::dataflow::channels::ContainerBytes;

thread_local! {
    /// What `length_in_bytes` encoded last on this thread, for the `into_bytes` that follows it.
    static ENCODED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Accountable for Rows {
    fn record_count(&self) -> i64 {
        self.num_rows() as i64
    }
}

impl ContainerBytes for Rows {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        // The bytes come from another process of the same build; anything else is a fault that must stop this one.
        decode(&bytes).unwrap_or_else(|error| panic!("rows from another process can't be read: {error}"))
    }

    fn length_in_bytes(&self) -> usize {
        ENCODED.with_borrow_mut(|encoded| {
            encode(self, encoded);
            encoded.len()
        })
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        ENCODED.with_borrow_mut(|encoded| {
            writer.write_all(encoded).unwrap_or_else(|error| panic!("rows can't be sent to another process: {error}"));
            encoded.clear();
        });
    }
}

/// Rows as bytes.
pub fn to_bytes(rows: &Rows) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(rows, &mut bytes);
    bytes
}

/// The rows that [`to_bytes`] made bytes of; a sentence if they are others.
pub fn from_bytes(bytes: &[u8]) -> Result<Rows, String> {
    decode(bytes).map_err(|error| format!("rows can't be read: {error}"))
}

fn encode(rows: &Rows, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; 8]);
    put_positions(&rows.positions, out);
    put_times(&rows.ingest_ns, out);
    put_times(&rows.born_ns, out);
    match &rows.event_ns {
        None => out.push(0),
        Some(times) => {
            out.push(1);
            put_times(times, out);
        }
    }
    match &rows.removes {
        None => out.push(0),
        Some(removes) => {
            out.push(1);
            put_u64s((0..removes.len()).map(|row| u64::from(removes.value(row))), out);
        }
    }
    let hidden = (out.len() - 8) as u64;
    out[..8].copy_from_slice(&hidden.to_le_bytes());
    // Writing into memory can fail only for a type that IPC does not know; the plan's types are all known to it.
    let written = StreamWriter::try_new(&mut *out, &rows.batch.schema()).and_then(|mut writer| {
        writer.write(&rows.batch)?;
        writer.finish()
    });
    if let Err(error) = written {
        panic!("a batch can't be encoded for another process: {error}");
    }
    out.resize(out.len().next_multiple_of(8), 0);
}

fn decode(bytes: &[u8]) -> Result<Rows, Box<dyn std::error::Error>> {
    let (length, rest) = bytes.split_at_checked(8).ok_or("shorter than its header")?;
    let hidden = u64::from_le_bytes(length.try_into()?) as usize;
    let (mut hidden, ipc) = rest.split_at_checked(hidden).ok_or("shorter than its hidden columns")?;
    let hidden = &mut hidden;
    let positions = get_positions(hidden)?;
    let ingest_ns = get_times(hidden)?;
    let born_ns = get_times(hidden)?;
    let event_ns = if get_u8(hidden)? == 1 { Some(get_times(hidden)?) } else { None };
    let removes = match get_u8(hidden)? {
        1 => Some(get_u64s(hidden)?.iter().map(|removed| *removed != 0).collect()),
        _ => None,
    };
    let mut reader = StreamReader::try_new(io::Cursor::new(ipc), None)?;
    let schema = reader.schema();
    let batch = reader.next().transpose()?.unwrap_or_else(|| RecordBatch::new_empty(schema));
    Ok(Rows { batch, positions, ingest_ns, born_ns, event_ns, removes })
}

fn put_u64s(values: impl ExactSizeIterator<Item = u64>, out: &mut Vec<u8>) {
    out.extend_from_slice(&(values.len() as u64).to_le_bytes());
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn put_times(times: &Times, out: &mut Vec<u8>) {
    match times {
        Times::One(value) => {
            out.push(0);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Times::Each(values) => {
            out.push(1);
            put_u64s(values.iter().map(|value| *value as u64), out);
        }
    }
}

fn put_positions(positions: &Positions, out: &mut Vec<u8>) {
    match positions {
        Positions::Range { origin, first } => {
            out.push(0);
            out.extend_from_slice(&origin.to_le_bytes());
            out.extend_from_slice(&first.to_le_bytes());
        }
        Positions::Offsets { origin, offsets } => {
            out.push(1);
            out.extend_from_slice(&origin.to_le_bytes());
            put_u64s(offsets.iter().copied(), out);
        }
        Positions::Mixed { origins, offsets, suffixes } => {
            out.push(if suffixes.is_some() { 3 } else { 2 });
            put_u64s(origins.iter().copied(), out);
            put_u64s(offsets.iter().copied(), out);
            for suffix in suffixes.iter().flat_map(|all| all.iter()).flatten() {
                out.extend_from_slice(&(suffix.len() as u64).to_le_bytes());
                out.extend_from_slice(suffix);
            }
        }
    }
}

fn get_u8(bytes: &mut &[u8]) -> Result<u8, &'static str> {
    let (first, rest) = bytes.split_first().ok_or("cut short")?;
    *bytes = rest;
    Ok(*first)
}

fn get_bytes<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], &'static str> {
    let (head, rest) = bytes.split_at_checked(len).ok_or("cut short")?;
    *bytes = rest;
    Ok(head)
}

fn get_u64(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    let head = get_bytes(bytes, 8)?;
    Ok(u64::from_le_bytes(head.try_into().map_err(|_| "cut short")?))
}

fn get_u64s(bytes: &mut &[u8]) -> Result<Vec<u64>, &'static str> {
    let len = get_u64(bytes)? as usize;
    let head = get_bytes(bytes, len.checked_mul(8).ok_or("a length that can't be")?)?;
    Ok(head.chunks_exact(8).map(|eight| u64::from_le_bytes(eight.try_into().unwrap_or_default())).collect())
}

fn get_times(bytes: &mut &[u8]) -> Result<Times, &'static str> {
    match get_u8(bytes)? {
        0 => Ok(Times::One(get_u64(bytes)? as i64)),
        1 => Ok(Times::Each(get_u64s(bytes)?.into_iter().map(|value| value as i64).collect())),
        _ => Err("unknown form of times"),
    }
}

fn get_positions(bytes: &mut &[u8]) -> Result<Positions, &'static str> {
    match get_u8(bytes)? {
        0 => Ok(Positions::Range { origin: get_u64(bytes)?, first: get_u64(bytes)? }),
        1 => Ok(Positions::Offsets { origin: get_u64(bytes)?, offsets: ScalarBuffer::from(get_u64s(bytes)?) }),
        form @ (2 | 3) => {
            let origins = get_u64s(bytes)?;
            let offsets = get_u64s(bytes)?;
            let suffixes = if form == 3 {
                let mut all = BinaryBuilder::new();
                for _ in 0..origins.len() {
                    let len = get_u64(bytes)? as usize;
                    all.append_value(get_bytes(bytes, len)?);
                }
                Some(all.finish())
            } else {
                None
            };
            Ok(Positions::Mixed { origins: origins.into(), offsets: offsets.into(), suffixes })
        }
        _ => Err("unknown form of positions"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::BinaryArray;
    use arrow::array::{ArrayRef, Int64Array, RecordBatchOptions, StringArray};
    use arrow::datatypes::Schema;
    use std::sync::Arc;

    fn check(rows: &Rows) {
        let mut bytes = Vec::new();
        encode(rows, &mut bytes);
        assert_eq!(bytes.len() % 8, 0);
        let back = decode(&bytes).unwrap();
        assert_eq!(back.batch, rows.batch);
        assert_eq!(back.positions, rows.positions);
        assert_eq!(back.ingest_ns, rows.ingest_ns);
        assert_eq!(back.born_ns, rows.born_ns);
        assert_eq!((&back.event_ns, &back.removes), (&rows.event_ns, &rows.removes));
        for cut in 0..bytes.len().saturating_sub(16) {
            // Cut short it is an error or, past the last batch, still the same rows; never a panic.
            let _ = decode(&bytes[..cut]);
        }
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let batch = RecordBatch::try_from_iter([
            ("a", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef),
            ("b", Arc::new(StringArray::from(vec!["x", "", "zzz"])) as ArrayRef),
        ])
        .unwrap();
        let mut rows = Rows {
            batch,
            positions: Positions::Range { origin: 7, first: 40 },
            ingest_ns: Times::One(-5),
            born_ns: Times::Each(vec![1, 2, 3].into()),
            event_ns: Some(Times::One(9)),
            removes: None,
        };
        check(&rows);
        rows.positions = Positions::Offsets { origin: 7, offsets: vec![1, 5, 9].into() };
        rows.event_ns = None;
        check(&rows);
        rows.positions = Positions::Mixed {
            origins: vec![1, 2, 3].into(),
            offsets: vec![1, 5, 9].into(),
            suffixes: Some(BinaryArray::from_iter_values([&[1u8, 2][..], &[], &[9u8]])),
        };
        check(&rows);
        let options = RecordBatchOptions::new().with_row_count(Some(4));
        rows.batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
        rows.positions = Positions::Range { origin: 0, first: 0 };
        rows.born_ns = Times::One(0);
        check(&rows);
    }
}
