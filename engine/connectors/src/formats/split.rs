//! Finds the records in a stream of bytes that arrives in chunks of any size.
//!
//! ```text
//! chunk      {"a":1}⏎{"a":2}⏎{"a"        :3}⏎…
//! records    └─────┘  └─────┘  └─ carried ─┘        borrowed from the chunk, except where a chunk's end cuts one
//! ```
//!
//! Blank lines are passed over and count as nothing. A record of more than `record_max` bytes is reported by its first
//! bytes and its size; the rest is never held.

/// How records end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splitting {
    /// At each line end.
    Lines,
    /// At each line end that does not stand in quotes.
    Csv {
        /// Between fields.
        delimiter: u8,
        /// Around fields.
        quote: u8,
    },
}

/// How much of a record that failed is kept to be shown.
pub const PAYLOAD_MAX: usize = 64 * 1024;

/// What comes next in the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// A record without its line end.
    Record(&'a [u8]),
    /// A record beyond `record_max`.
    TooLarge {
        /// Its first bytes.
        head: &'a [u8],
        /// Its size.
        bytes: u64,
    },
}

/// Finds the ends of records.
#[derive(Debug)]
pub struct Splitter {
    splitting: Splitting,
    record_max: usize,
    /// The start of a record that a chunk's end cut.
    carry: Vec<u8>,
    /// `carry` was handed out and is to be emptied.
    spent: bool,
    /// How many bytes of the record came, once it is beyond `record_max`; `carry` holds its head only.
    oversize: Option<u64>,
    /// Where in a CSV record the carried part ends.
    state: State,
}

/// ```text
///         ┌── quote ─▶ Quoted ⇄ quote ⇄ QuoteSeen ── delimiter ─▶ Start
/// Start ──┤                                 └─ other ─▶ Plain
///         └── other ─▶ Plain ── delimiter ─▶ Start            a line end outside of Quoted ends the record
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of a field.
    Start,
    /// In a field without quotes.
    Plain,
    /// Between quotes.
    Quoted,
    /// Behind a quote in quotes: the end, or one half of a doubled one.
    QuoteSeen,
}

impl Splitter {
    /// A splitter at the start of a record.
    pub fn new(splitting: Splitting, record_max: usize) -> Self {
        Splitter { splitting, record_max, carry: Vec::new(), spent: false, oversize: None, state: State::Start }
    }

    /// One of the same sort, at the start of a record.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Splitter::new(self.splitting, self.record_max)
    }

    /// The next record that ends in `chunk`, from `at` on; `at` moves behind it. `None` when the rest of the chunk was
    /// carried over, and `at` is at its end.
    #[inline]
    pub fn next<'a>(&'a mut self, chunk: &'a [u8], at: &mut usize) -> Option<Split<'a>> {
        if self.spent {
            self.carry.clear();
            self.spent = false;
        }
        loop {
            let start = *at;
            let Some(end) = self.record_end(chunk, start) else {
                self.carry_over(&chunk[start..]);
                *at = chunk.len();
                return None;
            };
            *at = end + 1;
            if self.carry.is_empty() && self.oversize.is_none() {
                let record = &chunk[start..end];
                if record.len() > self.record_max {
                    return Some(Split::TooLarge {
                        head: &record[..PAYLOAD_MAX.min(record.len())],
                        bytes: record.len() as u64,
                    });
                }
                if !is_blank(record) {
                    return Some(Split::Record(record));
                }
            } else {
                self.carry_over(&chunk[start..end]);
                if self.carried_is_something() {
                    return self.carried();
                }
            }
        }
    }

    /// What is left at the end of a stream: a record without a line end.
    pub fn end(&mut self) -> Option<Split<'_>> {
        if self.spent {
            self.carry.clear();
            self.spent = false;
        }
        self.state = State::Start;
        if self.carried_is_something() { self.carried() } else { None }
    }

    /// Bytes held of a record that has not ended.
    pub fn held(&self) -> usize {
        if self.spent { 0 } else { self.carry.len() }
    }

    fn carried_is_something(&mut self) -> bool {
        if self.oversize.is_none() && is_blank(&self.carry) {
            self.carry.clear();
            return false;
        }
        true
    }

    fn carried(&mut self) -> Option<Split<'_>> {
        self.spent = true;
        match self.oversize.take() {
            Some(bytes) => Some(Split::TooLarge { head: &self.carry, bytes }),
            None => Some(Split::Record(&self.carry)),
        }
    }

    fn carry_over(&mut self, part: &[u8]) {
        let before = self.oversize.unwrap_or(self.carry.len() as u64);
        if self.oversize.is_none() && self.carry.len() + part.len() <= self.record_max {
            self.carry.extend_from_slice(part);
            return;
        }
        if self.oversize.is_none() {
            self.carry.truncate(PAYLOAD_MAX);
            self.carry.shrink_to_fit();
        }
        let head = (PAYLOAD_MAX - self.carry.len()).min(part.len());
        self.carry.extend_from_slice(&part[..head]);
        self.oversize = Some(before + part.len() as u64);
    }

    /// The place of the line end that ends the record which goes on at `start`.
    #[inline(always)]
    fn record_end(&mut self, chunk: &[u8], start: usize) -> Option<usize> {
        match self.splitting {
            Splitting::Lines => memchr::memchr(b'\n', &chunk[start..]).map(|at| start + at),
            Splitting::Csv { delimiter, quote } => self.csv_end(chunk, start, delimiter, quote),
        }
    }

    fn csv_end(&mut self, chunk: &[u8], start: usize, delimiter: u8, quote: u8) -> Option<usize> {
        if self.oversize.is_some() {
            let line = memchr::memchr(b'\n', &chunk[start..])?;
            self.state = State::Start;
            return Some(start + line);
        }
        if self.state == State::Start && self.carry.is_empty() {
            // Most records have no quotes, and end at the first line end.
            let rest = &chunk[start..];
            let line = memchr::memchr(b'\n', rest);
            if let Some(end) = line
                && memchr::memchr(quote, &rest[..end]).is_none()
            {
                return Some(start + end);
            }
        }
        let carried = self.carry.len();
        for (at, byte) in chunk.iter().enumerate().skip(start) {
            // A quote that is never closed must not take the rest of the file.
            if carried + at - start >= self.record_max {
                self.state = State::Plain;
            }
            self.state = match self.state {
                State::Quoted if *byte == quote => State::QuoteSeen,
                State::Quoted => State::Quoted,
                _ if *byte == b'\n' => {
                    self.state = State::Start;
                    return Some(at);
                }
                State::Start | State::QuoteSeen if *byte == quote => State::Quoted,
                _ if *byte == delimiter => State::Start,
                _ => State::Plain,
            };
        }
        None
    }
}

