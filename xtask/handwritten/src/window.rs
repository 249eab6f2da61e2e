//! Bids by auction in windows of ten seconds, by hand. The rows are known to come in the order of their times, so one map is
//! enough; a row of another window puts the one before out.

use crate::{Error, json};
use hashbrown::HashMap;
use serde::Deserialize;
use std::collections::VecDeque;
use std::io::{self, Write};

const SIZE_MS: i64 = 10_000;

/// `SELECT auction, window_end, count(*) AS n, sum(price) AS total` by tumbling windows and auction.
pub(crate) fn tumbling(file: &str) -> Result<(), Error> {
    let mut window = Window::default();
    json::run(file, |line, out| window.row(line, out))?;
    let mut out = Vec::new();
    window.close(&mut out);
    Ok(io::stdout().lock().write_all(&out)?)
}

const HOP_MS: i64 = 2_000;
const HOPS: usize = (SIZE_MS / HOP_MS) as usize;

/// The same by windows of ten seconds, one every two, of auctions with more than four bids.
pub(crate) fn hopping(file: &str) -> Result<(), Error> {
    let mut windows = Hopping::default();
    json::run(file, |line, out| windows.row(line, out))?;
    let mut out = Vec::new();
    (0..HOPS).for_each(|_| windows.close(&mut out));
    Ok(io::stdout().lock().write_all(&out)?)
}

/// Of each slice of two seconds its counts and sums, the latest last; windows are put together from them.
#[derive(Default)]
struct Hopping {
    end_ms: i64,
    slices: VecDeque<HashMap<i64, (i64, i64)>>,
    whole: HashMap<i64, (i64, i64)>,
}

impl Hopping {
    fn row(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Bid {
            auction: i64,
            price: i64,
            date_time: i64,
        }
        let bid: Bid = sonic_rs::from_slice(line)?;
        if self.end_ms == 0 {
            self.end_ms = (bid.date_time / HOP_MS + 1) * HOP_MS;
            self.slices.push_back(HashMap::new());
        }
        while bid.date_time >= self.end_ms {
            self.close(out);
        }
        let slice = self.slices.back_mut().ok_or("no slice")?;
        let (n, total) = slice.entry(bid.auction).or_default();
        *n += 1;
        *total = total.checked_add(bid.price).ok_or("a sum does not fit")?;
        Ok(())
    }

    /// Puts out the window that ends with the last slice.
    fn close(&mut self, out: &mut Vec<u8>) {
        self.whole.clear();
        for (auction, (n, total)) in self.slices.iter().flatten() {
            let whole = self.whole.entry(*auction).or_default();
            *whole = (whole.0 + n, whole.1 + total);
        }
        for (auction, (n, total)) in self.whole.iter().filter(|(_, (n, _))| *n > 4) {
            put(out, *auction, self.end_ms, *n, *total);
        }
        if self.slices.len() == HOPS {
            self.slices.pop_front();
        }
        self.slices.push_back(HashMap::new());
        self.end_ms += HOP_MS;
    }
}

fn put(out: &mut Vec<u8>, auction: i64, end_ms: i64, n: i64, total: i64) {
    json::integer(out, b"{\"auction\":", auction);
    json::integer(out, b",\"window_end\":", end_ms);
    json::integer(out, b",\"n\":", n);
    json::integer(out, b",\"total\":", total);
    out.extend_from_slice(b"}\n");
}

#[derive(Default)]
struct Window {
    end_ms: i64,
    auctions: HashMap<i64, (i64, i64)>,
}

impl Window {
    fn row(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Bid {
            auction: i64,
            price: i64,
            date_time: i64,
        }
        let bid: Bid = sonic_rs::from_slice(line)?;
        if bid.date_time >= self.end_ms {
            self.close(out);
            self.end_ms = (bid.date_time / SIZE_MS + 1) * SIZE_MS;
        }
        let (n, total) = self.auctions.entry(bid.auction).or_default();
        *n += 1;
        *total = total.checked_add(bid.price).ok_or("a sum does not fit")?;
        Ok(())
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        for (auction, (n, total)) in self.auctions.drain() {
            put(out, auction, self.end_ms, n, total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_put_out_when_the_next_begins() {
        let mut window = Window::default();
        let mut out = Vec::new();
        for (auction, price, at) in [(1, 5, 9_998), (1, 7, 9_999), (1, 1, 10_000)] {
            let line = format!(r#"{{"auction":{auction},"price":{price},"date_time":{at},"url":"u"}}"#);
            window.row(line.as_bytes(), &mut out).unwrap();
        }
        window.close(&mut out);
        let expected = "{\"auction\":1,\"window_end\":10000,\"n\":2,\"total\":12}\n\
                        {\"auction\":1,\"window_end\":20000,\"n\":1,\"total\":1}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_hopping_window_is_of_five_slices() {
        let mut windows = Hopping::default();
        let mut out = Vec::new();
        for at in [1_000, 3_000, 5_000, 7_000, 9_000, 11_000] {
            let line = format!(r#"{{"auction":1,"price":{at},"date_time":{at}}}"#);
            windows.row(line.as_bytes(), &mut out).unwrap();
        }
        (0..HOPS).for_each(|_| windows.close(&mut out));
        let expected = "{\"auction\":1,\"window_end\":10000,\"n\":5,\"total\":25000}\n\
                        {\"auction\":1,\"window_end\":12000,\"n\":5,\"total\":35000}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
