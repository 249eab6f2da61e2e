//! The worker's half of sources that read streams of bytes: chunks in, rows out.
//!
//! ```text
//! reading thread ── Open, Bytes, Bytes, …, Close, Open, … ──queue──▶ StreamReader: split ─▶ decode ─▶ Rows
//!        ▲                                                                │
//!        └───────────────── emptied buffers ──────────────────────────────┘
//! ```
//!
//! A stream is one partition, and a record's offset is its ordinal from the first record of the first file. The thread
//! knows files and bytes and nothing of records; this side counts records and so honours limits exactly.

use crate::SourceStart;
use crate::formats::split::{PAYLOAD_MAX, Split, Splitter};
use crate::formats::{Decoding, RecordDecoder, reasons};
use crate::queue::{Popped, Receiver};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, SchemaRef};
use engine_base::RowError;
use engine_dataflow::rows::{RowPosition, origin};
use engine_dataflow::{ErrorRow, Mark, Marks, Polled, Positions, Reader, Rows, SourceRows, Times};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How much a thread reads at a time. Large enough that the hand-over costs nothing, small enough to stay in the cache.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// How much may wait between the thread and the worker.
pub const QUEUE_BYTES: usize = 4 * CHUNK_BYTES;
/// How many rows a batch has at most.
pub const BATCH_ROWS: usize = 8_192;
/// Emptied buffers that are kept for reading again.
const BUFFERS_MAX: usize = 6;

/// What a reading thread hands over.
#[derive(Debug)]
pub enum Piece {
    /// A file begins, or goes on at a byte that is the start of a record.
    Open {
        /// The file.
        file: Arc<OpenFile>,
        /// Where the bytes that follow stand in it.
        from: u64,
        /// Its first bytes, where `from` lies behind them and the format has a header.
        head: Vec<u8>,
    },
    /// Bytes of the open file, or of the only stream.
    Bytes {
        /// A buffer, of which the first `len` bytes count.
        buffer: Vec<u8>,
        /// How many.
        len: usize,
        /// When they were read, nanoseconds since 1970 UTC.
        read_ns: i64,
    },
    /// The open file has ended: a record without a line end is complete.
    Close,
    /// The source can't go on.
    Failed(String),
}

/// A file as a mark tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenFile {
    /// Its path, as a record's metadata and a mark have it.
    pub path: String,
    /// How many files stand before it.
    pub before: u64,
    /// How large they were together when they had been read.
    pub before_bytes: u64,
    /// What its first bytes were.
    pub head: Fingerprint,
}

/// The first bytes of a file, in short: to tell whether a file is still the one that it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fingerprint {
    /// How many bytes.
    pub bytes: u64,
    /// Their FNV-1a hash.
    pub hash: u64,
}

impl Fingerprint {
    /// How many bytes count at most.
    pub const BYTES_MAX: usize = 4_096;

    /// Of the first bytes of a file.
    pub fn of(head: &[u8]) -> Self {
        let head = &head[..head.len().min(Self::BYTES_MAX)];
        let hash = head
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        Fingerprint { bytes: head.len() as u64, hash }
    }
}

/// What a mark needs to seek: kept as JSON in [`Mark::detail`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The byte at which the next record starts.
    pub byte: u64,
    /// How many files stand before it.
    pub before: u64,
    /// How large they were together when they had been read.
    #[serde(default)]
    pub before_bytes: u64,
    /// What its first bytes were.
    pub head: Fingerprint,
}

/// Buffers that go to and fro between the thread and the worker.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// A buffer of [`CHUNK_BYTES`].
    pub fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(|| vec![0; CHUNK_BYTES])
    }

    /// Keeps a buffer for the next one who takes it.
    pub fn give(&self, buffer: Vec<u8>) {
        let mut buffers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() == CHUNK_BYTES && buffers.len() < BUFFERS_MAX {
            buffers.push(buffer);
        }
    }

    /// The bytes of a buffer as a piece. What is small is copied, so that the queue never holds much more than it counts.
    pub fn piece(&self, buffer: Vec<u8>, len: usize, read_ns: i64) -> Piece {
        if len >= CHUNK_BYTES / 8 {
            return Piece::Bytes { buffer, len, read_ns };
        }
        let small = buffer[..len].to_vec();
        self.give(buffer);
        Piece::Bytes { buffer: small, len, read_ns }
    }
}

/// What the system knows of a record, as `metadata:` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The path of its file.
    Path,
    /// Its ordinal.
    Offset,
}

impl Known {
    /// The column that holds it.
    pub fn field(self, name: &str) -> Field {
        match self {
            Known::Path => Field::new(name, DataType::Utf8, false),
            Known::Offset => Field::new(name, DataType::Int64, false),
        }
    }
}

