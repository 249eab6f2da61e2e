//! YAML text to the spanned tree, under the strict core of the language.
//!
//! Two parsers read the same text: `serde_yaml` parses and types it, and `saphyr-parser`'s events tell where every node and
//! key stands (and, as a stream, let us stop at a bound before anything grows). `shape` holds the second,
//! `typed` walks the first along it; where they disagree, the text is refused rather than guessed at.
//!
//! ```text
//! bytes ──size, UTF-8, control characters──▶ text ──events──▶ Shapes ──serde_yaml, in step──▶ Node
//!                                                     │ syntax error
//!                                                     ▼
//!                                        explain it, blank its block, read the rest
//! ```
//!
//! Everything is bounded: file size, nesting, what aliases may repeat, problems reported. What keys mean is left to
//! others.

mod places;
mod shape;
mod syntax;
mod typed;

use std::path::{Component, Path, PathBuf};

use engine_base::codes::spec as codes;
use engine_base::{Diagnostic, Diagnostics, FileId, SourceMap, Span};

use crate::{Files, Node};

pub(crate) use syntax::Lost;
pub(crate) use syntax::quoted;

/// The largest file that is read.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// The most values in a file, keys counted: a pipeline of a thousand steps has a tenth of it.
pub const MAX_NODES: usize = 200_000;
/// How deep lists and maps may stand in one another.
pub const MAX_DEPTH: usize = 64;
/// How many nodes all aliases of a file together may repeat.
pub const MAX_ALIAS_NODES: usize = 10_000;
/// How many problems are reported of one file's YAML; a file with more is not a pipeline.
const MAX_PROBLEMS: usize = 50;
/// How often the rest of a file is read again after a syntax error.
const MAX_RECOVERIES: usize = 10;

/// What could be read of a YAML text.
#[derive(Debug)]
pub struct Parsed {
    /// The tree, if there is one.
    pub root: Option<Node>,
    /// Nothing was left out: a key that is not there was not written.
    pub complete: bool,
    /// What was left out.
    pub(crate) lost: Vec<Lost>,
}

/// Parses the text of a file.
pub fn parse(file: FileId, text: &str, diagnostics: &mut Diagnostics) -> Parsed {
    parse_part(file, text, 0, text.len(), diagnostics)
}

/// Parses the bytes from `start` to `end` of a file's text as a document of their own.
pub(crate) fn parse_part(file: FileId, text: &str, start: usize, end: usize, diagnostics: &mut Diagnostics) -> Parsed {
    let part = text.get(start..end).unwrap_or_default();
    let mut problems = Problems { found: Vec::new() };
    let parsed = match control_character(part) {
        Some(problem) => {
            let (at, c) = problem;
            problems.push(
                Diagnostic::error(
                    codes::CONTROL_CHARACTER,
                    Span { file, start: at, end: at + c.len_utf8() },
                    format!("the control character U+{:04X} can't stand in a pipeline file", c as u32),
                )
                .help("remove it; inside double quotes it can be written as an escape such as `\\u0007`"),
            );
            Parsed { root: None, complete: false, lost: Vec::new() }
        }
        None => with_recovery(file, part, &mut problems),
    };
    for mut problem in problems.found {
        for label in problem.primary.iter_mut().chain(&mut problem.labels) {
            label.span.start += start;
            label.span.end += start;
        }
        diagnostics.push(problem);
    }
    match parsed.root {
        Some(mut root) if start > 0 => {
            root.shift(start);
            Parsed { root: Some(root), ..parsed }
        }
        _ => parsed,
    }
}

/// Problems, at most [`MAX_PROBLEMS`].
struct Problems {
    found: Vec<Diagnostic>,
}

impl Problems {
    fn push(&mut self, problem: Diagnostic) {
        if self.found.len() < MAX_PROBLEMS {
            self.found.push(problem);
        }
    }
}

fn with_recovery(file: FileId, text: &str, problems: &mut Problems) -> Parsed {
    let mut rest: Option<String> = None;
    let mut lost: Vec<Lost> = Vec::new();
    for _ in 0..MAX_RECOVERIES {
        let current = rest.as_deref().unwrap_or(text);
        let failure = match read(file, current, problems) {
            Ok(root) => return Parsed { complete: lost.is_empty(), root, lost },
            Err(Stop::Fatal(problem)) => {
                problems.push(*problem);
                break;
            }
            Err(Stop::Syntax(failure)) => failure,
        };
        let problem = syntax::explain(file, current, &failure);
        // The slip is where we point, not where the parser gave up.
        let at = problem.primary.as_ref().map_or(failure.byte, |label| label.span.start);
        let known = problems.found.contains(&problem);
        if !known {
            problems.push(problem);
        }
        match syntax::without_block(current, if known { failure.byte } else { at }) {
            Some((next, block)) => {
                rest = Some(next);
                lost.push(block);
            }
            None => break,
        }
    }
    Parsed { root: None, complete: false, lost }
}

