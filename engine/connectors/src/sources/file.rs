//! Files of lines: JSON Lines, CSV or text; one file, or the files of a pattern in the order of their names.
//!
//! All the files are one partition. A mark is the record's ordinal and, for seeking, the file and byte where the next
//! record starts, with a fingerprint of the file's first bytes: a file that was replaced since is noticed.
//!
//! With `follow: true` the end of the last file is not the end of the source. The thread then looks again, after 1 ms while
//! lines keep coming and up to 100 ms when none do, and every 100 ms whether
//!
//! * the file has become shorter: it is read again from its start, as after `copytruncate`;
//! * its name means another file now: after `rename` and `create` the old one is read to its end, then the new one;
//! * the pattern has a file with a later name: this one is read to its end, and left.
//!
//! A file that appears under an earlier name is never read behind the others' backs: the source stops and says so. A link
//! of a pattern that leads nowhere, and a file that is gone when its turn comes, are passed over with a warning.

use super::bytes::{Buffers, Fingerprint, Known, OpenFile, Piece, Place, QUEUE_BYTES, Stream, StreamReader};
use crate::formats::Decoding;
use crate::formats::split::PAYLOAD_MAX;
use crate::queue::{self, Events, Sender};
use crate::{SourceEntry, SourceStart};
use arrow::datatypes::{Field, Schema};
use engine_base::codes::{connector as codes, spec};
use engine_base::{Clock, Diagnostic};
use engine_dataflow::{Mark, Reader};
use engine_plan::{Claim, Columns, Cx, Planned, PlannedSource, SourceCommon, SourceKind, Use};
use engine_spec::Size;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Reads lines from a file, or from the files of a pattern in the order of their names.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    /// The file, or a pattern such as `logs/*.jsonl`; relative to this file.
    path: String,
    /// Wait for more at the end of the last file, and for new files of a pattern: lines that are appended are read as they
    /// come. Files that are rotated or truncated are read on from their start.
    #[serde(default)]
    follow: bool,
    /// Where a first run starts: `earliest`, the beginning, is the only place for now.
    #[serde(default)]
    start: Start,
    /// The largest record; a larger one becomes an error row. 16 MiB unless said.
    #[serde(default = "record_max")]
    #[schemars(default)]
    max_record: Size,
}

/// Where a first run starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Start {
    /// At the beginning of the first file.
    #[default]
    Earliest,
    /// At the end. Not built yet.
    #[schemars(skip)]
    Latest,
    /// Where the state says. Not a key: that is done anyway.
    #[schemars(skip)]
    Committed,
}

/// The largest record unless said, and the bounds of what may be said.
const RECORD_MAX: u64 = 16 << 20;
const RECORD_MAX_LEAST: u64 = 1 << 10;
const RECORD_MAX_MOST: u64 = 1 << 30;

pub(super) fn record_max() -> Size {
    Size(RECORD_MAX)
}

/// How many files of a pattern a dry-run looks at.
const CHECKED_MAX: usize = 1_000;

/// How long the thread sleeps at the end of a followed file: from the least, twice as long each time, up to the most.
const PACE_LEAST: Duration = Duration::from_millis(1);
const PACE_MOST: Duration = Duration::from_millis(100);

/// The registry's line.
pub(crate) const ENTRY: SourceEntry = SourceEntry {
    kind: SourceKind {
        name: "file",
        summary: "Lines of files: JSON Lines, CSV or text; a pattern, and files that grow.",
        config_schema: |generator: &mut SchemaGenerator| generator.subschema_for::<FileConfig>(),
        decodes: true,
        metadata: &["path", "offset"],
        plan,
    },
    start,
};

/// A planned file source.
#[derive(Debug)]
struct FileSource {
    /// The path as it was written.
    written: String,
    /// What it is relative to.
    base_dir: PathBuf,
    follow: bool,
    record_max: usize,
    decoding: Decoding,
    metadata: Vec<(String, Known)>,
}

impl Planned for FileSource {
    fn reads(&self, _wanted: &[Columns]) -> Vec<Columns> {
        Vec::new()
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts = vec![("path".into(), self.written.clone()), ("format".into(), self.decoding.name().into())];
        if self.follow {
            facts.push(("follow".into(), "true".into()));
        }
        facts
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::file(&self.base_dir, &self.written, Use::Read)]
    }
}