/// Where a column of the batch comes from.
#[derive(Clone, Copy, Debug)]
enum Filled {
    Decoded(usize),
    Known(Known),
}

/// What is planned of a stream.
pub struct Stream<'a> {
    /// Its format.
    pub decoding: &'a Decoding,
    /// `metadata`: column and what it holds.
    pub metadata: &'a [(String, Known)],
    /// The largest record.
    pub record_max: usize,
}

/// A worker's reader of a stream.
pub struct StreamReader {
    name: Arc<str>,
    origin: u64,
    receiver: Receiver<Piece>,
    buffers: Buffers,
    splitter: Splitter,
    decoder: Box<dyn RecordDecoder>,
    schema: SchemaRef,
    from: Vec<Filled>,
    /// The first record of each file is its header.
    has_header: bool,
    header_due: bool,
    /// Line ends before the chunk, counted as long as the header is due.
    lines: usize,
    /// A batch must not mix files, since somebody reads the path.
    by_file: bool,
    /// The chunk that is being read, and how far it is.
    chunk: Vec<u8>,
    chunk_len: usize,
    at: usize,
    chunk_ns: i64,
    /// Where the chunk starts in its file.
    chunk_byte: u64,
    /// A byte order mark may come.
    file_start: bool,
    file: Option<Arc<OpenFile>>,
    /// A piece that waits until the records before it are handed out.
    held: Option<Piece>,
    /// The ordinal of the next record, and where it starts in its file.
    next: u64,
    next_byte: u64,
    end: Option<End>,
    batch: Batch,
}

/// How a stream ended.
#[derive(Clone, Debug)]
enum End {
    Done,
    Failed(String),
}

/// The positions of the rows that the decoder holds.
#[derive(Debug, Default)]
struct Batch {
    first: u64,
    /// One a row, once they are not consecutive.
    offsets: Option<Vec<u64>>,
    ingest_ns: i64,
}

impl Batch {
    /// Notes that the row of this offset was appended as row number `row`.
    fn push(&mut self, row: usize, offset: u64) {
        match &mut self.offsets {
            Some(offsets) => offsets.push(offset),
            None if row == 0 => self.first = offset,
            None if self.first + row as u64 == offset => (),
            None => self.offsets = Some((self.first..self.first + row as u64).chain([offset]).collect()),
        }
    }
}

impl StreamReader {
    /// A reader that goes on after `next` records.
    pub fn new(
        start: &SourceStart,
        stream: &Stream<'_>,
        receiver: Receiver<Piece>,
        buffers: Buffers,
        next: u64,
    ) -> Result<Self, String> {
        let known = |name: &str| stream.metadata.iter().find(|(column, _)| column == name).map(|(_, known)| *known);
        let mut decoded = Vec::new();
        let mut from = Vec::new();
        for field in start.columns.fields() {
            from.push(match known(field.name()) {
                Some(known) => Filled::Known(known),
                None => {
                    decoded.push(field.clone());
                    Filled::Decoded(decoded.len() - 1)
                }
            });
        }
        Ok(StreamReader {
            name: start.name.clone(),
            origin: origin(start.source, 0),
            receiver,
            buffers,
            splitter: Splitter::new(stream.decoding.splitting(), stream.record_max),
            decoder: stream.decoding.decoder(&decoded)?,
            schema: start.columns.clone(),
            by_file: from.iter().any(|from| matches!(from, Filled::Known(Known::Path))),
            from,
            has_header: stream.decoding.has_header(),
            header_due: stream.decoding.has_header(),
            lines: 0,
            chunk: Vec::new(),
            chunk_len: 0,
            at: 0,
            chunk_ns: 0,
            chunk_byte: 0,
            file_start: true,
            file: None,
            held: None,
            next,
            next_byte: 0,
            end: None,
            batch: Batch::default(),
        })
    }

    /// Decodes records of the chunk until it is used up or a limit is reached.
    fn decode_chunk(&mut self, max_bytes: usize, limit: u64, out: &mut SourceRows) {
        let chunk = &self.chunk[..self.chunk_len];
        while self.at < chunk.len()
            && self.next < limit
            && self.decoder.rows() < BATCH_ROWS
            // What is no record, a blank line or a header, never fills a portion: a poll gives a record if there is one.
            && (out.records == 0 || out.bytes < max_bytes as u64)
        {
            let Some(split) = self.splitter.next(chunk, &mut self.at) else { break };
            self.next_byte = self.chunk_byte + self.at as u64;
            let record = Record { split, step: &self.name, origin: self.origin, ingest_ns: self.chunk_ns };
            let taken = record.take(&mut self.decoder, &mut self.header_due, &mut self.next, &mut self.batch, out);
            if let Err(what) = taken {
                self.end = Some(End::Failed(self.at_header(&what)));
                return;
            }
        }
    }