/// Why reading stopped.
enum Stop {
    Fatal(Box<Diagnostic>),
    Syntax(syntax::Failure),
}

fn read(file: FileId, text: &str, problems: &mut Problems) -> Result<Option<Node>, Stop> {
    // Problems of a text that turns out to have a syntax error are found again in the next round.
    let mut found = Problems { found: Vec::new() };
    let shapes = shape::read(file, text, &mut found)?;
    let root = match shapes.root {
        Some(_) => typed::read(file, text, &shapes, &mut found)?,
        None => None,
    };
    for problem in found.found {
        problems.push(problem);
    }
    Ok(root)
}

fn control_character(text: &str) -> Option<(usize, char)> {
    let suspicious = |b: u8| (b < 0x20 && !matches!(b, b'\n' | b'\r' | b'\t')) || b == 0x7f || b == 0xc2 || b == 0xef;
    if !text.bytes().any(suspicious) {
        return None;
    }
    text.char_indices().find(|(_, c)| match c {
        '\n' | '\r' | '\t' | '\u{85}' => false,
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => true,
        c => c.is_control(),
    })
}

/// Reads and parses a file that `at` names; the main file has no such place.
pub fn read_file(
    path: &Path,
    at: Option<Span>,
    files: &dyn Files,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> Option<(FileId, Parsed)> {
    let (file, text) = read_text(path, at, files, sources, diagnostics)?;
    let parsed = parse(file, &text, diagnostics);
    Some((file, parsed))
}

/// Reads a text file into the source map, without a byte order mark.
pub fn read_text(
    path: &Path,
    at: Option<Span>,
    files: &dyn Files,
    sources: &mut SourceMap,
    diagnostics: &mut Diagnostics,
) -> Option<(FileId, std::sync::Arc<str>)> {
    let path = tidy(path);
    let shown = path.display().to_string();
    let bytes = match files.read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let reason = match error.kind() {
                std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
                std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
                _ => error.to_string(),
            };
            let span = at.unwrap_or_else(|| Span { file: add_once(sources, &shown, ""), start: 0, end: 0 });
            let problem = Diagnostic::error(codes::UNREADABLE_FILE, span, format!("`{shown}` can't be read: {reason}"));
            diagnostics.push(match at {
                Some(_) => problem.help("a path is relative to the file that names it"),
                None => problem.help("check the path"),
            });
            return None;
        }
    };
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if bytes.len() > MAX_FILE_BYTES {
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1 << 10)]);
        let file = add_once(sources, &shown, &head);
        diagnostics.push(
            Diagnostic::error(
                codes::FILE_TOO_LARGE,
                Span { file, start: 0, end: 0 },
                format!("`{shown}` has {} bytes; the limit is {MAX_FILE_BYTES}", bytes.len()),
            )
            .help("a pipeline file holds no data: put rows, mappings and weights into files of their own"),
        );
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            let file = add_once(sources, &shown, text);
            Some((file, sources.file(file)?.text.clone()))
        }
        Err(error) => {
            let start = error.valid_up_to();
            let file = add_once(sources, &shown, &String::from_utf8_lossy(bytes));
            let byte = bytes.get(start).copied().unwrap_or_default();
            let problem = Diagnostic::error(
                codes::NOT_UTF8,
                Span { file, start, end: start + '\u{fffd}'.len_utf8() },
                format!("byte {start} of `{shown}` (0x{byte:02X}) is not UTF-8"),
            );
            let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
            diagnostics.push(match utf16 {
                true => problem.help("the file looks like UTF-16: save it as UTF-8"),
                false => problem.help("save the file as UTF-8"),
            });
            None
        }
    }
}

/// Adds a file unless the same text is there under the same path: a schema that two sources name is one file.
fn add_once(sources: &mut SourceMap, path: &str, text: &str) -> FileId {
    let known = sources.files().find(|(_, file)| file.path == path && *file.text == *text).map(|(id, _)| id);
    known.unwrap_or_else(|| sources.add(path, text))
}

/// The path without `.` and, where that is safe to say from the text alone, `..`.
pub(crate) fn tidy(path: &Path) -> PathBuf {
    let mut tidied = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(tidied.components().next_back(), Some(Component::Normal(_))) => {
                tidied.pop();
            }
            part => tidied.push(part),
        }
    }
    // Of `.` nothing would be left.
    if tidied.as_os_str().is_empty() { path.to_owned() } else { tidied }
}
