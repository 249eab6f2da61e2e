//! What the sinks that write a stream of bytes share: rows are encoded on the workers, and one thread writes.
//!
//! ```text
//! worker 0: Rows ─▶ encode ─┐                                    ┌─▶ acknowledged tickets, and a wake, to worker 0
//! worker 1: Rows ─▶ encode ─┴─queue─▶ thread: write, sync now ───┴─▶ … to worker 1
//!                    ▲                and then     │
//!                    └──── emptied buffers ────────┘
//! ```
//!
//! The thread writes what is there as soon as it is there; while it writes or syncs, more gathers. A ticket is acknowledged
//! when the last of its bytes is written and, where the target asks for it, on the disk.

use crate::formats::{Encoding, RecordEncoder};
use crate::queue::{self, Events, Popped, Receiver, Sender};
use crate::{SinkHandle, SinkStart, SinkStats};
use arrow::datatypes::SchemaRef;
use engine_base::Clock;
use engine_dataflow::{Acknowledged, Rows, Waker, Writer};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How much encoded output may wait for the thread.
const QUEUE_BYTES: usize = 4 << 20;
/// About how much is encoded before it is handed over, so that it stays in the cache and the thread has something to do.
const PIECE_BYTES: usize = 256 * 1024;
/// How much is gathered for one write.
const WRITE_BYTES: usize = 1 << 20;
/// Emptied buffers that are kept for encoding again, and how large one may be.
const BUFFERS_MAX: usize = 16;
const BUFFER_BYTES_MAX: usize = 4 * PIECE_BYTES;
/// The longest that written bytes wait for a sync while more come.
const SYNC_EVERY: Duration = Duration::from_millis(20);

/// What is written to.
pub trait Target: Send {
    /// Writes all of it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Whether bytes are acknowledged after a `sync` only.
    fn syncs(&self) -> bool;

    /// The sentence with which the pipeline stops when a write or sync fails.
    fn problem(&self, error: &io::Error) -> String;

    /// Of a target that delivers exactly once: where it stands.
    fn place(&self) -> Option<u64> {
        None
    }

    /// What is to be told again to go on from a place.
    fn note(&self, _place: u64) -> String {
        String::new()
    }
}

/// Some encoded rows.
struct Piece {
    end: Arc<End>,
    /// The ticket that is done with this piece.
    ticket: Option<u64>,
    rows: u64,
    bytes: Vec<u8>,
}

/// What the thread tells a worker.
struct End {
    state: Mutex<EndState>,
    waker: Waker,
}

#[derive(Default)]
struct EndState {
    up_to: u64,
    /// What goes with `up_to` where it is delivered exactly once.
    note: Option<String>,
    fatal: Option<String>,
}