#[inline(always)]
fn is_blank(record: &[u8]) -> bool {
    matches!(record, b"" | b"\r")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CSV: Splitting = Splitting::Csv { delimiter: b',', quote: b'"' };

    /// The records of a text that comes in chunks of these sizes, over and over.
    fn records(splitting: Splitting, record_max: usize, text: &[u8], sizes: &[usize]) -> Vec<String> {
        let mut splitter = Splitter::new(splitting, record_max);
        let mut found = Vec::new();
        let mut note = |split: Split<'_>| match split {
            Split::Record(record) => found.push(String::from_utf8_lossy(record).into_owned()),
            Split::TooLarge { head, bytes } => found.push(format!("{}… of {bytes}", String::from_utf8_lossy(head))),
        };
        let mut rest = text;
        for size in sizes.iter().cycle() {
            let (chunk, behind) = rest.split_at((*size).min(rest.len()));
            rest = behind;
            let mut at = 0;
            while let Some(split) = splitter.next(chunk, &mut at) {
                note(split);
            }
            assert_eq!(at, chunk.len());
            assert!(splitter.held() <= record_max.max(PAYLOAD_MAX));
            if rest.is_empty() {
                break;
            }
        }
        if let Some(split) = splitter.end() {
            note(split);
        }
        found
    }

    #[test]
    fn passes_over_blank_lines_and_takes_the_last_without_its_end() {
        for size in [1, 2, 3, 100] {
            assert_eq!(
                records(Splitting::Lines, 100, b"\n\r\na\n\nb\r\n \nc", &[size]),
                ["a", "b\r", " ", "c"],
                "{size}"
            );
            assert!(records(Splitting::Lines, 100, b"\n\r", &[size]).is_empty());
        }
    }

    #[test]
    fn csv_records_end_outside_of_quotes() {
        for size in [1, 2, 3, 5, 100] {
            let text = b"a,b\n\"x\ny\",1\r\n\"q\"\"\n\",\"\"\nplain\"quote,2\n";
            assert_eq!(
                records(CSV, 100, text, &[size]),
                ["a,b", "\"x\ny\",1\r", "\"q\"\"\n\",\"\"", "plain\"quote,2"],
                "{size}"
            );
        }
    }

    #[test]
    fn what_is_too_large_is_counted_and_not_held() {
        for size in [1, 4, 100] {
            assert_eq!(
                records(Splitting::Lines, 4, b"1234\n12345\n1\n123456789", &[size]),
                ["1234", "12345… of 5", "1", "123456789… of 9"]
            );
        }
        let mut text = vec![b'x'; 50_000_000];
        text.extend_from_slice(b"\nnext\n");
        let found = records(Splitting::Lines, 1 << 20, &text, &[1 << 18]);
        assert_eq!(found[0].len(), PAYLOAD_MAX + "… of 50000000".len());
        assert_eq!(found[1], "next");
        // An open quote takes no more than one record may be large.
        for size in [1, 3, 100] {
            let found = records(CSV, 7, b"a,\"b\nc,d\ne,f\ng,h\n", &[size]);
            assert_eq!(found, ["a,\"b\nc,d… of 8", "e,f", "g,h"], "{size}");
        }
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(text in "[ab,\"\r\n]{0,60}", sizes in proptest::collection::vec(1_usize..10, 1..5), max in 1_usize..30) {
            for splitting in [Splitting::Lines, CSV] {
                for max in [max, 100] {
                    let whole = records(splitting, max, text.as_bytes(), &[1000]);
                    prop_assert_eq!(&records(splitting, max, text.as_bytes(), &sizes), &whole);
                }
            }
        }
    }
}
