//! Many rows of many keys into their records: by rounds, each of one row of each key that has so many.

use super::plan::{Column, of_this};
use crate::render::{assemble, compile, evaluate};
use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{concat, take};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows as EncodedRows, SortField};
use engine_base::RowError;
use engine_dataflow::Rows;
use engine_expr::{Program, RowFacts};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// After so many rounds their columns are put together, so that the small ones in between don't pile up.
const ROUNDS_TOGETHER: usize = 2_048;

/// What a row makes of a record.
pub(super) struct Folder {
    fields: Vec<Field>,
    encoder: RowConverter,
    initial: Box<[u8]>,
    updates: Vec<Update>,
    /// Places in the input of the columns that updates by rounds read.
    row_places: Vec<usize>,
    /// Places in the record of the columns that they read.
    this_places: Vec<usize>,
    /// Both, in this order.
    schema: SchemaRef,
}

/// What a row makes of a column of the record.
enum Update {
    /// Nothing: it stays as it is.
    Keep,
    /// What the row alone tells: computed for all rows at once.
    OfRow(Program),
    /// What the record before has a part in: computed by rounds.
    OfBoth(Program),
}

/// A batch of rows that went into their records.
pub(super) struct Folded {
    /// For each row the record after it; of a row that failed, the record as it was.
    pub(super) after: Vec<ArrayRef>,
    /// For each key the record after its last row.
    pub(super) last: EncodedRows,
    /// The rows that failed.
    pub(super) failed: BTreeMap<usize, RowError>,
}

/// In which order rows go into their records.
struct Order {
    /// The rows round by round; `None` where that is as they stand.
    rows: Option<UInt32Array>,
    /// How many rows each round has. Never more than the one before.
    rounds: Vec<usize>,
    /// The keys by how many rows they have: a round has the first ones.
    keys: Vec<u32>,
    /// For each key the place of its last row among `rows`.
    last: Vec<u32>,
}

impl Order {
    /// Of rows, each of the key with this number.
    fn new(key_of: &[u32], keys: usize) -> Order {
        let mut counts = vec![0u32; keys];
        key_of.iter().for_each(|key| counts[*key as usize] += 1);
        let mut by_count: Vec<u32> = (0..keys as u32).collect();
        by_count.sort_by_key(|key| Reverse(counts[*key as usize]));
        let most = by_count.first().map_or(0, |key| counts[*key as usize]) as usize;
        let mut rounds = vec![0; most];
        counts.iter().for_each(|count| rounds[*count as usize - 1] += 1);
        for round in (1..most).rev() {
            rounds[round - 1] += rounds[round];
        }
        let mut rank_of = vec![0u32; keys];
        by_count.iter().enumerate().for_each(|(rank, key)| rank_of[*key as usize] = rank as u32);
        let mut starts = vec![0u32; most];
        for round in 1..most {
            starts[round] = starts[round - 1] + rounds[round - 1] as u32;
        }
        // How many rows of a key have their place.
        let mut met = vec![0u32; keys];
        let mut last = vec![0u32; keys];
        let mut rows = vec![0u32; key_of.len()];
        for (row, key) in key_of.iter().enumerate() {
            let key = *key as usize;
            let place = starts[met[key] as usize] + rank_of[key];
            rows[place as usize] = row as u32;
            last[key] = place;
            met[key] += 1;
        }
        let as_they_stand = rows.iter().enumerate().all(|(place, row)| place == *row as usize);
        let rows = (!as_they_stand).then(|| UInt32Array::from(rows));
        Order { rows, rounds, keys: by_count, last }
    }

    fn row(&self, place: usize) -> usize {
        self.rows.as_ref().map_or(place, |rows| rows.value(place) as usize)
    }

    /// A column as rounds take it.
    fn arranged(&self, column: &ArrayRef) -> ArrayRef {
        self.rows.as_ref().map_or_else(|| column.clone(), |rows| taken(column, rows))
    }

    /// A column of the rounds, as the rows stand.
    fn back(&self, columns: Vec<ArrayRef>) -> Vec<ArrayRef> {
        let Some(rows) = &self.rows else { return columns };
        let mut place_of = vec![0u32; rows.len()];
        rows.values().iter().enumerate().for_each(|(place, row)| place_of[*row as usize] = place as u32);
        let place_of = UInt32Array::from(place_of);
        columns.iter().map(|column| taken(column, &place_of)).collect()
    }
}