fn plan(cx: &mut Cx<'_>, common: &SourceCommon) -> Option<PlannedSource> {
    let config: Option<FileConfig> = cx.config();
    let decoding = Decoding::plan(cx, common);
    let config = config?;
    let mut sound = check_path(cx, &config);
    match config.start {
        Start::Earliest => (),
        Start::Latest => {
            let span = cx.span(&["start"]);
            cx.push(
                Diagnostic::error(spec::NOT_BUILT, span, "`start: latest` is not built yet for files")
                    .help("leave `start` out: files are read from their beginning"),
            );
            sound = false;
        }
        Start::Committed => {
            let span = cx.span(&["start"]);
            cx.push(
                Diagnostic::error(codes::BAD_START, span, "a file has no committed place of its own")
                    .help("leave `start` out: with `--state` a run goes on where the one before it stopped"),
            );
            sound = false;
        }
    }
    sound &= check_record_max(cx, config.max_record);
    let decoding = decoding?;
    let (metadata, schema) = with_metadata(cx, &decoding, common)?;
    sound.then(|| PlannedSource {
        schema: Arc::new(schema),
        replayable: true,
        finite: !config.follow,
        planned: Arc::new(FileSource {
            written: config.path,
            base_dir: cx.component.dir(&["path"]).to_path_buf(),
            follow: config.follow,
            record_max: config.max_record.0 as usize,
            decoding,
            metadata,
        }),
    })
}

/// The columns of `metadata:`, and all the columns of the source. None with a problem noted.
pub(super) fn with_metadata(
    cx: &mut Cx<'_>,
    decoding: &Decoding,
    common: &SourceCommon,
) -> Option<(Vec<(String, Known)>, Schema)> {
    let parse = |what: &str| match what {
        "path" => Some(Known::Path),
        "offset" => Some(Known::Offset),
        // The planner has told of what the kind does not know.
        _ => None,
    };
    metadata(cx, decoding, common, parse, |known, name| known.field(name))
}

/// The same for what another kind knows of a record.
pub(crate) fn metadata<K>(
    cx: &mut Cx<'_>,
    decoding: &Decoding,
    common: &SourceCommon,
    parse: impl Fn(&str) -> Option<K>,
    field: impl Fn(&K, &str) -> Field,
) -> Option<(Vec<(String, K)>, Schema)> {
    let mut fields: Vec<_> = decoding.schema().fields().iter().cloned().collect();
    let mut metadata = Vec::new();
    for (name, what) in &common.metadata {
        let known = parse(what)?;
        if fields.iter().any(|field| field.name() == name) {
            let span = cx.component.node.get("metadata").and_then(|node| node.entry(name)).map(|entry| entry.key_span);
            let span = span.unwrap_or_else(|| cx.span(&["metadata"]));
            cx.push(
                Diagnostic::error(codes::COLUMN_TWICE, span, format!("`{name}` is a column of the records already"))
                    .help("give the metadata another name"),
            );
            return None;
        }
        fields.push(Arc::new(field(&known, name)));
        metadata.push((name.clone(), known));
    }
    Some((metadata, Schema::new(fields)))
}

pub(super) fn check_record_max(cx: &mut Cx<'_>, size: Size) -> bool {
    let fits = (RECORD_MAX_LEAST..=RECORD_MAX_MOST).contains(&size.0);
    if !fits {
        let span = cx.span(&["max_record"]);
        cx.push(
            Diagnostic::error(codes::OUT_OF_BOUNDS, span, "`max_record` must lie between 1KiB and 1GiB")
                .help("the default is `16MiB`"),
        );
    }
    fits
}

/// Whether text is a pattern rather than a name.
fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

fn check_path(cx: &mut Cx<'_>, config: &FileConfig) -> bool {
    let span = cx.span(&["path"]);
    if config.path.trim().is_empty() {
        cx.push(
            Diagnostic::error(codes::BAD_PATH, span, "the path is empty")
                .help("name a file: `path: data/orders.jsonl`"),
        );
        return false;
    }
    if is_pattern(&config.path)
        && let Err(error) = glob::Pattern::new(&config.path)
    {
        let found = Diagnostic::error(codes::BAD_PATH, span, "the path is a pattern that is not well-formed")
            .at_caret(error.msg)
            .help("`*` stands for any characters of a name, `**` for any folders, `?` for one character, `[ab]` for one of these");
        cx.push(found);
        return false;
    }
    let extension = Path::new(&config.path).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let (what, help) = match extension {
        "gz" | "zst" | "bz2" | "xz" | "lz4" | "zip" => ("compressed", "unpack it first"),
        "parquet" | "avro" | "orc" | "arrow" => {
            ("no file of lines", "this format is not built yet; convert it to JSON Lines or CSV")
        }
        _ => {
            warn_if_missing(cx, config, span);
            return true;
        }
    };
    cx.push(Diagnostic::error(codes::FILE_KIND, span, format!("a `.{extension}` file is {what}")).help(help));
    false
}

