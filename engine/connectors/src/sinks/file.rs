//! Rows as lines of a file.
//!
//! A line is acknowledged when the disk has it (`fdatasync`, for all that gathered meanwhile at once). A process that is
//! killed may leave half a line behind, of rows that were not acknowledged and so come again: the next run with the same
//! state cuts it off. Devices and pipes are written without any of that.
//!
//! Exactly once, the journal knows how long the file was behind the last batch that it calls delivered. What stands behind
//! that at the start is of batches that come again, and is cut off.

use super::bytes::{StreamSink, Target};
use crate::formats::Encoding;
use crate::{Exact, SinkEntry, SinkHandle, SinkStart};
use engine_base::Diagnostic;
use engine_base::codes::connector as codes;
use engine_plan::{Claim, Columns, Cx, ExactlyOnce, Planned, PlannedSink, SinkCommon, SinkKind, StreamType, Use};
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Writes rows to a file, as lines of JSON or CSV.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    /// The file; relative to this file. Folders on the way are made.
    path: String,
    /// What becomes of a file that is there when a first run starts: `append` (the default) or `replace`. A run that goes on
    /// from recorded marks always appends.
    #[serde(default)]
    existing: Existing,
}

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Existing {
    /// Its lines stay.
    #[default]
    Append,
    /// It is emptied.
    Replace,
}

/// The registry's line.
pub(crate) const ENTRY: SinkEntry = SinkEntry {
    kind: SinkKind {
        name: "file",
        summary: "Rows as lines of JSON or CSV in a file.",
        config_schema: |generator: &mut SchemaGenerator| generator.subschema_for::<FileConfig>(),
        encodes: true,
        sees_all: false,
        changelogs: true,
        plan,
    },
    open,
};

/// A planned file sink.
#[derive(Debug)]
struct FileSink {
    /// The path as it was written.
    written: String,
    /// What it is relative to.
    base_dir: PathBuf,
    existing: Existing,
    encoding: Encoding,
    columns: Columns,
}

impl Planned for FileSink {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        vec![self.columns.clone()]
    }

    fn facts(&self) -> Vec<(String, String)> {
        vec![("path".into(), self.written.clone()), ("format".into(), self.encoding.name().into())]
    }

    fn claims(&self) -> Vec<Claim> {
        // What is written to a device mixes with nothing.
        let device = self.written.starts_with("/dev/");
        if device { Vec::new() } else { vec![Claim::file(&self.base_dir, &self.written, Use::Write)] }
    }
}

fn plan(cx: &mut Cx<'_>, input: &StreamType, common: &SinkCommon) -> Option<PlannedSink> {
    let mut sound = true;
    let config: Option<FileConfig> = cx.config();
    let encoding = Encoding::plan(cx, common);
    let (config, encoding) = (config?, encoding?);
    let span = cx.span(&["path"]);
    if config.path.trim().is_empty() || config.path.ends_with('/') {
        cx.push(
            Diagnostic::error(codes::BAD_PATH, span, "the path names no file")
                .help("name a file: `path: out/orders.jsonl`"),
        );
        sound = false;
    } else if config.path.contains(['*', '?']) {
        let found = Diagnostic::error(codes::BAD_PATH, span, "a sink writes to one file, and this is a pattern")
            .help("name a file: `path: out/orders.jsonl`");
        cx.push(found);
        sound = false;
    }
    let columns = input.schema.fields().iter().map(|field| field.name().clone()).collect();
    sound.then(|| PlannedSink {
        can_fail: false,
        timeout_ns: None,
        exactly_once: match config.path.starts_with("/dev/") {
            true => ExactlyOnce::No {
                reason: "what was written to a device can't be cut off again",
                help: "write to a file, a topic or a table",
            },
            false => ExactlyOnce::By("the recorded length of the file"),
        },
        planned: Arc::new(FileSink {
            written: config.path,
            base_dir: cx.component.dir(&["path"]).to_path_buf(),
            existing: config.existing,
            encoding,
            columns,
        }),
    })
}

fn open(planned: &dyn Planned, start: SinkStart) -> Result<Box<dyn SinkHandle>, String> {
    let Some(sink) = planned.downcast::<FileSink>() else { return Err("this is no file sink".to_owned()) };
    let problem = |error: io::Error| format!("can't write to `{}`: {error}", sink.written);
    let (target, empty) = match &start.exact {
        Some(exact) => FileTarget::open_exact(sink, &start, exact, problem)?,
        None => FileTarget::open(sink, &start).map_err(problem)?,
    };
    Ok(Box::new(StreamSink::open(start, &sink.encoding, Box::new(target), empty)?))
}

/// How long another who writes to the file exactly once is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What the journal keeps of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// As it is written in the pipeline: another one is another file.
    path: String,
    /// Its length behind the last batch that is delivered.
    length: u64,
}

struct FileTarget {
    file: File,
    name: String,
    /// A file on a disk, not a device or a pipe.
    regular: bool,
    /// Its length, where it is delivered exactly once.
    length: Option<u64>,
}

