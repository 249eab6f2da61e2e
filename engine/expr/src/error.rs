//! What is wrong with an expression, in words and at a place in its text.

use engine_base::{Code, suggest};
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
}

/// How many names a help lists before it says "and N more".
const LISTED: usize = 12;

impl ExprError {
    /// A problem of the whole expression.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        ExprError { code, message: message.into(), range: None, help: Vec::new() }
    }

    /// Puts it at a place, where one is known.
    #[must_use]
    pub(crate) fn at(mut self, range: impl Into<Option<Range<usize>>>) -> Self {
        if let Some(range) = range.into() {
            self.range = Some(range);
        }
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

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        self.help.iter().try_for_each(|help| write!(f, "; {help}"))
    }
}

impl std::error::Error for ExprError {}
