//! What aggregate calls leave of rows in the state of a step, in words: so that a step whose calls changed can take up the state
//! of the one before. What both have is kept, what is new begins with nothing.

use super::states::{CallState, StateKind};
use super::word_state;
use engine_expr::{AggregateCall, AggregateFunction, Scalar};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What is kept for the calls of a step, in the order in which [`super::Calls`] has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// The states in words: of what each is, and how many words it takes.
    pub(super) states: Vec<(String, usize)>,
    /// The arguments that rows keep.
    pub(super) values: Vec<String>,
    /// The calls whose encoded arguments are kept.
    pub(super) extras: Vec<String>,
    /// How far back the windows look over which they are: what is kept of rows goes by that.
    #[serde(default)]
    windows: Vec<String>,
}

/// What a state of a call in words is made of: two calls with the same share it.
pub(super) fn made_of(kind: StateKind, call: &AggregateCall) -> String {
    let name = match kind {
        StateKind::Count => "count",
        StateKind::SumInt | StateKind::SumFloat => "sum",
        StateKind::Moments => "moments",
        StateKind::MinInt | StateKind::MinFloat => "min",
        StateKind::MaxInt | StateKind::MaxFloat => "max",
    };
    let mut text = match call.args.first() {
        Some(argument) => format!("{name}({}: {})", argument.text(), argument.data_type()),
        None => format!("{name}(*)"),
    };
    if let Some(filter) = &call.filter {
        let _ = write!(text, " where {}", filter.text());
    }
    text
}

/// The argument that a row keeps for a state. A float and an integer of one text differ in their bits.
pub(super) fn value_of(kind: StateKind, call: &AggregateCall) -> Option<String> {
    let argument = call.args.first().filter(|_| kind != StateKind::Count)?;
    let form = if kind.of_floats() { "float" } else { "integer" };
    Some(format!("{} as {} in {form}", argument.text(), argument.data_type()))
}

fn text_of(call: &AggregateCall) -> String {
    let name = match &call.function {
        AggregateFunction::Other(name) => name.clone(),
        function => format!("{function:?}").to_lowercase(),
    };
    let arguments = call.args.iter().map(|argument| format!("{}: {}", argument.text(), argument.data_type()));
    let distinct = if call.distinct { "distinct " } else { "" };
    let mut text = format!("{name}({distinct}{})", arguments.collect::<Vec<_>>().join(", "));
    for key in &call.order_by {
        let direction = if key.descending { "desc" } else { "asc" };
        let nulls = if key.nulls_first { "first" } else { "last" };
        let _ = write!(text, " order by {}: {} {direction} nulls {nulls}", key.value.text(), key.value.data_type());
    }
    if call.ignores_nulls() {
        text.push_str(" ignore nulls");
    }
    if let Some(filter) = &call.filter {
        let _ = write!(text, " where {}", filter.text());
    }
    text
}

/// The calls that look at the row before: what they keep can't be told apart.
pub(crate) fn lags<'a>(calls: impl IntoIterator<Item = &'a AggregateCall>) -> Vec<String> {
    calls.into_iter().filter(|call| call.function == AggregateFunction::Lag).map(text_of).collect()
}

