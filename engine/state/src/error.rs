//! What goes wrong with stored state: each error names the file, what was tried, what was found and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Results of this crate's storage.
pub type Result<T, E = StateError> = std::result::Result<T, E>;

/// What sort of error it is, for callers that act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateErrorKind {
    /// The disk or a quota is full. What was made durable before stays usable, and the same call may be tried again.
    DiskFull,
    /// The system refused a read or write.
    Io,
    /// Stored bytes are not what was written.
    Damaged {
        /// Where in the file, if it is known.
        offset: Option<u64>,
    },
    /// Another version of the engine wrote it.
    Format {
        /// The version found.
        found: u32,
        /// The newest version that this engine reads.
        supported: u32,
    },
    /// A later generation has taken over; whoever gets this stops.
    Fenced {
        /// The generation of the caller.
        ours: u64,
        /// The generation found.
        stored: u64,
    },
    /// An earlier write failed so that what is on disk is not known; it must be opened again.
    Poisoned,
    /// A key, record or name is over its bound.
    TooLarge,
    /// What was asked for is not there (any more).
    Missing,
    /// The call does not fit what is going on, such as a second checkpoint while one is written.
    Misused,
}

/// An error of stored state.
#[derive(Debug)]
pub struct StateError {
    kind: StateErrorKind,
    path: PathBuf,
    operation: &'static str,
    detail: String,
    remedy: String,
    source: Option<io::Error>,
}

impl StateError {
    /// Puts an error together. `operation` completes "could not", `remedy` says what to do.
    pub fn new(
        kind: StateErrorKind,
        path: impl Into<PathBuf>,
        operation: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> StateError {
        StateError { kind, path: path.into(), operation, detail: detail.into(), remedy: remedy.into(), source: None }
    }

    /// An error of the system, told apart by whether the disk is full.
    pub fn io(path: &Path, operation: &'static str, error: io::Error) -> StateError {
        let full = is_full(&error);
        StateError {
            kind: if full { StateErrorKind::DiskFull } else { StateErrorKind::Io },
            path: path.to_owned(),
            operation,
            detail: error.to_string(),
            remedy: if full {
                "make room on the disk; nothing that was durable is lost".to_owned()
            } else {
                "check the disk and the rights on the file, then start again; nothing that was durable is lost"
                    .to_owned()
            },
            source: Some(error),
        }
    }

    /// Bytes that are not what was written.
    pub(crate) fn damaged(
        path: &Path,
        operation: &'static str,
        offset: Option<u64>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> StateError {
        StateError::new(StateErrorKind::Damaged { offset }, path, operation, detail, remedy)
    }

    /// Its sort.
    pub fn kind(&self) -> StateErrorKind {
        self.kind
    }

    /// The file or folder it is about.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was tried.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// The same error with another remedy.
    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> StateError {
        self.remedy = remedy.into();
        self
    }
}

/// Whether the system says that there is no room: waiting for room helps, unlike with any other error.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {} {}", self.operation, self.path.display())?;
        if let StateErrorKind::Damaged { offset: Some(offset) } = self.kind {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}; {}", self.detail, self.remedy)
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}