/// Rows of a column. Arrow takes every column type of the language.
pub(super) fn taken(column: &ArrayRef, rows: &UInt32Array) -> ArrayRef {
    take(column, rows, None).unwrap_or_else(|error| panic!("rows of a column can't be taken: {error}"))
}

fn joined(pieces: &[ArrayRef]) -> ArrayRef {
    let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
    concat(&pieces).unwrap_or_else(|error| panic!("pieces of one column differ: {error}"))
}

impl Folder {
    /// The updates of these columns over rows of an input.
    pub(super) fn new(columns: &[Column], input: &SchemaRef) -> Result<Folder, String> {
        let fields: Vec<Field> = columns.iter().map(|column| column.field.clone()).collect();
        let sorts = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let encoder = RowConverter::new(sorts).map_err(|error| error.to_string())?;
        let init: Vec<ArrayRef> = columns.iter().map(|column| column.init.clone()).collect();
        let initial = encoder.convert_columns(&init).map_err(|error| error.to_string())?.row(0).data().into();
        let by_rounds: Vec<_> = columns
            .iter()
            .filter_map(|column| column.update.as_ref())
            .filter(|update| update.columns().iter().any(|name| reads_this(name, &fields)))
            .collect();
        let read = |name: &str| by_rounds.iter().any(|update| update.columns().contains(name));
        let row_places: Vec<usize> = (0..input.fields().len()).filter(|at| read(input.field(*at).name())).collect();
        let this_places: Vec<usize> = (0..fields.len()).filter(|at| read(&of_this(fields[*at].name()))).collect();
        let of_row = row_places.iter().map(|at| input.field(*at).clone());
        let of_record = this_places.iter().map(|at| fields[*at].clone().with_name(of_this(fields[*at].name())));
        // Failed rows may be among those of a round.
        let all: Vec<Field> = of_row.chain(of_record).map(|field| field.with_nullable(true)).collect();
        let schema: SchemaRef = Arc::new(Schema::new(all));
        let mut updates = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            let salted = |program: Program| program.with_salt(at as u64);
            updates.push(match &column.update {
                None => Update::Keep,
                Some(update) if update.columns().iter().any(|name| reads_this(name, &fields)) => {
                    Update::OfBoth(salted(compile(update, &schema)?))
                }
                Some(update) => Update::OfRow(salted(compile(update, input)?)),
            });
        }
        Ok(Folder { fields, encoder, initial, updates, row_places, this_places, schema })
    }

    /// The record before the first row of a key.
    pub(super) fn initial(&self) -> &[u8] {
        &self.initial
    }

    /// The columns of records.
    pub(super) fn decode<'a>(&self, records: impl IntoIterator<Item = &'a [u8]>) -> Vec<ArrayRef> {
        let parser = self.encoder.parser();
        self.encoder
            .convert_rows(records.into_iter().map(|record| parser.parse(record)))
            .unwrap_or_else(|error| panic!("a record can't be read back: {error}"))
    }

    /// Takes rows into records: row `i` is of key `key_of[i]`, whose record before is `records[key_of[i]]`. Each key has a row.
    pub(super) fn fold(&mut self, rows: &Rows, key_of: &[u32], records: &[&[u8]]) -> Folded {
        let order = Order::new(key_of, records.len());
        let mut failed: BTreeMap<usize, RowError> = BTreeMap::new();
        let of_rows: Vec<Option<ArrayRef>> = self
            .updates
            .iter_mut()
            .map(|update| match update {
                Update::OfRow(program) => {
                    let evaluated = evaluate(program, rows);
                    evaluated.errors.into_iter().for_each(|(row, error)| {
                        failed.entry(row).or_insert(error);
                    });
                    Some(order.arranged(&evaluated.array))
                }
                Update::Keep | Update::OfBoth(_) => None,
            })
            .collect();
        let of_row: Vec<ArrayRef> = self.row_places.iter().map(|at| order.arranged(rows.batch.column(*at))).collect();
        let mut record = self.decode(order.keys.iter().map(|key| records[*key as usize]));
        let mut pieces: Vec<Vec<ArrayRef>> = vec![Vec::new(); self.fields.len()];
        let mut start = 0;
        for count in &order.rounds {
            if record.first().is_some_and(|column| column.len() > *count) {
                record.iter_mut().for_each(|column| *column = column.slice(0, *count));
            }
            record = self.round(rows, &order, start, *count, &of_rows, &of_row, record, &mut failed);
            for (pieces, column) in pieces.iter_mut().zip(&record) {
                pieces.push(column.clone());
                if pieces.len() == ROUNDS_TOGETHER {
                    *pieces = vec![joined(pieces)];
                }
            }
            start += count;
        }
        let after: Vec<ArrayRef> = match order.rounds.len() {
            1 => record,
            _ => pieces.iter().map(|pieces| joined(pieces)).collect(),
        };
        let places = UInt32Array::from(order.last.clone());
        let last: Vec<ArrayRef> = after.iter().map(|column| taken(column, &places)).collect();
        let last =
            self.encoder.convert_columns(&last).unwrap_or_else(|error| panic!("a record changed its types: {error}"));
        Folded { after: order.back(after), last, failed }
    }

    /// One row of each of the first keys: the records after it.
    #[allow(clippy::too_many_arguments)] // what the rounds of one batch share
    fn round(
        &mut self,
        rows: &Rows,
        order: &Order,
        start: usize,
        count: usize,
        of_rows: &[Option<ArrayRef>],
        of_row: &[ArrayRef],
        before: Vec<ArrayRef>,
        failed: &mut BTreeMap<usize, RowError>,
    ) -> Vec<ArrayRef> {
        let of_row = of_row.iter().map(|column| column.slice(start, count));
        let columns = of_row.chain(self.this_places.iter().map(|at| before[*at].clone())).collect();
        let batch = assemble(&self.schema, columns, count);
        let at = |place: usize| order.row(start + place);
        let now_ns = |place: usize| rows.ingest_ns.get(at(place));
        let event_ns = |place: usize| rows.event_ns.as_ref().map_or(0, |times| times.get(at(place)));
        let seed = |place: usize| rows.seed(at(place));
        let facts = RowFacts { now_ns: &now_ns, event_ns: rows.event_ns.is_some().then_some(&event_ns), seed: &seed };
        // Rows of this round that fail, by their place.
        let mut wrong: Vec<usize> = match failed.is_empty() {
            true => Vec::new(),
            false => (0..count).filter(|place| failed.contains_key(&at(*place))).collect(),
        };
        let mut fail = |place: usize, error: RowError| {
            failed.entry(at(place)).or_insert(error);
            wrong.push(place);
        };
        let mut after = Vec::with_capacity(before.len());
        for (column, update) in self.updates.iter_mut().enumerate() {
            let new = match update {
                Update::Keep => before[column].clone(),
                Update::OfRow(_) => {
                    of_rows[column].as_ref().map_or_else(|| before[column].clone(), |all| all.slice(start, count))
                }
                Update::OfBoth(program) => {
                    let evaluated = program.evaluate(&batch, &facts);
                    evaluated.errors.into_iter().for_each(|(place, error)| fail(place, error));
                    evaluated.array
                }
            };
            let field = &self.fields[column];
            if !field.is_nullable() && new.null_count() > 0 {
                // The plan says that this can't be. Should it be wrong, the row fails; one that has failed keeps its reason.
                for place in (0..count).filter(|place| new.is_null(*place)) {
                    fail(place, RowError::new("null", format!("`{}` can't be null", field.name())));
                }
            }
            after.push(new);
        }
        if wrong.is_empty() {
            return after;
        }
        let mut good = vec![true; count];
        wrong.into_iter().for_each(|place| good[place] = false);
        let good = BooleanArray::from(good);
        let kept = |(new, old): (ArrayRef, &ArrayRef)| {
            zip(&good, &new, old).unwrap_or_else(|error| panic!("a record changed its types: {error}"))
        };
        after.into_iter().zip(&before).map(kept).collect()
    }
}

fn reads_this(name: &str, fields: &[Field]) -> bool {
    name.strip_prefix("this.").is_some_and(|name| fields.iter().any(|field| field.name() == name))
}
