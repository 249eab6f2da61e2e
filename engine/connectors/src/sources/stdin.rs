//! Lines from standard input, as they come. What was read is gone: a restart can't go back.

use super::bytes::{Buffers, Known, Piece, QUEUE_BYTES, Stream, StreamReader};
use super::file::{check_record_max, record_max, with_metadata};
use crate::formats::Decoding;
use crate::queue::{self, Events, Sender};
use crate::{SourceEntry, SourceStart};
use engine_base::Clock;
use engine_dataflow::Reader;
use engine_plan::{Claim, Columns, Cx, Planned, PlannedSource, SourceCommon, SourceKind, Use};
use engine_spec::Size;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Reads lines from standard input.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StdinConfig {
    /// The largest record; a larger one becomes an error row. 16 MiB unless said.
    #[serde(default = "record_max")]
    #[schemars(default)]
    max_record: Size,
}

/// The registry's line.
pub(crate) const ENTRY: SourceEntry = SourceEntry {
    kind: SourceKind {
        name: "stdin",
        summary: "Lines from standard input: JSON Lines, CSV or text.",
        config_schema: |generator: &mut SchemaGenerator| generator.subschema_for::<StdinConfig>(),
        decodes: true,
        metadata: &["offset"],
        plan,
    },
    start,
};

/// A planned standard input.
#[derive(Debug)]
struct StdinSource {
    record_max: usize,
    decoding: Decoding,
    metadata: Vec<(String, Known)>,
}

impl Planned for StdinSource {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        Vec::new()
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("format".into(), self.decoding.name().into())]
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim { thing: "the standard input".to_owned(), by: Use::Take }]
    }
}

fn plan(cx: &mut Cx<'_>, common: &SourceCommon) -> Option<PlannedSource> {
    let config: Option<StdinConfig> = cx.config();
    let decoding = Decoding::plan(cx, common);
    let (config, decoding) = (config?, decoding?);
    let sound = check_record_max(cx, config.max_record);
    let (metadata, schema) = with_metadata(cx, &decoding, common)?;
    sound.then(|| PlannedSource {
        schema: Arc::new(schema),
        replayable: false,
        finite: true,
        planned: Arc::new(StdinSource { record_max: config.max_record.0 as usize, decoding, metadata }),
    })
}

/// There is one standard input in a process.
static TAKEN: AtomicBool = AtomicBool::new(false);

fn start(planned: &dyn Planned, start: SourceStart) -> Result<Option<Box<dyn Reader>>, String> {
    let Some(source) = planned.downcast::<StdinSource>() else { return Err("this is no standard input".to_owned()) };
    if !start.owns_single_partition() {
        return Ok(None);
    }
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err("standard input is read by another source already; it can be read once".to_owned());
    }
    let waker = start.waker.clone();
    let (sender, receiver) =
        queue::bounded(QUEUE_BYTES, Events { filled: Box::new(move || waker.wake()), ..Events::default() });
    let buffers = Buffers::default();
    let stream = Stream { decoding: &source.decoding, metadata: &source.metadata, record_max: source.record_max };
    // Records are numbered on from the mark, so that positions don't come twice; what was read before is gone.
    let next = start.resume.get(&0).map_or(0, |mark| mark.next);
    let reader = StreamReader::new(&start, &stream, receiver, buffers.clone(), next)?;
    let clock = start.clock.clone();
    std::thread::Builder::new()
        .name(format!("stdin:{}", start.name))
        .spawn(move || read(&mut io::stdin().lock(), &sender, &buffers, &*clock))
        .map_err(|error| format!("can't start a thread: {error}"))?;
    Ok(Some(Box::new(reader)))
}

/// Hands over what comes, until the end. A read can't be broken off: the thread ends with the process if nothing comes.
fn read(input: &mut dyn Read, sender: &Sender<Piece>, buffers: &Buffers, clock: &dyn Clock) {
    loop {
        let mut buffer = buffers.take();
        let piece = match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => buffers.piece(buffer, len, clock.now_ns()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Piece::Failed(format!("can't read standard input: {error}")),
        };
        let bytes = if let Piece::Bytes { len, .. } = &piece { *len } else { 0 };
        if sender.push(piece, bytes).is_err() || bytes == 0 {
            return;
        }
    }
}
