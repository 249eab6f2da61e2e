//! CSV as RFC 4180 has it, with another delimiter or quote where asked for.
//!
//! An empty field is null in a column of any type but `string`, where it is the empty text. `null: TEXT` names a text that
//! is null in every column. Lists, maps and structs have no form in CSV and are refused by the plan when read; they are
//! written as JSON.
//!
//! A header that does not fit the schema fails the file rather than each of its records: one mistake, told once, and also
//! where no record follows.

use super::columns::{Column, Kind};
use super::values::Values;
use super::{RecordDecoder, RecordEncoder, RecordError, Timestamps};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};
use engine_base::RowError;
use std::sync::Arc;

/// How the file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvOptions {
    /// Between fields.
    pub delimiter: u8,
    /// Around fields that hold delimiters, quotes or line ends.
    pub quote: u8,
    /// The first record of a file names the columns.
    pub header: bool,
    /// A field with this text is null.
    pub null: Option<String>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        CsvOptions { delimiter: b',', quote: b'"', header: true, null: None }
    }
}

/// How many names a sentence holds at most.
const NAMES_SHOWN: usize = 8;

/// Decodes records into the wanted columns of a schema.
pub struct CsvDecoder {
    reader: Reader,
    options: CsvOptions,
    /// All the names of the schema, and whether a header may hold no others.
    known: Vec<String>,
    extra_error: bool,
    columns: Vec<Column>,
    /// The column of each field of a record.
    targets: Vec<Option<usize>>,
    /// Columns that the header does not have.
    missing: Vec<usize>,
    /// Those of the last header that a warning told of: files of a pattern are mostly alike.
    told: Vec<usize>,
    rows: usize,
    /// Room for the fields of a record, and where each ends.
    fields: Vec<u8>,
    ends: Vec<usize>,
}

impl CsvDecoder {
    /// A decoder of `columns`, which are some of the fields of `schema`.
    pub fn new(
        schema: &Schema,
        columns: &[Arc<Field>],
        options: CsvOptions,
        extra_error: bool,
    ) -> Result<Self, String> {
        let mut builder = ReaderBuilder::new();
        builder.delimiter(options.delimiter).quote(options.quote).terminator(Terminator::Any(b'\n'));
        let known: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let names = known.clone();
        let mut decoder = CsvDecoder {
            reader: builder.build(),
            options,
            known,
            extra_error,
            columns: columns.iter().map(Column::new).collect::<Result<_, _>>()?,
            targets: Vec::new(),
            missing: Vec::new(),
            told: Vec::new(),
            rows: 0,
            fields: Vec::new(),
            ends: Vec::new(),
        };
        // Without a header, or before one has come, fields stand in the order of the schema.
        decoder.set_targets(names.into_iter());
        Ok(decoder)
    }

    fn set_targets(&mut self, names: impl Iterator<Item = String>) {
        let column = |name: String| self.columns.iter().position(|column| column.name() == name);
        self.targets = names.map(column).collect();
        self.missing = (0..self.columns.len()).filter(|column| !self.targets.contains(&Some(*column))).collect();
    }

