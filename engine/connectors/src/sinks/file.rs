//! Rows as lines of a file.
//!
//! A line is acknowledged when the disk has it (`fdatasync`, for all that gathered meanwhile at once). A process that is
//! killed may leave half a line behind, of rows that were not acknowledged and so come again: the next run with the same
//! state cuts it off. Devices and pipes are written without any of that.

use super::bytes::{StreamSink, Target};
use crate::formats::Encoding;
use crate::{SinkEntry, SinkHandle, SinkStart};
use engine_base::Diagnostic;
use engine_base::codes::connector as codes;
use engine_plan::{Claim, Columns, Cx, ExactlyOnce, Planned, PlannedSink, SinkCommon, SinkKind, StreamType, Use};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

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
        exactly_once: ExactlyOnce::No {
            reason: "that is not built yet for `file`",
            help: "write `delivery: at_least_once`, and make a row that comes twice harmless where it goes",
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
    let (target, empty) =
        FileTarget::open(sink, &start).map_err(|error| format!("can't write to `{}`: {error}", sink.written))?;
    Ok(Box::new(StreamSink::open(start, &sink.encoding, Box::new(target), empty)?))
}

struct FileTarget {
    file: File,
    name: String,
    /// A file on a disk, not a device or a pipe.
    regular: bool,
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
            return Ok((FileTarget { file, name: sink.written.clone(), regular: false }, true));
        }
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        if sink.existing == Existing::Replace && !start.resumed {
            file.set_len(0)?;
        }
        let whole = whole_lines(&mut file)?;
        let size = file.seek(SeekFrom::End(0))?;
        if whole < size {
            if start.begun {
                file.set_len(whole)?;
                file.seek(SeekFrom::Start(whole))?;
            } else {
                // Not ours to cut; but our first line must not run into it, nor be taken for a part of it later.
                file.write_all(b"\n")?;
                file.sync_data()?;
            }
        }
        let empty = file.stream_position()? == 0;
        Ok((FileTarget { file, name: sink.written.clone(), regular: true }, empty))
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
        self.file.write_all(bytes)
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
}