/// What is not there yet may be there when the pipeline runs.
fn warn_if_missing(cx: &mut Cx<'_>, config: &FileConfig, span: engine_base::Span) {
    if config.follow {
        return;
    }
    let folder = cx.component.dir(&["path"]);
    let pattern = match is_pattern(&config.path) {
        true => folder.join(&config.path),
        false => folder.join(glob::Pattern::escape(&config.path)),
    };
    let found = cx.files.glob(&pattern).unwrap_or_default();
    // A folder among the files of a pattern is passed over.
    let files = found.iter().take(CHECKED_MAX).filter(|file| !is_pattern(&config.path) || !file.is_dir());
    let unreadable = files.map(|file| (file, cx.files.check_readable(file))).find(|(_, checked)| checked.is_err());
    if let Some((file, Err(error))) = unreadable {
        let name = file.strip_prefix(folder).unwrap_or(file).display().to_string();
        let help = match error.kind() {
            io::ErrorKind::IsADirectory => format!("a pattern such as `{name}/*` names the files in it"),
            _ => "let the engine's user read it, or leave it out of the path".to_owned(),
        };
        cx.push(Diagnostic::warning(codes::NO_FILE, span, format!("`{name}` can't be read now: {error}")).help(help));
        return;
    }
    if found.is_empty() {
        let message = match is_pattern(&config.path) {
            true => format!("no file matches `{}` now", config.path),
            false => format!("there is no file `{}` now", config.path),
        };
        cx.push(
            Diagnostic::warning(codes::NO_FILE, span, message)
                .help("paths are relative to the file that names them; `follow: true` waits for a file"),
        );
    }
}

fn start(planned: &dyn Planned, start: SourceStart) -> Result<Option<Box<dyn Reader>>, String> {
    let Some(source) = planned.downcast::<FileSource>() else { return Err("this is no file source".to_owned()) };
    if !start.owns_single_partition() {
        return Ok(None);
    }
    let listing = Listing::new(source);
    let mark = start.resume.get(&0).filter(|mark| mark.next > 0);
    let mut job = Job {
        listing,
        follow: source.follow && !start.finite_from_start,
        needs_head: source.decoding.has_header(),
        clock: start.clock.clone(),
        buffers: Buffers::default(),
        place: None,
    };
    if let Some(mark) = mark {
        job.place = Some(job.listing.place_of(mark)?);
    } else if !job.follow {
        job.listing.check()?;
    }
    let waker = start.waker.clone();
    let (sender, receiver) =
        queue::bounded(QUEUE_BYTES, Events { filled: Box::new(move || waker.wake()), ..Events::default() });
    let stream = Stream { decoding: &source.decoding, metadata: &source.metadata, record_max: source.record_max };
    let reader = StreamReader::new(&start, &stream, receiver, job.buffers.clone(), mark.map_or(0, |mark| mark.next))?;
    std::thread::Builder::new()
        .name(format!("file:{}", start.name))
        .spawn(move || job.run(&sender))
        .map_err(|error| format!("can't start a thread: {error}"))?;
    Ok(Some(Box::new(reader)))
}

/// What files there are.
#[derive(Clone, Debug)]
struct Listing {
    written: String,
    base_dir: PathBuf,
}

impl Listing {
    fn new(source: &FileSource) -> Self {
        Listing { written: source.written.clone(), base_dir: source.base_dir.clone() }
    }

    /// The files that are there now, in the order of their names. A single name is listed whether it is there or not.
    fn files(&self) -> Result<Vec<PathBuf>, String> {
        let mut files = self.entries()?;
        if is_pattern(&self.written) {
            files.retain(|file| !leads_nowhere(file));
        }
        Ok(files)
    }

