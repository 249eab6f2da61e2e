//! Bids on an auction, after the Nexmark benchmark's, as JSON Lines. The same rows and seed give the same bytes.

use crate::Error;
use std::io::{self, BufWriter, Write};

/// The event time of the first bid: 2023-11-14T22:13:20Z in ms.
const START_MS: u64 = 1_700_000_000_000;

/// Writes `rows` bids to standard output.
pub(crate) fn write(rows: u64, seed: u64) -> Result<(), Error> {
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let mut generator = Generator::new(seed);
    let mut line = Vec::new();
    for row in 0..rows {
        line.clear();
        generator.bid(row, &mut line)?;
        line.push(b'\n');
        out.write_all(&line)?;
    }
    out.flush()?;
    Ok(())
}

/// A stream of bids.
pub(crate) struct Generator {
    state: u64,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Generator { state: seed }
    }

    /// SplitMix64: the next of a well-mixed sequence that the seed decides.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Appends bid number `row` as a JSON object, without a line end.
    pub(crate) fn bid(&mut self, row: u64, out: &mut Vec<u8>) -> io::Result<()> {
        let auction = 1_000 + self.next() % 100_000;
        let bidder = 1_000 + self.next() % 50_000;
        // Many low prices and a few high ones.
        let price = 100 + (self.next() % 10_000) * (1 + self.next() % 10_000) / (1 + self.next() % 100);
        let channel =
            ["Google", "Facebook", "Baidu", "Apple", "channel-1087", "channel-4410"][(self.next() % 6) as usize];
        let item = self.next();
        let date_time = START_MS + row / 10;
        write!(
            out,
            "{{\"auction\":{auction},\"bidder\":{bidder},\"price\":{price},\"channel\":\"{channel}\",\"url\":\
             \"https://www.nexmark.example/{:05x}/{:05x}/item.htm?query=1&channel_id={}&visit={:08x}\",\
             \"date_time\":{date_time}}}",
            item & 0xf_ffff,
            (item >> 20) & 0xf_ffff,
            item >> 36,
            item as u32,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bids_repeat_and_are_about_200_bytes() {
        let make = |seed| {
            let (mut generator, mut out) = (Generator::new(seed), Vec::new());
            (0..1000).try_for_each(|row| generator.bid(row, &mut out)).unwrap();
            out
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        let mean = make(1).len() / 1000;
        assert!((190..=210).contains(&mean), "{mean}");
    }
}