    /// A sentence on the header that ends at this place of the chunk.
    fn at_header(&self, what: &str) -> String {
        let file = self.file.as_ref().map_or("the input".to_owned(), |file| format!("`{}`", file.path));
        let chunk = &self.chunk[..self.at];
        let chunk = chunk.strip_suffix(b"\n").unwrap_or(chunk);
        let line = self.lines + memchr::memchr_iter(b'\n', chunk).count() + 1;
        format!("{file}, line {line}: {what}")
    }

    /// Takes the next piece. False if there is none now, or none that may be taken yet.
    fn next_piece(&mut self, limit: u64, out: &mut SourceRows) -> bool {
        let piece = match self.held.take() {
            Some(piece) => piece,
            None => match self.receiver.try_pop() {
                Popped::Item(piece) => piece,
                Popped::Empty => return false,
                Popped::Closed => {
                    // A stream without files ends here.
                    if self.next >= limit && self.splitter.held() > 0 {
                        return false;
                    }
                    self.close(out);
                    self.end.get_or_insert(End::Done);
                    return false;
                }
            },
        };
        match piece {
            Piece::Bytes { buffer, len, read_ns } => {
                self.chunk_byte += self.chunk_len as u64;
                if self.header_due {
                    self.lines += memchr::memchr_iter(b'\n', &self.chunk[..self.chunk_len]).count();
                }
                self.buffers.give(std::mem::replace(&mut self.chunk, buffer));
                (self.chunk_len, self.at, self.chunk_ns) = (len, 0, read_ns);
                if std::mem::take(&mut self.file_start) && self.chunk[..len].starts_with(b"\xef\xbb\xbf") {
                    self.at = 3;
                }
            }
            // What ends a record, or a batch, waits for its turn.
            Piece::Close if self.next >= limit => {
                self.held = Some(piece);
                return false;
            }
            Piece::Open { .. } if self.by_file && self.decoder.rows() > 0 => {
                self.held = Some(piece);
                return false;
            }
            Piece::Close => self.close(out),
            Piece::Open { file, from, head } => {
                self.file = Some(file);
                (self.chunk_len, self.at, self.chunk_byte, self.next_byte) = (0, 0, from, from);
                self.file_start = from == 0;
                self.header_due = self.has_header;
                self.lines = 0;
                if self.has_header && from > 0 {
                    self.header_due = false;
                    self.read_header(&head);
                }
            }
            Piece::Failed(sentence) => {
                self.end = Some(End::Failed(sentence));
                return false;
            }
        }
        true
    }

    /// The end of a file completes a record without a line end.
    fn close(&mut self, out: &mut SourceRows) {
        self.next_byte = self.chunk_byte + self.chunk_len as u64;
        if let Some(split) = self.splitter.end() {
            let record = Record { split, step: &self.name, origin: self.origin, ingest_ns: self.chunk_ns };
            let taken = record.take(&mut self.decoder, &mut self.header_due, &mut self.next, &mut self.batch, out);
            if let Err(what) = taken {
                self.end = Some(End::Failed(self.at_header(&what)));
            }
        }
    }

    fn read_header(&mut self, head: &[u8]) {
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        let mut splitter = self.splitter.fresh();
        let mut at = 0;
        if let Some(Split::Record(header)) = splitter.next(head, &mut at)
            && let Err(what) = self.decoder.header(header)
        {
            self.end = Some(End::Failed(self.at_header(&what)));
        }
    }

    /// The rows that the decoder holds.
    fn finish(&mut self) -> Result<Rows, String> {
        let rows = self.decoder.rows();
        let decoded = self.decoder.finish();
        let batch = std::mem::take(&mut self.batch);
        let positions = match batch.offsets {
            None => Positions::Range { origin: self.origin, first: batch.first },
            Some(offsets) => Positions::Offsets { origin: self.origin, offsets: ScalarBuffer::from(offsets) },
        };
        let column = |from: &Filled| -> ArrayRef {
            match from {
                Filled::Decoded(at) => decoded[*at].clone(),
                Filled::Known(Known::Path) => {
                    let path = self.file.as_ref().map_or("", |file| file.path.as_str());
                    Arc::new(StringArray::from_iter_values(std::iter::repeat_n(path, rows)))
                }
                Filled::Known(Known::Offset) => Arc::new(match &positions {
                    Positions::Offsets { offsets, .. } => {
                        Int64Array::from_iter_values(offsets.iter().map(|offset| *offset as i64))
                    }
                    _ => Int64Array::from_iter_values((batch.first..).take(rows).map(|offset| offset as i64)),
                }),
            }
        };
        let columns: Vec<ArrayRef> = self.from.iter().map(column).collect();
        debug_assert!(columns.iter().all(|column| column.len() == rows));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch_of_columns = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| format!("the rows of `{}` don't make a batch: {error}", self.name))?;
        Ok(Rows {
            batch: batch_of_columns,
            positions,
            ingest_ns: Times::One(batch.ingest_ns),
            born_ns: Times::One(batch.ingest_ns),
            event_ns: None,
            removes: None,
        })
    }
}