    /// Warns of the links that lead nowhere.
    fn warn_of_links(&self) -> Result<(), String> {
        for file in self.entries()?.iter().filter(|file| is_pattern(&self.written) && leads_nowhere(file)) {
            tracing::warn!("`{}` is a link that leads nowhere, and is passed over", self.name(file));
        }
        Ok(())
    }

    /// What the path names, links that lead nowhere among it.
    fn entries(&self) -> Result<Vec<PathBuf>, String> {
        let path = self.base_dir.join(&self.written);
        if !is_pattern(&self.written) {
            return Ok(vec![path]);
        }
        // The folder itself is no pattern, whatever characters it has.
        let pattern = format!("{}/{}", glob::Pattern::escape(&self.base_dir.to_string_lossy()), self.written);
        let pattern = if Path::new(&self.written).is_absolute() || self.base_dir.as_os_str().is_empty() {
            &self.written
        } else {
            &pattern
        };
        let found = glob::glob(pattern).map_err(|error| format!("`{}` is no pattern: {}", self.written, error.msg))?;
        let mut files = found
            .filter(|file| file.as_ref().map_or(true, |file| !file.is_dir()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("can't read `{}`: {}", error.path().display(), error.error()))?;
        files.sort();
        Ok(files)
    }

    /// How a file is named to people and in marks.
    fn name(&self, file: &Path) -> String {
        let absolute = Path::new(&self.written).is_absolute();
        let name = if absolute { file } else { file.strip_prefix(&self.base_dir).unwrap_or(file) };
        name.to_string_lossy().into_owned()
    }

    /// A file that can't be read is told at the start rather than later, if it is the first.
    fn check(&self) -> Result<(), String> {
        let files = self.files()?;
        let Some(first) = files.first() else { return Err(format!("no file matches `{}`", self.written)) };
        self.open(first).map(drop)
    }

    fn open(&self, file: &Path) -> Result<File, String> {
        let problem = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => format!("there is no file `{}`", self.name(file)),
            _ => format!("can't read `{}`: {error}", self.name(file)),
        };
        let opened = File::open(file).map_err(problem)?;
        if opened.metadata().map_err(problem)?.is_dir() {
            return Err(format!(
                "`{}` is a folder; a pattern such as `{}/*` names the files in it",
                self.name(file),
                self.name(file)
            ));
        }
        Ok(opened)
    }

    /// The place of a mark, if the files are still as they were.
    fn place_of(&self, mark: &Mark) -> Result<Place, String> {
        const REMEDY: &str = "put the file back, or start from the beginning with a new state directory";
        let place: Place = serde_json::from_str(&mark.detail)
            .map_err(|_| "the mark in the state directory is not one of a file source".to_owned())?;
        let files = self.files()?;
        let Some(before) = files.iter().position(|file| self.name(file) == place.file) else {
            return Err(format!("`{}`, where reading is to go on, is not there any more; {REMEDY}", place.file));
        };
        // Files before it may have been deleted, but none may have come.
        if before as u64 > place.before {
            return Err(format!(
                "files were added before `{}`, where reading is to go on, and would never be read; name new files so that they come last",
                place.file
            ));
        }
        // Deleted ones can't be told from shorter ones.
        let bytes: u64 = files[..before].iter().map(|file| size_of(file)).sum();
        if before as u64 == place.before && bytes > place.before_bytes {
            return Err(format!(
                "files before `{}`, where reading is to go on, have {} bytes more than were read of them, which would never \
                 be read; of the files of a pattern only the last may grow",
                place.file,
                bytes - place.before_bytes
            ));
        }
        let mut file = self.open(&files[before])?;
        let size = file.metadata().map_err(|error| format!("can't read `{}`: {error}", place.file))?.size();
        if size < place.byte {
            return Err(format!(
                "`{}` has {size} bytes and was read up to byte {}: it was truncated or replaced; {REMEDY}",
                place.file, place.byte
            ));
        }
        let head = read_head(&mut file, place.head.bytes as usize)
            .map_err(|error| format!("can't read `{}`: {error}", place.file))?;
        if Fingerprint::of(&head) != place.head {
            return Err(format!(
                "`{}` does not start as it did when it was read before: it was replaced; {REMEDY}",
                place.file
            ));
        }
        Ok(place)
    }
}

