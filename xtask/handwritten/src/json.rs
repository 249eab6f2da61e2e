//! Queries over JSON Lines of bids: one pass, typed parse, output by hand.

use crate::Error;
use serde::Deserialize;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};

/// Large enough to read seldom, small enough to stay in the processor's cache.
const CHUNK_BYTES: usize = 256 << 10;

/// Reads the file line by line and writes what the query puts out to standard output. A query takes one line and appends
/// what it puts out.
pub(crate) fn run(file: &str, query: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), Error>) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    run_over(File::open(file)?, query, |bytes| stdout.write_all(bytes))
}

fn run_over(
    mut input: impl Read,
    mut query: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), Error>,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Error> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut filled = 0;
    let mut out = Vec::with_capacity(2 * CHUNK_BYTES);
    loop {
        if filled == buffer.len() {
            buffer.resize(2 * buffer.len(), 0); // a line longer than the buffer
        }
        let read = input.read(&mut buffer[filled..])?;
        filled += read;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &buffer[..filled]) {
            query(&buffer[start..end], &mut out)?;
            start = end + 1;
        }
        if read == 0 && start < filled {
            query(&buffer[start..filled], &mut out)?; // a last line without an end
            start = filled;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        if out.len() >= CHUNK_BYTES || read == 0 {
            write(&out)?;
            out.clear();
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// `SELECT auction, price WHERE auction % 123 = 0`
pub(crate) fn filter(line: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Bid {
        auction: i64,
        price: i64,
    }
    let bid: Bid = sonic_rs::from_slice(line)?;
    if bid.auction % 123 == 0 {
        integer(out, b"{\"auction\":", bid.auction);
        integer(out, b",\"price\":", bid.price);
        out.extend_from_slice(b"}\n");
    }
    Ok(())
}

/// `SELECT auction, bidder, 0.908 * price AS price, date_time, channel, url`
pub(crate) fn map(line: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Bid<'a> {
        auction: i64,
        bidder: i64,
        price: i64,
        #[serde(borrow)]
        channel: Cow<'a, str>,
        #[serde(borrow)]
        url: Cow<'a, str>,
        date_time: i64,
    }
    let bid: Bid<'_> = sonic_rs::from_slice(line)?;
    integer(out, b"{\"auction\":", bid.auction);
    integer(out, b",\"bidder\":", bid.bidder);
    out.extend_from_slice(b",\"price\":");
    out.extend_from_slice(zmij::Buffer::new().format(0.908 * bid.price as f64).as_bytes());
    integer(out, b",\"date_time\":", bid.date_time);
    string(out, b",\"channel\":\"", bid.channel)?;
    string(out, b"\",\"url\":\"", bid.url)?;
    out.extend_from_slice(b"\"}\n");
    Ok(())
}

pub(crate) fn integer(out: &mut Vec<u8>, before: &[u8], value: i64) {
    out.extend_from_slice(before);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn string(out: &mut Vec<u8>, before: &[u8], text: Cow<'_, str>) -> Result<(), Error> {
    out.extend_from_slice(before);
    match text {
        // The parser borrows a string only if nothing in it was escaped, so nothing in it needs to be.
        Cow::Borrowed(text) => out.extend_from_slice(text.as_bytes()),
        Cow::Owned(text) => {
            let quoted = sonic_rs::to_string(&text)?;
            out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: fn(&[u8], &mut Vec<u8>) -> Result<(), Error>, input: &str, expected: &str) {
        // In pieces of seven bytes, so that lines are cut everywhere.
        struct Pieces<'a>(&'a [u8]);
        impl Read for Pieces<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = buffer.len().min(7);
                self.0.read(&mut buffer[..length])
            }
        }
        let mut output = Vec::new();
        run_over(Pieces(input.as_bytes()), query, |bytes| output.write_all(bytes)).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    #[test]
    fn queries() {
        let bid = r#"{"auction":246,"bidder":2,"price":1000,"channel":"a \"b\"","url":"http://x","date_time":7}"#;
        let other = bid.replace("246", "247");
        let input = format!("{bid}\n{other}\n{bid}");
        check(filter, &input, "{\"auction\":246,\"price\":1000}\n{\"auction\":246,\"price\":1000}\n");
        let mapped = |auction| {
            format!(
                "{{\"auction\":{auction},\"bidder\":2,\"price\":908.0,\"date_time\":7,\"channel\":\"a \\\"b\\\"\",\
                 \"url\":\"http://x\"}}\n"
            )
        };
        check(map, &input, &[mapped(246), mapped(247), mapped(246)].concat());
        check(map, "", "");
    }

    #[test]
    fn a_long_line_grows_the_buffer() {
        let url = "x".repeat(3 * CHUNK_BYTES);
        let bid = format!(r#"{{"auction":123,"bidder":2,"price":1,"channel":"c","url":"{url}","date_time":7}}"#);
        check(filter, &bid, "{\"auction\":123,\"price\":1}\n");
    }
}