    /// Takes a record apart into `fields` and `ends`. How many fields it has.
    fn split(&mut self, record: &[u8]) -> Result<usize, Box<RecordError>> {
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        let record = record.strip_suffix(b"\r").unwrap_or(record);
        let wrong = |what: &str, at| Err(Box::new(RecordError::Syntax { what: what.to_owned(), at }));
        if record.is_empty() {
            return wrong("it is empty", 0);
        }
        self.reader.reset();
        self.fields.resize(record.len().max(self.fields.len()), 0);
        self.ends.resize(self.targets.len().max(16).max(self.ends.len()), 0);
        let (mut read, mut written, mut ended) = (0, 0, 0);
        loop {
            // The line end, then an empty input, tell the reader that the record is complete.
            let input = if read < record.len() { &record[read..] } else { &b"\n"[..usize::from(read == record.len())] };
            let (result, nread, nwritten, nends) =
                self.reader.read_record(input, &mut self.fields[written..], &mut self.ends[ended..]);
            read += nread;
            written += nwritten;
            ended += nends;
            match result {
                ReadRecordResult::InputEmpty if read <= record.len() => (),
                // A quoted field was still open at the line end, which became part of it.
                ReadRecordResult::InputEmpty => return wrong("a quote is not closed", record.len()),
                ReadRecordResult::OutputFull => self.fields.resize(self.fields.len() * 2 + 16, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record if read < record.len() => {
                    return wrong("it has a line end outside of quotes", read);
                }
                ReadRecordResult::Record | ReadRecordResult::End => return Ok(ended),
            }
        }
    }

    fn record(&mut self, record: &[u8]) -> Result<(), Box<RecordError>> {
        let found = self.split(record)?;
        if found != self.targets.len() {
            let whose = if self.options.header { "header" } else { "schema" };
            let plural = |count: usize| if count == 1 { "1 field".to_owned() } else { format!("{count} fields") };
            let mut what = format!("it has {}, and the {whose} has {}", plural(found), plural(self.targets.len()));
            if has_bare_return(record, self.options.quote) {
                what.push_str(", and there are carriage returns in it without line feeds, which end no line");
            }
            return Err(Box::new(RecordError::Syntax { what, at: record.len() }));
        }
        let mut start = 0;
        for (target, end) in self.targets.iter().zip(&self.ends) {
            let text = &self.fields[start..*end];
            start = *end;
            let Some(target) = target else { continue };
            let column = &mut self.columns[*target];
            let string = matches!(column.kind(), Kind::String);
            if self.options.null.as_ref().is_some_and(|null| null.as_bytes() == text) || (text.is_empty() && !string) {
                column.push_null()?;
                continue;
            }
            if string && let Err(error) = std::str::from_utf8(text) {
                let at = error.valid_up_to();
                return Err(Box::new(RecordError::Syntax { what: format!("`{}` is not UTF-8", column.name()), at }));
            }
            column.push_text(text)?;
        }
        for column in &self.missing {
            self.columns[*column].push_missing()?;
        }
        Ok(())
    }
}

impl RecordDecoder for CsvDecoder {
    fn decode(&mut self, record: &[u8]) -> Result<(), RowError> {
        match self.record(record) {
            Ok(()) => {
                self.rows += 1;
                Ok(())
            }
            Err(error) => {
                self.columns.iter_mut().for_each(|column| column.truncate(self.rows));
                Err(error.into_row_error("CSV"))
            }
        }
    }

