//! What is wrong with an expression, in words and at a place in its text.

use engine_base::codes::FOLLOWS;
use engine_base::{Code, suggest};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

/// A problem of one expression. The planner turns it into a [`engine_base::Diagnostic`] at the expression's place in the
/// file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    /// One of the codes `E02xx`.
    pub code: Code,
    /// One plain sentence, without a full stop.
    pub message: String,
    /// The bytes of the text that are to blame; `None` where it is the whole.
    pub range: Option<Range<usize>>,
    /// The remedies.
    pub help: Vec<String>,
    /// The other problems of the same expression.
    pub also: Vec<ExprError>,
}

/// How many names a help lists before it says "and N more".
const LISTED: usize = 12;
/// How many problems of one expression are told: nobody reads more of them.
const TOLD: usize = 50;

impl ExprError {
    /// A problem of the whole expression.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        ExprError { code, message: message.into(), range: None, help: Vec::new(), also: Vec::new() }
    }

    /// What names a column whose type is not known: why is told where that column is made.
    pub(crate) fn follows() -> Self {
        ExprError::new(FOLLOWS, "a part of this is not known")
    }

    /// Joins the problems of two parts of one expression.
    #[must_use]
    pub(crate) fn and(mut self, mut other: ExprError) -> Self {
        let more = std::mem::take(&mut other.also);
        self.also.push(other);
        self.also.extend(more);
        self
    }

    /// Every problem of the expression, in the order of the text, each once.
    pub fn all(mut self) -> Vec<ExprError> {
        let mut all = std::mem::take(&mut self.also);
        all.insert(0, self);
        all.sort_by_key(|error| error.range.as_ref().map_or(0, |range| range.start));
        let mut seen = BTreeSet::new();
        all.retain(|error| seen.len() < TOLD && seen.insert((error.code.0, error.message.clone())));
        all
    }

    /// Puts it at a place, where one is known.
    #[must_use]
    pub(crate) fn at(mut self, range: impl Into<Option<Range<usize>>>) -> Self {
        if let Some(range) = range.into() {
            self.range = Some(range);
        }
        self
    }

    /// The same problem where its text is a part of a longer one, from `range.start` on.
    #[must_use]
    pub(crate) fn within(mut self, range: &Range<usize>) -> Self {
        self.range = Some(match self.range {
            Some(at) => at.start + range.start..at.end + range.start,
            None => range.clone(),
        });
        self.also = self.also.into_iter().map(|other| other.within(range)).collect();
        self
    }

    /// Adds a remedy.
    #[must_use]
    pub(crate) fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    /// Adds "did you mean", where a known name is near.
    #[must_use]
    pub(crate) fn did_you_mean<'a>(self, wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match suggest::nearest(wrong, known) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }

    /// Adds the list of what there is.
    #[must_use]
    pub(crate) fn known<'a>(self, what: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = names.into_iter().collect();
        if names.is_empty() {
            return self;
        }
        let mut text = format!("{what}: {}", names[..names.len().min(LISTED)].join(", "));
        if names.len() > LISTED {
            text.push_str(&format!(" and {} more", names.len() - LISTED));
        }
        self.help(text)
    }
}

/// The values of two parts, or the problems of both.
pub(crate) fn both<A, B>(a: Result<A, ExprError>, b: Result<B, ExprError>) -> Result<(A, B), ExprError> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(a), Err(b)) => Err(a.and(b)),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
    }
}

/// The values of all parts, or the problems of all.
pub(crate) fn every<T>(parts: impl IntoIterator<Item = Result<T, ExprError>>) -> Result<Vec<T>, ExprError> {
    let mut values = Vec::new();
    let mut problem: Option<ExprError> = None;
    for part in parts {
        match (part, &mut problem) {
            (Ok(value), _) => values.push(value),
            (Err(error), None) => problem = Some(error),
            (Err(error), Some(_)) => problem = problem.map(|first| first.and(error)),
        }
    }
    match problem {
        None => Ok(values),
        Some(problem) => Err(problem),
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        self.help.iter().try_for_each(|help| write!(f, "; {help}"))
    }
}

impl std::error::Error for ExprError {}