/// Whether a path is a link to nothing.
fn leads_nowhere(file: &Path) -> bool {
    std::fs::metadata(file).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The first bytes of a file, as many as there are.
fn read_head(file: &mut File, bytes: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut head = Vec::new();
    (&*file).take(bytes as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// What the thread does.
struct Job {
    listing: Listing,
    follow: bool,
    /// The format has a header, which is needed to go on in the middle of a file.
    needs_head: bool,
    clock: Arc<dyn Clock>,
    buffers: Buffers,
    place: Option<Place>,
}

/// The files before one that is read, and how far each was.
type Passed = BTreeMap<PathBuf, u64>;

/// How many files stand before one, and how large they were together when they had been read.
#[derive(Clone, Copy)]
struct Before {
    files: u64,
    bytes: u64,
}

/// The size of a file, zero if it is gone.
fn size_of(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |data| data.size())
}

/// Why the thread stops early.
enum Stop {
    /// The reader is gone.
    Gone,
    /// The source can't go on.
    Failed(String),
}

impl From<String> for Stop {
    fn from(sentence: String) -> Self {
        Stop::Failed(sentence)
    }
}

/// What comes after a file.
enum After {
    /// The end of the source.
    End,
    /// This file.
    File(PathBuf),
    /// The same name again, from its start: another file, or the same one, truncated.
    Again,
}

/// A file at its end.
enum AtEnd {
    /// More may come.
    Wait,
    /// Another is to follow; what was written here until then is to be read first.
    Finish(After),
    /// What is there now has nothing to do with what was read.
    Leave(After),
}

impl Job {
    fn run(mut self, sender: &Sender<Piece>) {
        match self.read_files(sender) {
            Ok(()) | Err(Stop::Gone) => (),
            // The receiver may be gone, and then nobody wants to know.
            Err(Stop::Failed(sentence)) => drop(sender.push(Piece::Failed(sentence), 0)),
        }
    }

    fn read_files(&mut self, sender: &Sender<Piece>) -> Result<(), Stop> {
        self.listing.warn_of_links()?;
        let place = self.place.take();
        let mut from = place.as_ref().map_or(0, |place| place.byte);
        let mut before = place.as_ref().map_or(0, |place| place.before);
        let mut path = match &place {
            Some(place) => self.listing.base_dir.join(&place.file),
            None => self.first_file(sender)?,
        };
        // Files that stand before this one; none may come to them.
        let earlier = self.listing.files()?.into_iter().filter(|file| *file < path);
        let mut passed: Passed = earlier
            .map(|file| {
                let size = size_of(&file);
                (file, size)
            })
            .collect();
        loop {
            let (after, read) = self.read_file(sender, &path, &passed, before, from)?;
            match after {
                After::End => return Ok(()),
                After::File(next) => {
                    passed.insert(std::mem::replace(&mut path, next), read);
                    before += 1;
                }
                After::Again => (),
            }
            from = 0;
        }
    }

    /// The first file there is; waits for one that is followed.
    fn first_file(&self, sender: &Sender<Piece>) -> Result<PathBuf, Stop> {
        loop {
            let first = self.listing.files()?.into_iter().next().filter(|file| !self.follow || file.exists());
            match first {
                Some(first) => return Ok(first),
                None if !self.follow => {
                    return Err(Stop::Failed(format!("no file matches `{}`", self.listing.written)));
                }
                None if sender.sleep(PACE_MOST) => return Err(Stop::Gone),
                None => (),
            }
        }
    }

    /// Opens a file. One that is followed may be gone for a moment, between `rename` and `create`.
    fn open(&self, sender: &Sender<Piece>, path: &Path) -> Result<File, Stop> {
        while self.follow && !path.exists() {
            if sender.sleep(PACE_MOST) {
                return Err(Stop::Gone);
            }
        }
        Ok(self.listing.open(path)?)
    }

    /// Reads a file to its end, and beyond where it is followed: what comes after it, and how far it was read.
    fn read_file(
        &self,
        sender: &Sender<Piece>,
        path: &Path,
        passed: &Passed,
        before: u64,
        from: u64,
    ) -> Result<(After, u64), Stop> {
        let before = Before { files: before, bytes: passed.values().sum() };
        let name = self.listing.name(path);
        let problem = |error: io::Error| Stop::Failed(format!("can't read `{name}`: {error}"));
        if !self.follow && from == 0 && is_pattern(&self.listing.written) && leads_nowhere(path) {
            tracing::warn!("`{name}` is gone, and is passed over");
            return Ok((self.after(path)?, 0));
        }
        let mut file = self.open(sender, path)?;
        let mut at = from;
        let mut opened = false;
        if from > 0 {
            let head = if self.needs_head { PAYLOAD_MAX } else { Fingerprint::BYTES_MAX };
            let head = read_head(&mut file, head).map_err(problem)?;
            self.send_open(sender, &name, before, from, head)?;
            opened = true;
            file.seek(SeekFrom::Start(from)).map_err(problem)?;
        }
        let mut pace = PACE_LEAST;
        let mut unchecked = Duration::ZERO;
        let mut after = None;
        loop {
            let mut buffer = self.buffers.take();
            let len = match file.read(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(problem(error)),
            };
            if len > 0 {
                if !opened {
                    self.send_open(sender, &name, before, 0, buffer[..len.min(Fingerprint::BYTES_MAX)].to_vec())?;
                    opened = true;
                }
                at += len as u64;
                pace = PACE_LEAST;
                let piece = self.buffers.piece(buffer, len, self.clock.now_ns());
                sender.push(piece, len).map_err(|_| Stop::Gone)?;
                continue;
            }
            self.buffers.give(buffer);
            if !self.follow {
                after = Some(self.after(path)?);
            }
            if let Some(after) = after {
                if opened {
                    sender.push(Piece::Close, 0).map_err(|_| Stop::Gone)?;
                }
                return Ok((after, at));
            }
            if sender.sleep(pace) {
                return Err(Stop::Gone);
            }
            unchecked += pace;
            pace = (pace * 2).min(PACE_MOST);
            if unchecked >= PACE_MOST {
                unchecked = Duration::ZERO;
                match self.at_end(path, passed, &file, at)? {
                    AtEnd::Wait => (),
                    AtEnd::Finish(next) => after = Some(next),
                    AtEnd::Leave(next) => {
                        sender.push(Piece::Close, 0).map_err(|_| Stop::Gone)?;
                        return Ok((next, at));
                    }
                }
            }
        }
    }

    fn send_open(
        &self,
        sender: &Sender<Piece>,
        name: &str,
        before: Before,
        from: u64,
        head: Vec<u8>,
    ) -> Result<(), Stop> {
        let file = OpenFile {
            path: name.to_owned(),
            before: before.files,
            before_bytes: before.bytes,
            head: Fingerprint::of(&head),
        };
        let head = if self.needs_head && from > 0 { head } else { Vec::new() };
        sender.push(Piece::Open { file: Arc::new(file), from, head }, 0).map_err(|_| Stop::Gone)
    }

    /// The file after this one.
    fn after(&self, path: &Path) -> Result<After, Stop> {
        let next = self.listing.files()?.into_iter().find(|file| file.as_path() > path);
        Ok(next.map_or(After::End, After::File))
    }

    /// Whether anything comes after a followed file that was read up to byte `at`.
    fn at_end(&self, path: &Path, passed: &Passed, file: &File, at: u64) -> Result<AtEnd, Stop> {
        let name = || self.listing.name(path);
        let ours = file.metadata().map_err(|error| Stop::Failed(format!("can't read `{}`: {error}", name())))?;
        if ours.size() < at {
            tracing::warn!(file = name(), "the file has become shorter and is read again from its start");
            return Ok(AtEnd::Leave(After::Again));
        }
        if let Ok(now) = std::fs::metadata(path)
            && (now.dev(), now.ino()) != (ours.dev(), ours.ino())
        {
            tracing::info!(file = name(), "the file was replaced; the new one is read after the end of the old one");
            return Ok(AtEnd::Finish(After::Again));
        }
        let files = self.listing.files()?;
        if let Some((grown, read)) = passed.iter().find(|(file, read)| size_of(file) > **read) {
            return Err(Stop::Failed(format!(
                "`{}` has grown beyond the {read} bytes that were read of it, though `{}` comes after it by its name, and the \
                 rest would never be read; of the files of a pattern only the last may grow",
                self.listing.name(grown),
                name()
            )));
        }
        if let Some(early) = files.iter().find(|file| file.as_path() < path && !passed.contains_key(*file)) {
            return Err(Stop::Failed(format!(
                "`{}` appeared while `{}` is being read, which comes after it by its name, and would never be read; \
                 name new files so that they come last",
                self.listing.name(early),
                name()
            )));
        }
        Ok(match files.into_iter().find(|file| file.as_path() > path) {
            Some(next) => AtEnd::Finish(After::File(next)),
            None => AtEnd::Wait,
        })
    }
}