/// A record on its way into the decoder.
struct Record<'a> {
    split: Split<'a>,
    step: &'a Arc<str>,
    origin: u64,
    ingest_ns: i64,
}

impl Record<'_> {
    /// An error is a sentence on the header, without which the file can't be read.
    #[inline]
    fn take(
        self,
        decoder: &mut Box<dyn RecordDecoder>,
        header_due: &mut bool,
        next: &mut u64,
        batch: &mut Batch,
        out: &mut SourceRows,
    ) -> Result<(), String> {
        let (error, payload, bytes) = match self.split {
            Split::Record(record) => {
                if std::mem::take(header_due) {
                    out.bytes += record.len() as u64 + 1;
                    return decoder.header(record);
                }
                let row = decoder.rows();
                match decoder.decode(record) {
                    Ok(()) => {
                        if row == 0 {
                            batch.ingest_ns = self.ingest_ns;
                        }
                        batch.push(row, *next);
                        *next += 1;
                        out.bytes += record.len() as u64 + 1;
                        out.records += 1;
                        return Ok(());
                    }
                    Err(error) => (error, record, record.len() as u64),
                }
            }
            Split::TooLarge { head, bytes } => {
                // A file whose line ends are not known is one record, and the start of it tells.
                if std::mem::take(header_due) {
                    decoder.header(head)?;
                    return Err(format!("the header has {bytes} bytes, more than `max_record`"));
                }
                (
                    RowError::new(reasons::TOO_LARGE, format!("the record has {bytes} bytes, more than `max_record`")),
                    head,
                    bytes,
                )
            }
        };
        out.errors.push(error_row(self.step, self.origin, *next, self.ingest_ns, error, payload, bytes));
        *next += 1;
        out.bytes += bytes + 1;
        out.records += 1;
        Ok(())
    }
}

/// A record that failed, with as much of it as is worth keeping.
pub fn error_row(
    step: &Arc<str>,
    origin: u64,
    offset: u64,
    ingest_ns: i64,
    mut error: RowError,
    record: &[u8],
    bytes: u64,
) -> ErrorRow {
    let payload = record[..record.len().min(PAYLOAD_MAX)].to_vec();
    if (payload.len() as u64) < bytes {
        error.reason.push_str(&format!(" (of its {bytes} bytes, the first {} are kept)", payload.len()));
    }
    let position = RowPosition { origin, offset, suffix: Box::default() };
    ErrorRow { step: step.clone(), error, payload, position, ingest_ns }
}

impl Reader for StreamReader {
    fn poll(&mut self, max_bytes: usize, until: Option<&BTreeMap<u32, u64>>) -> Polled {
        let limit = match until {
            None => u64::MAX,
            Some(limits) => match limits.get(&0) {
                Some(limit) => *limit,
                None => return Polled::Pending,
            },
        };
        let max_bytes = max_bytes.max(1);
        let mut out = SourceRows::default();
        loop {
            self.decode_chunk(max_bytes, limit, &mut out);
            if self.at < self.chunk_len
                || self.end.is_some()
                || self.decoder.rows() >= BATCH_ROWS
                || (out.records > 0 && out.bytes >= max_bytes as u64)
            {
                break;
            }
            if !self.next_piece(limit, &mut out) {
                break;
            }
        }
        if self.decoder.rows() > 0 {
            match self.finish() {
                Ok(rows) => out.rows.push(rows),
                Err(sentence) => self.end = Some(End::Failed(sentence)),
            }
        }
        if out.records > 0 {
            return Polled::Some(out);
        }
        match &self.end {
            None => Polled::Pending,
            Some(End::Done) => Polled::Done,
            Some(End::Failed(sentence)) => Polled::Failed(sentence.clone()),
        }
    }

    fn marks(&self) -> Marks {
        let detail = self.file.as_ref().map(|file| Place {
            file: file.path.clone(),
            byte: self.next_byte,
            before: file.before,
            before_bytes: file.before_bytes,
            head: file.head,
        });
        let detail = detail.and_then(|place| serde_json::to_string(&place).ok()).unwrap_or_default();
        Marks::from([(0, Mark { next: self.next, detail })])
    }
}