impl FileTarget {
    /// Opens or makes the file. Whether it is empty.
    fn open(sink: &FileSink, start: &SinkStart) -> io::Result<(Self, bool)> {
        let path = sink.base_dir.join(&sink.written);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let is_regular = |file: &std::fs::Metadata| file.is_file();
        if !std::fs::metadata(&path).as_ref().map_or(true, is_regular) {
            let file = OpenOptions::new().write(true).open(&path)?;
            return Ok((FileTarget { file, name: sink.written.clone(), regular: false, length: None }, true));
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut target = FileTarget { file, name: sink.written.clone(), regular: true, length: None };
        if sink.existing == Existing::Replace && !start.resumed {
            target.file.set_len(0)?;
        }
        let end = target.seek_end(start.begun)?;
        Ok((target, end == 0))
    }

    /// The same for delivery exactly once: where the journal says that it was, or at its end where that says nothing.
    fn open_exact(
        sink: &FileSink,
        start: &SinkStart,
        exact: &Exact,
        problem: impl Fn(io::Error) -> String,
    ) -> Result<(Self, bool), String> {
        let (name, written) = (&start.name, &sink.written);
        let path = sink.base_dir.join(written);
        if std::fs::metadata(&path).is_ok_and(|file| !file.is_file()) {
            return Err(format!("`{name}` can't deliver exactly once: `{written}` is not a file that can be cut"));
        }
        let known = match &exact.delivered {
            Some(delivered) if !exact.reset && !delivered.note.is_empty() => {
                let note = serde_json::from_str::<Note>(&delivered.note);
                Some(note.map_err(|error| format!("`{name}`: the recorded length of the file can't be read: {error}"))?)
            }
            _ => None,
        };
        let known = known.filter(|note| note.path == *written);
        let open = || {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let is_new = !path.exists();
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            if let (true, Some(folder)) = (is_new, path.parent()) {
                let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                File::open(folder)?.sync_all()?;
            }
            Ok(file)
        };
        // One that is not there is not made only to say that it is too short.
        let is_short = |size: u64| known.as_ref().is_some_and(|note| size < note.length);
        let size = std::fs::metadata(&path).map_or(0, |file| file.len());
        if let (true, Some(Note { length, .. })) = (is_short(size), &known) {
            return Err(format!(
                "`{name}`: `{written}` has {size} bytes, and this state says that {length} were delivered, so the file was cut, \
                 replaced or moved; put it back, or start once with `--reset-sink {name}`: then it goes on at the end of what \
                 is there, and what is missing stays so"
            ));
        }
        let file = open().map_err(&problem)?;
        lock(&file, written)?;
        let size = file.metadata().map_err(&problem)?.len();
        let mut target = FileTarget { file, name: written.clone(), regular: true, length: None };
        let length = match known {
            Some(Note { length, .. }) if size > length && exact.last <= exact.delivered_sequence() => {
                return Err(format!(
                    "`{name}`: `{written}` has {size} bytes, and this state knows of {length} only, so another has written to it, \
                     or a newer copy of this state; start with that state, or once with `--reset-sink {name}`: then it goes on \
                     at the end of the file, and rows may come twice"
                ));
            }
            Some(Note { length, .. }) => {
                let cut = target.file.set_len(length).and_then(|()| target.file.sync_all());
                cut.and_then(|()| target.file.seek(SeekFrom::Start(length))).map_err(&problem)?
            }
            None => {
                if sink.existing == Existing::Replace && exact.delivered.is_none() && !start.resumed && !exact.reset {
                    target.file.set_len(0).map_err(&problem)?;
                }
                target.seek_end(start.begun).map_err(&problem)?
            }
        };
        target.length = Some(length);
        Ok((target, length == 0))
    }

    /// Goes to the end of the last whole line. Half a line behind it is cut off if it is `ours`.
    fn seek_end(&mut self, ours: bool) -> io::Result<u64> {
        let whole = whole_lines(&mut self.file)?;
        let size = self.file.seek(SeekFrom::End(0))?;
        if whole < size {
            if ours {
                self.file.set_len(whole)?;
                self.file.seek(SeekFrom::Start(whole))?;
            } else {
                // Not ours to cut; but our first line must not run into it, nor be taken for a part of it later.
                self.file.write_all(b"\n")?;
                self.file.sync_data()?;
            }
        }
        self.file.stream_position()
    }
}

/// Keeps others out that write to the file exactly once: they would cut off what is not theirs.
fn lock(file: &File, written: &str) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            // Not every file system has locks.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(()),
            Err(TryLockError::WouldBlock) if begun.elapsed() > LOCK_WAIT => {
                return Err(format!("another engine writes to `{written}`; only one may, exactly once"));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Where the last line end of a file stands, or zero.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const STEP: u64 = 64 * 1024;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut part = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(start))?;
        part.clear();
        (&*file).take(end - start).read_to_end(&mut part)?;
        if let Some(at) = memchr::memrchr(b'\n', &part) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

impl Target for FileTarget {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length = self.length.map(|length| length + bytes.len() as u64);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn syncs(&self) -> bool {
        self.regular
    }

    fn problem(&self, error: &io::Error) -> String {
        format!("can't write to `{}`: {error}", self.name)
    }

    fn place(&self) -> Option<u64> {
        self.length
    }

    fn note(&self, place: u64) -> String {
        serde_json::to_string(&Note { path: self.name.clone(), length: place }).unwrap_or_default()
    }
}
