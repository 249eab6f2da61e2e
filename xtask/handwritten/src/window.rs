//! Bids by auction in windows of ten seconds, by hand. The rows are known to come in the order of their times, so one map is
//! enough; a row of another window puts the one before out.

use crate::{Error, json};
use hashbrown::HashMap;
use serde::Deserialize;
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
            json::integer(out, b"{\"auction\":", auction);
            json::integer(out, b",\"window_end\":", self.end_ms);
            json::integer(out, b",\"n\":", n);
            json::integer(out, b",\"total\":", total);
            out.extend_from_slice(b"}\n");
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
}
