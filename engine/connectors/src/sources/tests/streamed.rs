//! The body of the tests of streams, which the fuzz target `decoders` runs too: bytes that come in chunks of any size,
//! through splitter and decoder, and what became of each record.

use arrow::datatypes::Schema;
use engine_base::{SourceId, SystemClock};
use engine_connectors::SourceStart;
use engine_connectors::formats::json::JsonEncoder;
use engine_connectors::formats::{Decoding, RecordEncoder, Timestamps};
use engine_connectors::queue::{self, Events};
use engine_connectors::sources::bytes::{Buffers, Known, OpenFile, Piece, QUEUE_BYTES, Stream, StreamReader};
use engine_dataflow::rows::origin;
use engine_dataflow::{Marks, Polled, Positions, Reader, SourceRows, Waker};
use std::sync::Arc;

/// Offset and content of each record: the row as JSON, or `code: reason`.
pub(crate) fn records(out: &SourceRows) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    for rows in &out.rows {
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        JsonEncoder::new(&rows.schema(), Timestamps::Rfc3339).encode(&rows.batch, &mut text, Some(&mut ends)).unwrap();
        let text = String::from_utf8(text).unwrap();
        for (row, line) in text.lines().enumerate() {
            let offset = match &rows.positions {
                Positions::Range { origin: from, first } => {
                    assert_eq!(*from, origin(SourceId(0), 0));
                    first + row as u64
                }
                Positions::Offsets { offsets, .. } => {
                    assert_eq!(offsets.len(), rows.num_rows());
                    offsets[row]
                }
                Positions::Mixed { .. } => panic!("one partition"),
            };
            found.push((offset, line.to_owned()));
        }
    }
    found.extend(out.errors.iter().map(|error| (error.position.offset, error.error.to_string())));
    found.sort();
    found
}

/// The records in the order of their offsets, of which none is missing.
pub(crate) fn texts(out: &SourceRows) -> Vec<String> {
    let found = records(out);
    for (at, pair) in found.windows(2).enumerate() {
        assert_eq!(pair[0].0 + 1, pair[1].0, "offsets are consecutive, at {at}");
    }
    found.into_iter().map(|(_, text)| text).collect()
}

/// How a source `s` is started that reads no column.
pub(crate) fn bare_start() -> SourceStart {
    SourceStart {
        name: "s".into(),
        source: SourceId(0),
        worker: 0,
        workers: 1,
        waker: Waker::none(),
        resume: Marks::new(),
        columns: Arc::new(Schema::empty()),
        clock: SystemClock::shared(),
        finite_from_start: false,
    }
}

/// What a stream of files gives when they come in chunks of these sizes and rows are asked for in portions of this many
/// bytes.
pub(crate) fn streamed(
    decoding: &Decoding,
    files: &[&[u8]],
    sizes: &[usize],
    portion: usize,
    record_max: usize,
) -> Vec<String> {
    let metadata = [("file".to_owned(), Known::Path)];
    let mut fields: Vec<_> = decoding.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Known::Path.field("file")));
    let start = SourceStart { columns: Arc::new(Schema::new(fields)), ..bare_start() };
    let (sender, receiver) = queue::bounded(QUEUE_BYTES, Events::default());
    let buffers = Buffers::default();
    let stream = Stream { decoding, metadata: &metadata, record_max };
    let mut reader = StreamReader::new(&start, &stream, receiver, buffers.clone(), 0).unwrap();
    let mut out = SourceRows::default();
    let mut sizes = sizes.iter().cycle();
    let longest = files.iter().map(|file| file.len() as u64 + 1).max().unwrap_or_default();
    let mut failure = None;
    let take = |reader: &mut StreamReader, out: &mut SourceRows, failed: &mut Option<String>| {
        loop {
            match reader.poll(portion, None) {
                Polled::Some(some) => {
                    // A portion is over with the record that fills it; headers and blank lines never fill one.
                    assert!(
                        some.records == 1 || some.bytes < portion.max(1) as u64 + longest,
                        "{} of {portion}",
                        some.bytes
                    );
                    out.rows.extend(some.rows);
                    out.errors.extend(some.errors);
                }
                Polled::Pending => return false,
                Polled::Done => return true,
                Polled::Failed(reason) => {
                    *failed = Some(reason);
                    return true;
                }
            }
        }
    };
    for (before, file) in files.iter().enumerate() {
        let facts = OpenFile { path: before.to_string(), before: before as u64, ..OpenFile::default() };
        sender.push(Piece::Open { file: Arc::new(facts), from: 0, head: Vec::new() }, 0).unwrap();
        let mut rest = *file;
        // A byte order mark is looked for in the first chunk.
        let mut first = 3;
        while !rest.is_empty() {
            let len = (*sizes.next().unwrap()).max(first).min(rest.len());
            first = 0;
            let mut buffer = buffers.take();
            buffer[..len].copy_from_slice(&rest[..len]);
            sender.push(buffers.piece(buffer, len, 1), len).unwrap();
            rest = &rest[len..];
            if take(&mut reader, &mut out, &mut failure) {
                return vec![failure.expect("the stream goes on")];
            }
        }
        sender.push(Piece::Close, 0).unwrap();
    }
    drop(sender);
    assert!(take(&mut reader, &mut out, &mut failure));
    // What was read before is not compared: how far a reader came when it failed depends on the chunks.
    failure.map_or_else(|| texts(&out), |reason| vec![reason])
}

/// Checks that the rows of [`streamed`], which are JSON, are read as the same again.
pub(crate) fn written_is_read_again(decoding: &Decoding, rows: &[String]) {
    let rows: Vec<&str> = rows.iter().map(String::as_str).filter(|row| row.starts_with('{')).collect();
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let json = Decoding::json(decoding.schema().clone(), false);
    let again = streamed(&json, &[text.as_bytes()], &[text.len() + 1], 1 << 20, text.len() + 5);
    // The path of the file is the last column, and there is one file now.
    let in_one_file = |row: &str| row.rsplit_once("\"file\":").map(|(columns, _)| format!("{columns}\"file\":\"0\"}}"));
    assert_eq!(again, rows.into_iter().filter_map(in_one_file).collect::<Vec<_>>());
}
