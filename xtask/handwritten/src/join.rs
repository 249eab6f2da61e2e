//! Bids that meet earlier bids on the same auction, by hand. The rows are known to come in the order of their times, so what is
//! too old stands at the front.

use crate::{Error, json};
use hashbrown::HashMap;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::VecDeque;

const BEFORE_MS: i64 = 30_000;

/// Time and price of rows of an auction that may still meet others: of the left side and of the right.
#[derive(Default)]
struct Auction {
    left: VecDeque<(i64, i64)>,
    right: VecDeque<(i64, i64)>,
}

/// `SELECT l.auction, l.price, r.price AS before, l.date_time - r.date_time AS apart` of bids `l` of every fourth bidder and bids
/// `r` by Apple on the same auction, up to half a minute earlier.
pub(crate) fn join(file: &str) -> Result<(), Error> {
    let mut auctions: HashMap<i64, Auction> = HashMap::new();
    json::run(file, |line, out| {
        #[derive(Deserialize)]
        struct Bid<'a> {
            auction: i64,
            bidder: i64,
            price: i64,
            #[serde(borrow)]
            channel: Cow<'a, str>,
            date_time: i64,
        }
        let bid: Bid<'_> = sonic_rs::from_slice(line)?;
        let (is_left, is_right) = (bid.bidder % 4 == 0, bid.channel == "Apple");
        if !is_left && !is_right {
            return Ok(());
        }
        let auction = auctions.entry(bid.auction).or_default();
        while auction.left.front().is_some_and(|(at, _)| *at < bid.date_time) {
            auction.left.pop_front();
        }
        while auction.right.front().is_some_and(|(at, _)| *at < bid.date_time - BEFORE_MS) {
            auction.right.pop_front();
        }
        if is_right {
            // A left row of the same millisecond may have come before.
            auction.left.iter().for_each(|(_, price)| put(out, bid.auction, *price, bid.price, 0));
            auction.right.push_back((bid.date_time, bid.price));
        }
        if is_left {
            let earlier = auction.right.iter();
            earlier.for_each(|(at, price)| put(out, bid.auction, bid.price, *price, bid.date_time - at));
            auction.left.push_back((bid.date_time, bid.price));
        }
        Ok(())
    })
}

fn put(out: &mut Vec<u8>, auction: i64, price: i64, before: i64, apart: i64) {
    json::integer(out, b"{\"auction\":", auction);
    json::integer(out, b",\"price\":", price);
    json::integer(out, b",\"before\":", before);
    json::integer(out, b",\"apart\":", apart);
    out.extend_from_slice(b"}\n");
}
