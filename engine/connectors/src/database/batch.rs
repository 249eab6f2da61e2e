//! A batch of rows, and what they come to for each key.

use super::columns::{Column, Sent, convert};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, FieldRef};
use arrow::row::{RowConverter, SortField};
use engine_base::RowError;
use std::collections::HashMap;

/// What a sink's rows look like to its database.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The columns of the table that are written, as they come.
    pub fields: Vec<FieldRef>,
    /// The form in which each goes.
    pub sent: Vec<Sent>,
    /// Which of them are the key; none for a table that is only added to.
    pub key: Vec<usize>,
    /// If a row is refused, nothing is written.
    pub all_or_nothing: bool,
}

/// What is done for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    /// The row.
    pub row: u32,
    /// The row with its key is deleted; otherwise the row is put in.
    pub delete: bool,
}

/// Rows as columns, and what is to be done.
///
/// With a key there is one act for each: the last one of its rows. Those before it come to nothing, unless the last one is
/// refused; then they are what the table is to hold ([`Batch::steps`]). Deletions come first, and all are in the order of
/// their keys, so that transactions beside each other lock rows in one order.
#[derive(Debug)]
pub struct Batch {
    /// The columns, in the order of the layout.
    pub columns: Vec<Column>,
    /// What is done: deletions, then all others.
    pub acts: Vec<Act>,
    /// Which columns are the key.
    pub key: Vec<usize>,
    /// If a row is refused, nothing is written.
    pub all_or_nothing: bool,
    /// Rows that were given up, which are to be known with the marker.
    pub given_up: Vec<(u32, RowError)>,
    /// The act of the same key before each row's.
    before: HashMap<u32, Act>,
}

impl Batch {
    /// Makes a batch of rows, and tells those that no database could take. A sentence if the columns are of other types than
    /// were planned.
    pub fn new(
        layout: &Layout,
        rows: &RecordBatch,
        removed: impl Fn(usize) -> bool,
    ) -> Result<(Batch, Vec<(u32, RowError)>), String> {
        let mut failed = Vec::new();
        let columns = layout.fields.iter().zip(&layout.sent).zip(rows.columns());
        let columns: Vec<Column> = columns
            .map(|((field, sent), array)| convert(field, array, *sent, &mut failed))
            .collect::<Result<_, _>>()?;
        failed.sort_by_key(|(row, _)| *row);
        failed.dedup_by_key(|(row, _)| *row);
        let sound = |row: &u32| failed.binary_search_by_key(row, |(row, _)| *row).is_err();
        let all = (0..rows.num_rows() as u32).filter(|row| failed.is_empty() || sound(row));
        let all = all.map(|row| Act { row, delete: removed(row as usize) });
        let key = layout.key.clone();
        let mut batch = Batch {
            columns,
            acts: Vec::new(),
            key,
            all_or_nothing: layout.all_or_nothing,
            given_up: Vec::new(),
            before: HashMap::new(),
        };
        match layout.key.is_empty() {
            true => batch.acts = all.collect(),
            false => batch.acts_by_key(&layout.key, all)?,
        }
        Ok((batch, failed))
    }

    fn acts_by_key(&mut self, key: &[usize], all: impl Iterator<Item = Act>) -> Result<(), String> {
        let arrays: Vec<ArrayRef> = key.iter().map(|column| self.columns[*column].shared()).collect();
        let fields = arrays.iter().map(|array: &ArrayRef| SortField::new(DataType::clone(array.data_type()))).collect();
        let rows = RowConverter::new(fields).and_then(|converter| converter.convert_columns(&arrays));
        let rows = rows.map_err(|error| error.to_string())?;
        let mut last: HashMap<&[u8], Act> = HashMap::with_capacity(rows.num_rows());
        for act in all {
            if let Some(before) = last.insert(rows.row(act.row as usize).data(), act) {
                self.before.insert(act.row, before);
            }
        }
        let mut acts: Vec<(&[u8], Act)> = last.into_iter().collect();
        acts.sort_unstable_by_key(|(key, act)| (!act.delete, *key));
        self.acts = acts.into_iter().map(|(_, act)| act).collect();
        Ok(())
    }

    /// Gives all rows up that are still to be written: nothing but the marker is.
    pub fn give_up(&mut self, error: &RowError) {
        if !self.given_up.is_empty() {
            return;
        }
        let mut rows: Vec<u32> = self.acts.iter().flat_map(|act| self.steps(*act)).map(|act| act.row).collect();
        rows.sort_unstable();
        self.given_up = rows.into_iter().map(|row| (row, error.clone())).collect();
        self.acts.clear();
    }

    /// All acts of an act's key, in their order; its own is the last.
    pub fn steps(&self, act: Act) -> Vec<Act> {
        let mut steps = vec![act];
        while let Some(before) = self.before.get(&steps[steps.len() - 1].row) {
            steps.push(*before);
        }
        steps.reverse();
        steps
    }
}

/// The rows of acts: those that are deleted, then those that are put in.
pub(crate) fn parted(acts: &[Act]) -> (Vec<u32>, Vec<u32>) {
    let first = acts.partition_point(|act| act.delete);
    let rows = |acts: &[Act]| acts.iter().map(|act| act.row).collect();
    (rows(&acts[..first]), rows(&acts[first..]))
}