impl End {
    fn lock(&self) -> MutexGuard<'_, EndState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Figures, buffers, and who is to be told of what.
#[derive(Default)]
struct Shared {
    rows: AtomicU64,
    bytes: AtomicU64,
    queued_rows: AtomicU64,
    buffers: Mutex<Vec<Vec<u8>>>,
    ends: Mutex<Vec<Arc<End>>>,
}

impl Shared {
    fn take_buffer(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.capacity() <= BUFFER_BYTES_MAX && buffers.len() < BUFFERS_MAX {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    fn stats(&self) -> SinkStats {
        SinkStats {
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            queued_rows: self.queued_rows.load(Ordering::Relaxed),
            ..SinkStats::default()
        }
    }

    /// Tells every worker that the sink can't go on.
    fn fail(&self, sentence: &str) {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for end in ends {
            end.lock().fatal.get_or_insert_with(|| sentence.to_owned());
            end.waker.wake();
        }
    }
}

/// An open sink that writes a stream of bytes.
pub struct StreamSink {
    schema: SchemaRef,
    encoding: Encoding,
    sender: Sender<Piece>,
    shared: Arc<Shared>,
    thread: JoinHandle<Result<(), String>>,
    /// The batch up to which the target has them at the start, and the note of that place.
    delivered: u64,
    first_note: String,
}

impl StreamSink {
    /// Starts the thread. `header` says whether the format's header, if it has one, is to be written.
    pub fn open(
        start: SinkStart,
        encoding: &Encoding,
        mut target: Box<dyn Target>,
        header: bool,
    ) -> Result<Self, String> {
        if header {
            let header = encoding.encoder(&start.schema).header();
            target.write(&header).map_err(|error| target.problem(&error))?;
        }
        let first_note = match target.place() {
            // What was made before the first batch is to be there when that comes again.
            Some(place) => target.sync().map(|()| target.note(place)).map_err(|error| target.problem(&error))?,
            None => String::new(),
        };
        let shared = Arc::new(Shared::default());
        let room = shared.clone();
        let events = Events {
            room: Box::new(move || {
                let ends = room.ends.lock().unwrap_or_else(PoisonError::into_inner).clone();
                ends.iter().for_each(|end| end.waker.wake());
            }),
            ..Events::default()
        };
        let (sender, receiver) = queue::bounded(QUEUE_BYTES, events);
        let thread =
            WriteThread { receiver, target, shared: shared.clone(), clock: start.clock, written: VecDeque::new() };
        let thread = std::thread::Builder::new()
            .name(format!("write:{}", start.name))
            .spawn(move || thread.run())
            .map_err(|error| format!("can't start a thread: {error}"))?;
        let delivered = start.exact.map_or(0, |exact| exact.delivered_sequence());
        let (schema, encoding) = (start.schema, encoding.clone());
        Ok(StreamSink { schema, encoding, sender, shared, thread, delivered, first_note })
    }
}

impl SinkHandle for StreamSink {
    fn writer(&self, _worker: usize, waker: Waker) -> Box<dyn Writer> {
        let state = EndState { up_to: self.delivered, ..EndState::default() };
        let end = Arc::new(End { state: Mutex::new(state), waker });
        self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner).push(end.clone());
        Box::new(StreamWriter {
            encoder: self.encoding.encoder(&self.schema),
            sender: self.sender.clone(),
            shared: self.shared.clone(),
            end,
            slice_rows: 1_024,
        })
    }

    fn close(self: Box<Self>) -> Result<SinkStats, String> {
        let StreamSink { sender, thread, shared, .. } = *self;
        drop(sender);
        thread.join().unwrap_or_else(|_| Err("the writing thread has panicked".to_owned()))?;
        Ok(shared.stats())
    }

    fn stats(&self) -> SinkStats {
        SinkStats { queued_bytes: self.sender.level().1 as u64, ..self.shared.stats() }
    }

    fn first_note(&self) -> Option<String> {
        Some(self.first_note.clone())
    }
}

/// A worker's end.
struct StreamWriter {
    encoder: Box<dyn RecordEncoder>,
    sender: Sender<Piece>,
    shared: Arc<Shared>,
    end: Arc<End>,
    /// How many rows make about [`PIECE_BYTES`].
    slice_rows: usize,
}

impl Writer for StreamWriter {
    fn write(&mut self, rows: Rows, ticket: u64) -> Result<(), Rows> {
        if !self.sender.has_room() {
            return Err(rows);
        }
        let count = rows.num_rows();
        let mut done = 0;
        loop {
            let slice = rows.batch.slice(done, self.slice_rows.min(count - done));
            let mut bytes = self.shared.take_buffer();
            if let Err(sentence) = self.encoder.encode(&slice, &mut bytes, None) {
                self.end.lock().fatal.get_or_insert(sentence);
                self.end.waker.wake();
                return Ok(());
            }
            done += slice.num_rows();
            if slice.num_rows() > 0 {
                let row_bytes = (bytes.len() / slice.num_rows()).max(1);
                self.slice_rows = (PIECE_BYTES / row_bytes).clamp(1, 1 << 16);
            }
            let last = done == count;
            let size = bytes.len();
            self.shared.queued_rows.fetch_add(slice.num_rows() as u64, Ordering::Relaxed);
            let piece =
                Piece { end: self.end.clone(), ticket: last.then_some(ticket), rows: slice.num_rows() as u64, bytes };
            // The thread may have ended on a fault, which `acknowledged` tells.
            self.sender.force_push(piece, size);
            if last {
                return Ok(());
            }
        }
    }

    fn acknowledged(&mut self) -> Acknowledged {
        let state = self.end.lock();
        let EndState { up_to, note, fatal } = &*state;
        Acknowledged { up_to: *up_to, note: note.clone(), fatal: fatal.clone(), ..Acknowledged::default() }
    }

