//! The state of a key as bytes: the rows only. The tree is built again by [`KeyRows::revive`], which needs the calls.

use super::{KeyRows, Last, More, Open, ROW_HEAD, Shape};
use crate::aggregates::layout::Change;
use crate::codec::{Bytes, put, put_bytes, put_optional};
use crate::rolling::order::Pending;
use engine_dataflow::RowPosition;
use engine_state::SlotState;

/// The format of encoded rolling state.
const FORMAT: u8 = 2;

impl KeyRows {
    /// Rows that were just read, as they are where other calls are kept.
    pub(in crate::rolling) fn converted(mut self, change: &Change) -> Result<KeyRows, String> {
        let (words, row_words, extras) = change.to().sizes();
        let size = |size: usize| u16::try_from(size).map_err(|_| "more aggregates than it can keep".to_owned());
        let (stride, count) = (self.stride(), usize::from(self.shape.extras));
        let mut rows = Vec::with_capacity(self.row_count() * (ROW_HEAD + row_words));
        for row in self.rows.chunks_exact(stride) {
            rows.extend_from_slice(&row[..ROW_HEAD]);
            rows.extend(change.row(&row[ROW_HEAD..])?);
        }
        let all = self.row_count();
        let mut given = self.more.as_mut().map(|more| std::mem::take(&mut more.extras)).unwrap_or_default();
        given.resize(all * count, None);
        let mut kept = Vec::with_capacity(all * extras);
        for row in 0..all {
            kept.extend(change.extras(&given[row * count..(row + 1) * count])?);
        }
        if !kept.is_empty() || self.more.is_some() {
            self.more.get_or_insert_default().extras = kept;
        }
        self.rows = rows;
        self.shape = Shape { words: size(words)?, row_words: size(row_words)?, extras: size(extras)? };
        Ok(self)
    }
}

impl SlotState for KeyRows {
    fn encode(&self, out: &mut Vec<u8>) {
        let none = More::default();
        let more = self.more.as_deref().unwrap_or(&none);
        let extras = usize::from(self.shape.extras);
        out.push(FORMAT);
        for size in [self.shape.words, self.shape.row_words, self.shape.extras] {
            put(size.into(), out);
        }
        out.push(self.last.is_some().into());
        if let Some(last) = self.last {
            [last.greatest_ns as u64, last.time_ns as u64, last.anchor, last.disorder_ns as u64]
                .into_iter()
                .for_each(|word| put(word, out));
        }
        put(more.lag.len() as u64, out);
        for lag in &more.lag {
            put_bytes(lag, out);
        }
        put(more.pending.len() as u64, out);
        for ((time_ns, position), row) in &more.pending {
            [*time_ns as u64, position.origin, position.offset].into_iter().for_each(|word| put(word, out));
            put_bytes(&position.suffix, out);
            row.encode(out);
        }
        let expired = self.expired as usize;
        put((self.row_count() - expired) as u64, out);
        self.rows[expired * self.stride()..].iter().for_each(|word| put(*word, out));
        for extra in &more.extras[(expired * extras).min(more.extras.len())..] {
            put_optional(extra.as_deref(), out);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Bytes::of_format(bytes, FORMAT, "rolling")?;
        let mut size = || u16::try_from(reader.number()?).map_err(|_| "rolling state with too large parts".to_owned());
        let mut key = KeyRows::new(Shape { words: size()?, row_words: size()?, extras: size()? });
        if reader.byte()? == 1 {
            let (greatest_ns, time_ns) = (reader.number()? as i64, reader.number()? as i64);
            let (anchor, disorder_ns) = (reader.number()?, reader.number()? as i64);
            key.last = Some(Last { greatest_ns, time_ns, anchor, disorder_ns });
        }
        let mut more = More::default();
        for _ in 0..reader.number()? {
            more.lag.push(reader.bytes()?.into());
        }
        for _ in 0..reader.number()? {
            let (time_ns, origin, offset) = (reader.number()? as i64, reader.number()?, reader.number()?);
            let suffix = reader.bytes()?.into();
            more.pending.insert((time_ns, RowPosition { origin, offset, suffix }), Pending::decode(&mut reader)?);
        }
        let rows = reader.number()?;
        key.dormant = rows > 1;
        for _ in 0..rows {
            for _ in 0..key.stride() {
                key.rows.push(reader.number()?);
            }
        }
        for _ in 0..rows * u64::from(key.shape.extras) {
            more.extras.push(reader.optional()?);
        }
        if !more.lag.is_empty() || !more.extras.is_empty() || !more.pending.is_empty() {
            key.more = Some(Box::new(more));
        }
        reader.end()?;
        Ok(key)
    }

    fn heap_bytes(&self) -> usize {
        let more = self.more.as_ref().map_or(0, |more| {
            let extras: usize = more.extras.iter().flatten().map(|extra| extra.len()).sum();
            let lag: usize = more.lag.iter().map(|lag| lag.len()).sum();
            let pending: usize =
                more.pending.iter().map(|((_, position), row)| position.suffix.len() + row.bytes()).sum();
            pending + size_of::<More>() + more.extras.capacity() * size_of::<Option<Box<[u8]>>>() + extras + lag
        });
        (self.rows.capacity() + self.nodes.capacity()) * 8 + self.spine.capacity() * size_of::<Open>() + more
    }
}