    fn header(&mut self, record: &[u8]) -> Result<(), String> {
        if has_bare_return(record, self.options.quote) {
            return Err("the lines end with carriage returns alone, and LF or CR LF is due; convert the file: \
                        `tr '\\r' '\\n' < old.csv > new.csv`"
                .to_owned());
        }
        let count =
            self.split(record).map_err(|error| format!("the header is {}", error.into_row_error("CSV").reason))?;
        let mut names: Vec<String> = Vec::with_capacity(count);
        let mut start = 0;
        for end in &self.ends[..count] {
            let name = String::from_utf8_lossy(&self.fields[start..*end]).into_owned();
            start = *end;
            if names.contains(&name) {
                return Err(format!("the header names `{name}` twice; a column is found by its name"));
            }
            if self.extra_error && !self.known.contains(&name) {
                return Err(format!(
                    "the header names `{name}`, which is not in the schema, which says `extra: error`"
                ));
            }
            names.push(name);
        }
        self.set_targets(names.iter().cloned());
        let strange = !names.iter().any(|name| self.known.contains(name)) && !self.known.is_empty();
        let lacks: Vec<&Column> = self.missing.iter().map(|at| &self.columns[*at]).collect();
        let due: Vec<&Column> = lacks.iter().copied().filter(|column| !column.is_nullable()).collect();
        if strange || !due.is_empty() {
            let missing = match strange {
                true => "none of the schema's columns".to_owned(),
                false => format!("no {}", quoted(due.iter().map(|column| column.name()))),
            };
            return Err(format!(
                "the header names {missing}: it names {}; correct the schema or the `delimiter`, let a column that may be \
                 missing be null (`T | null`), or say `header: false` where the first line is a record",
                quoted(names.iter().map(String::as_str))
            ));
        }
        if self.told != self.missing {
            for column in lacks {
                tracing::warn!("the header of a CSV file has no column `{}`: it is null in each row", column.name());
            }
            self.told.clone_from(&self.missing);
        }
        Ok(())
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn finish(&mut self) -> Vec<ArrayRef> {
        self.rows = 0;
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

/// Names in a sentence.
fn quoted<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    let mut shown: Vec<String> = names.by_ref().take(NAMES_SHOWN).map(|name| format!("`{name}`")).collect();
    shown.extend(names.next().map(|_| "…".to_owned()));
    shown.join(", ")
}

/// Whether a carriage return stands in a record outside of quotes, and not as a part of its line end.
fn has_bare_return(record: &[u8], quote: u8) -> bool {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let record = record.strip_suffix(b"\r").unwrap_or(record);
    let mut quoted = false;
    record.iter().any(|byte| {
        quoted ^= *byte == quote;
        *byte == b'\r' && !quoted
    })
}

/// Encodes rows as CSV records.
#[derive(Debug)]
pub struct CsvEncoder {
    options: CsvOptions,
    timestamps: Timestamps,
    names: Vec<String>,
}

impl CsvEncoder {
    /// An encoder of rows of this schema.
    pub fn new(schema: &SchemaRef, options: CsvOptions, timestamps: Timestamps) -> Self {
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        CsvEncoder { options, timestamps, names }
    }

    fn field(&self, out: &mut Vec<u8>, text: &[u8]) {
        let CsvOptions { delimiter, quote, .. } = self.options;
        if memchr::memchr3(delimiter, quote, b'\n', text).is_none() && memchr::memchr(b'\r', text).is_none() {
            out.extend_from_slice(text);
            return;
        }
        self.quoted(out, text);
    }

    fn quoted(&self, out: &mut Vec<u8>, text: &[u8]) {
        let quote = self.options.quote;
        out.push(quote);
        let mut rest = text;
        while let Some(at) = memchr::memchr(quote, rest) {
            out.extend_from_slice(&rest[..=at]);
            out.push(quote);
            rest = &rest[at + 1..];
        }
        out.extend_from_slice(rest);
        out.push(quote);
    }
}

impl RecordEncoder for CsvEncoder {
    fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.options.header {
            for (at, name) in self.names.iter().enumerate() {
                if at > 0 {
                    out.push(self.options.delimiter);
                }
                self.field(&mut out, name.as_bytes());
            }
            out.push(b'\n');
        }
        out
    }

    fn encode(
        &mut self,
        batch: &RecordBatch,
        out: &mut Vec<u8>,
        mut ends: Option<&mut Vec<usize>>,
    ) -> Result<(), String> {
        let schema = batch.schema();
        let fields = schema.fields().iter().zip(batch.columns());
        let columns =
            fields.map(|(field, array)| Values::new(field, array, self.timestamps)).collect::<Result<Vec<_>, _>>()?;
        let null = self.options.null.as_deref().unwrap_or_default().as_bytes();
        let mut text = Vec::new();
        for row in 0..batch.num_rows() {
            let start = out.len();
            for (at, column) in columns.iter().enumerate() {
                if at > 0 {
                    out.push(self.options.delimiter);
                }
                if column.is_null(row) {
                    out.extend_from_slice(null);
                } else {
                    text.clear();
                    column.write_plain(row, &mut text);
                    self.field(out, &text);
                }
            }
            // A record that is empty would be a blank line, which readers pass over.
            if out.len() == start {
                self.quoted(out, b"");
            }
            out.push(b'\n');
            if let Some(ends) = &mut ends {
                ends.push(out.len());
            }
        }
        Ok(())
    }
}