    /// Nothing is held back.
    fn flush(&mut self) {}
}

/// The thread that writes.
struct WriteThread {
    receiver: Receiver<Piece>,
    target: Box<dyn Target>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    /// Pieces that are written and wait for a sync, without their bytes.
    written: VecDeque<Done>,
}

/// The last piece of a ticket.
struct Done {
    end: Arc<End>,
    ticket: u64,
    /// Where the target stood behind it, if that matters.
    place: Option<u64>,
}

impl WriteThread {
    fn run(mut self) -> Result<(), String> {
        let result = self.write_all().map_err(|error| self.target.problem(&error));
        if let Err(sentence) = &result {
            self.shared.fail(sentence);
        }
        result
    }

    fn write_all(&mut self) -> io::Result<()> {
        let mut gathered = Vec::new();
        let mut pieces = Vec::new();
        let mut synced_ns = self.clock.monotonic_ns();
        loop {
            // Only with nothing left to acknowledge may it wait for more.
            let first = match self.receiver.try_pop() {
                Popped::Item(first) => first,
                Popped::Closed => break,
                Popped::Empty if !self.written.is_empty() => {
                    self.target.sync()?;
                    synced_ns = self.clock.monotonic_ns();
                    self.acknowledge();
                    continue;
                }
                Popped::Empty => match self.receiver.pop() {
                    Some(first) => first,
                    None => break,
                },
            };
            let mut size = first.bytes.len();
            pieces.push(first);
            while size < WRITE_BYTES {
                let Popped::Item(piece) = self.receiver.try_pop() else { break };
                size += piece.bytes.len();
                pieces.push(piece);
            }
            let mut place = self.target.place();
            self.write(&pieces, &mut gathered)?;
            let rows = pieces.iter().map(|piece| piece.rows).sum::<u64>();
            self.shared.rows.fetch_add(rows, Ordering::Relaxed);
            self.shared.bytes.fetch_add(size as u64, Ordering::Relaxed);
            self.shared.queued_rows.fetch_sub(rows, Ordering::Relaxed);
            for piece in pieces.drain(..) {
                place = place.map(|place| place + piece.bytes.len() as u64);
                if let Some(ticket) = piece.ticket {
                    self.written.push_back(Done { end: piece.end, ticket, place });
                }
                self.shared.give_buffer(piece.bytes);
            }
            if self.target.syncs() {
                let now_ns = self.clock.monotonic_ns();
                if now_ns.saturating_sub(synced_ns) < SYNC_EVERY.as_nanos() as u64 {
                    continue;
                }
                self.target.sync()?;
                synced_ns = self.clock.monotonic_ns();
            }
            self.acknowledge();
        }
        if self.target.syncs() {
            self.target.sync()?;
        }
        self.acknowledge();
        Ok(())
    }

    /// Writes pieces one by one where they are large, and all at once where they are many and small.
    fn write(&mut self, pieces: &[Piece], gathered: &mut Vec<u8>) -> io::Result<()> {
        if let [piece] = pieces {
            return self.target.write(&piece.bytes);
        }
        gathered.clear();
        for piece in pieces {
            if piece.bytes.len() >= PIECE_BYTES / 4 {
                if !gathered.is_empty() {
                    self.target.write(gathered)?;
                    gathered.clear();
                }
                self.target.write(&piece.bytes)?;
            } else {
                gathered.extend_from_slice(&piece.bytes);
            }
        }
        if gathered.is_empty() { Ok(()) } else { self.target.write(gathered) }
    }

    fn acknowledge(&mut self) {
        let mut last: Option<Arc<End>> = None;
        while let Some(Done { end, ticket, place }) = self.written.pop_front() {
            let note = match place {
                // There is one writer then, and only the last ticket counts.
                Some(_) if !self.written.is_empty() => continue,
                place => place.map(|place| self.target.note(place)),
            };
            let mut state = end.lock();
            (state.up_to, state.note) = (ticket, note);
            drop(state);
            // A worker's tickets mostly stand together, and one wake does for them.
            if let Some(last) = last.replace(end.clone())
                && !Arc::ptr_eq(&last, &end)
            {
                last.waker.wake();
            }
        }
        if let Some(last) = last {
            last.waker.wake();
        }
    }
}
