//! `errors.jsonl`: where error rows go that no step reads. It is a sink like any other: what it has not written is not
//! acknowledged, and if it can't write, the pipeline stops.

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampNanosecondType;
use engine_dataflow::{Acknowledged, Rows, Writer};
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The file of a process, shared by its workers. It is created when the first error comes.
#[derive(Debug)]
pub(crate) struct ErrorsFile {
    path: PathBuf,
    /// Nobody else writes to it, since it stands in a state directory, which is locked.
    locked: bool,
    file: Mutex<Option<File>>,
    written: AtomicU64,
}

impl ErrorsFile {
    /// The file at `path`, to be appended to.
    pub(crate) fn new(path: PathBuf, locked: bool) -> Arc<Self> {
        Arc::new(ErrorsFile { path, locked, file: Mutex::new(None), written: AtomicU64::new(0) })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many error rows this run has written.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The end of one worker.
    pub(crate) fn writer(self: &Arc<Self>) -> Box<dyn Writer> {
        Box::new(ErrorsWriter { shared: self.clone(), done: 0, fatal: None })
    }

    fn append(&self, rows: &Rows) -> std::io::Result<()> {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match guard.as_mut() {
            Some(file) => file,
            None => {
                if let Some(folder) = self.path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.path)?;
                self.mend(&mut file)?;
                guard.insert(file)
            }
        };
        file.write_all(&encode(rows))?;
        // Not acknowledged before it is durable.
        file.sync_data()?;
        self.written.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl ErrorsFile {
    /// What a killed run left of a line is cut off: the row was not acknowledged, and comes again. Where others may be
    /// writing, it is ended instead.
    fn mend(&self, file: &mut File) -> std::io::Result<()> {
        const STEP: u64 = 64 * 1024;
        let size = file.metadata()?.len();
        let mut end = size;
        while end > 0 {
            let start = end.saturating_sub(STEP);
            let mut part = Vec::new();
            file.seek(SeekFrom::Start(start))?;
            (&*file).take(end - start).read_to_end(&mut part)?;
            if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
                end = start + at as u64 + 1;
                break;
            }
            end = start;
        }
        match end < size {
            true if self.locked => file.set_len(end),
            true => file.write_all(b"\n"),
            false => Ok(()),
        }
    }
}

struct ErrorsWriter {
    shared: Arc<ErrorsFile>,
    done: u64,
    fatal: Option<String>,
}

impl Writer for ErrorsWriter {
    fn write(&mut self, rows: Rows, ticket: u64) -> Result<(), Rows> {
        match self.shared.append(&rows) {
            Ok(()) => self.done = ticket,
            Err(error) => {
                let path = self.shared.path.display();
                self.fatal.get_or_insert(format!("error rows can't be kept in {path}: {error}"));
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self) -> Acknowledged {
        Acknowledged { up_to: self.done, fatal: self.fatal.take(), ..Acknowledged::default() }
    }

    fn flush(&mut self) {}
}

/// One JSON object a line, in the order of the error schema.
fn encode(rows: &Rows) -> Vec<u8> {
    let mut out = Vec::new();
    for row in 0..rows.num_rows() {
        let mut object = Map::new();
        for (field, column) in rows.batch.schema().fields().iter().zip(rows.batch.columns()) {
            let value = if let Some(text) = column.as_string_opt::<i32>() {
                Value::from(text.value(row))
            } else if let Some(times) = column.as_primitive_opt::<TimestampNanosecondType>() {
                let at = times.value_as_datetime(row).map(|at| at.format("%Y-%m-%dT%H:%M:%S%.9fZ").to_string());
                json!(at)
            } else {
                Value::Null
            };
            if column.is_valid(row) {
                object.insert(field.name().clone(), value);
            }
        }
        // Writing a map of strings to memory can't fail.
        if serde_json::to_writer(&mut out, &object).is_ok() {
            out.push(b'\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine_base::RowError;
    use engine_dataflow::{ErrorRow, RowPosition, SourceNames, errors::error_rows};

    #[test]
    fn error_rows_are_lines_of_json_and_appended() {
        let folder = tempfile::tempdir().unwrap();
        let file = ErrorsFile::new(folder.path().join("state/errors.jsonl"), true);
        let row = |reason: &str| ErrorRow {
            step: "valid".into(),
            error: RowError::new("cast", reason),
            payload: b"{\"a\":1}\xff".to_vec(),
            position: RowPosition { origin: 0, offset: 7, suffix: Box::from([]) },
            ingest_ns: 1_500_000_000,
        };
        let names = SourceNames::new(["orders".into()]);
        let mut writer = file.writer();
        writer.write(error_rows(vec![row("no \"number\""), row("two")], &names), 1).unwrap();
        writer.write(error_rows(vec![row("three")], &names), 2).unwrap();
        assert_eq!(writer.acknowledged().up_to, 2);
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["reason"], format!("no \"number\" {}", engine_dataflow::errors::REPLACED));
        assert_eq!(lines[0]["position"], "orders/0/7");
        assert_eq!(lines[0]["at"], "1970-01-01T00:00:01.500000000Z");
        assert_eq!(lines[2]["reason"], format!("three {}", engine_dataflow::errors::REPLACED));
        assert_eq!(file.written(), 3);
    }

    #[test]
    fn half_a_line_is_cut_off_or_ended() {
        let folder = tempfile::tempdir().unwrap();
        for (locked, expected) in [(true, "{}\n"), (false, "{}\n{\"ste\n")] {
            let path = folder.path().join("errors.jsonl");
            std::fs::write(&path, "{}\n{\"ste").unwrap();
            let file = ErrorsFile::new(path.clone(), locked);
            file.writer().write(Rows::default(), 1).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_fatal() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let file = ErrorsFile::new(folder.path().join("file/errors.jsonl"), true);
        let mut writer = file.writer();
        writer.write(Rows::default(), 1).unwrap();
        let answer = writer.acknowledged();
        assert_eq!(answer.up_to, 0);
        assert!(answer.fatal.unwrap().contains("errors.jsonl"));
    }
}