impl Layout {
    /// What is kept for these calls.
    pub(crate) fn of<'a>(calls: impl IntoIterator<Item = &'a AggregateCall>) -> Layout {
        let mut layout = Layout::default();
        for call in calls.into_iter().filter(|call| call.function != AggregateFunction::Lag) {
            let Some(kind) = word_state(call, call.args.first().map(Scalar::data_type)) else {
                layout.extras.push(text_of(call));
                continue;
            };
            let state = (made_of(kind, call), kind.words());
            if !layout.states.contains(&state) {
                layout.states.push(state);
                layout.values.extend(value_of(kind, call).filter(|value| !layout.values.contains(value)));
            }
        }
        layout
    }

    /// Over windows that look so far back.
    pub(crate) fn over(self, windows: Vec<String>) -> Layout {
        Layout { windows, ..self }
    }

    /// As text.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`Layout::text`] wrote.
    pub(crate) fn read(text: &str) -> Result<Layout, String> {
        serde_json::from_str(text).map_err(|error| format!("what it is made of can't be read: {error}"))
    }

    fn mask_words(&self) -> usize {
        CallState::mask_words(self.states.len())
    }

    /// How much there is of each kind: words of the states, words of a row, calls with encoded arguments.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        let words = self.states.iter().map(|(_, words)| words).sum();
        (words, self.mask_words() + self.values.len(), self.extras.len())
    }

    /// What this one has that another has not.
    pub(crate) fn beyond(&self, other: &Layout) -> Vec<String> {
        let states = self.states.iter().filter(|state| !other.states.contains(state)).map(|(made_of, _)| made_of);
        let extras = self.extras.iter().filter(|call| !other.extras.contains(call));
        let windows = self.windows.iter().filter(|window| !other.windows.contains(window));
        states.chain(extras).chain(windows).cloned().collect()
    }
}

/// From one layout to another: for each part of the new one its place in the old one.
pub(crate) struct Change {
    from: Layout,
    to: Layout,
    states: Vec<Option<usize>>,
    values: Vec<Option<usize>>,
    extras: Vec<Option<usize>>,
}

fn places<T: PartialEq>(of: &[T], among: &[T]) -> Vec<Option<usize>> {
    of.iter().map(|part| among.iter().position(|known| known == part)).collect()
}

impl Change {
    /// From one to another.
    pub(crate) fn new(from: Layout, to: Layout) -> Change {
        let (states, values) = (places(&to.states, &from.states), places(&to.values, &from.values));
        let extras = places(&to.extras, &from.extras);
        Change { from, to, states, values, extras }
    }

    /// The new one.
    pub(crate) fn to(&self) -> &Layout {
        &self.to
    }

    /// The words of all states.
    pub(crate) fn words(&self, words: &[u64]) -> Result<Vec<u64>, String> {
        if words.len() != self.from.sizes().0 {
            return Err(format!("a state of {} words, {} are due", words.len(), self.from.sizes().0));
        }
        let mut new = Vec::with_capacity(self.to.sizes().0);
        for ((_, count), place) in self.to.states.iter().zip(&self.states) {
            match place {
                Some(place) => {
                    let at: usize = self.from.states[..*place].iter().map(|(_, words)| words).sum();
                    new.extend_from_slice(&words[at..at + count]);
                }
                None => new.resize(new.len() + count, 0),
            }
        }
        Ok(new)
    }

    /// What is kept of a row: its mask, and its values.
    pub(crate) fn row(&self, row: &[u64]) -> Result<Vec<u64>, String> {
        if row.len() != self.from.sizes().1 {
            return Err(format!("a row of {} words, {} are due", row.len(), self.from.sizes().1));
        }
        let (before, masks) = (self.from.mask_words(), self.to.mask_words());
        let mut new = vec![0; self.to.sizes().1];
        for (at, place) in self.states.iter().enumerate() {
            if place.is_some_and(|place| row[place / 64] & (1 << (place % 64)) != 0) {
                new[at / 64] |= 1 << (at % 64);
            }
        }
        for (at, place) in self.values.iter().enumerate() {
            new[masks + at] = place.map_or(0, |place| row[before + place]);
        }
        Ok(new)
    }

    /// Something of each call that keeps encoded arguments.
    pub(crate) fn extras<T: Clone + Default>(&self, extras: &[T]) -> Result<Vec<T>, String> {
        if extras.len() != self.from.extras.len() {
            return Err(format!("the arguments of {} calls, {} are due", extras.len(), self.from.extras.len()));
        }
        // Equal calls keep equal arguments.
        Ok(self.extras.iter().map(|place| place.map_or_else(T::default, |place| extras[place].clone())).collect())
    }
}

#[cfg(test)]
mod tests;
