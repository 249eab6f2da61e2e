//! What each query of Nexmark comes to, by its SQL (`queries/q*.sql` of github.com/nexmark/nexmark), as plain loops.
//!
//! Where SQL leaves open which of several equal rows is the first, the language does not: the one with the lesser columns.
//! Words differ from the SQL in the names of columns and in the names of states, which the generator writes in small letters.

use super::{Events, auction, bid};
use nexmark::event::{Auction, Bid};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn q0(events: &Events) -> Vec<Value> {
    let row = |b: &Bid| json!({ "auction": b.auction, "bidder": b.bidder, "price": b.price, "date_time": b.date_time, "extra": b.extra });
    events.bids.iter().map(row).collect()
}

/// `0.908 * price`, a decimal of three places: the nearest float, which is told apart from its neighbours in the comparison.
fn in_euros(price: usize) -> f64 {
    (908 * price) as f64 / 1000.0
}

pub(super) fn q1(events: &Events) -> Vec<Value> {
    let mut rows = q0(events);
    for (row, bid) in rows.iter_mut().zip(&events.bids) {
        row["price"] = in_euros(bid.price).into();
    }
    rows
}

pub(super) fn q2(events: &Events) -> Vec<Value> {
    let some = events.bids.iter().filter(|b| b.auction % 123 == 0);
    some.map(|b| json!({ "auction": b.auction, "price": b.price })).collect()
}

pub(super) fn q3(events: &Events) -> Vec<Value> {
    let mut rows = Vec::new();
    for a in &events.auctions {
        for p in &events.persons {
            if a.seller == p.id && a.category == 10 && (p.state == "or" || p.state == "id" || p.state == "ca") {
                rows.push(json!({ "name": p.name, "city": p.city, "state": p.state, "id": a.id }));
            }
        }
    }
    rows
}

/// The bids on each auction while it was open, of auctions that had any.
fn in_time(events: &Events) -> Vec<(&Auction, Vec<&Bid>)> {
    let bids = |a: &Auction| -> Vec<&Bid> {
        let on_it = |b: &&Bid| b.auction == a.id && a.date_time <= b.date_time && b.date_time <= a.expires;
        events.bids.iter().filter(on_it).collect()
    };
    events.auctions.iter().map(|a| (a, bids(a))).filter(|(_, bids)| !bids.is_empty()).collect()
}

fn average(values: &[usize]) -> f64 {
    values.iter().sum::<usize>() as f64 / values.len() as f64
}

pub(super) fn q4(events: &Events) -> Vec<Value> {
    let mut finals: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (a, bids) in in_time(events) {
        finals.entry(a.category).or_default().extend(bids.iter().map(|b| b.price).max());
    }
    finals.iter().map(|(category, finals)| json!({ "id": category, "final": average(finals) })).collect()
}

pub(super) fn q5(events: &Events) -> Vec<Value> {
    let (size, every) = (10_000, 2_000);
    let mut counts: BTreeMap<u64, BTreeMap<usize, u64>> = BTreeMap::new();
    for b in &events.bids {
        let mut start = b.date_time / every * every;
        while start + size > b.date_time {
            *counts.entry(start).or_default().entry(b.auction).or_default() += 1;
            start -= every;
        }
    }
    let mut rows = Vec::new();
    for of_window in counts.values() {
        let most = of_window.values().max().expect("a window has bids");
        let hot = of_window.iter().filter(|(_, num)| *num >= most);
        rows.extend(hot.map(|(auction, num)| json!({ "auction": auction, "num": num })));
    }
    rows
}

/// The columns of a bid, by which the first of equal rows is told.
fn columns(b: &Bid) -> (usize, usize, usize, &str, &str, u64, &str) {
    (b.auction, b.bidder, b.price, &b.channel, &b.url, b.date_time, &b.extra)
}

/// The highest bid on each auction while it was open, the first of equal ones.
fn winning(events: &Events) -> Vec<(&Auction, &Bid)> {
    let mut winning = Vec::new();
    for (a, mut bids) in in_time(events) {
        bids.sort_by(|a, b| {
            b.price.cmp(&a.price).then(a.date_time.cmp(&b.date_time)).then(columns(a).cmp(&columns(b)))
        });
        winning.push((a, bids[0]));
    }
    winning
}

/// The average of the last ten of each seller, by the time of the winning bid; not one row for each auction.
pub(super) fn q6(events: &Events) -> Vec<Value> {
    let mut of_seller: BTreeMap<usize, Vec<(u64, usize, usize)>> = BTreeMap::new();
    for (a, b) in winning(events) {
        of_seller.entry(a.seller).or_default().push((b.date_time, a.id, b.price));
    }
    let mut rows = Vec::new();
    for (seller, mut sold) in of_seller {
        sold.sort_unstable();
        let last: Vec<usize> = sold.iter().rev().take(10).map(|(_, _, price)| *price).collect();
        rows.push(json!({ "seller": seller, "avg_price": average(&last) }));
    }
    rows
}

/// The windows of the SQL end with the bid that the next one begins with (`BETWEEN`); here a bid is in one window.
pub(super) fn q7(events: &Events) -> Vec<Value> {
    let mut most: BTreeMap<u64, usize> = BTreeMap::new();
    for b in &events.bids {
        let price = most.entry(b.date_time / 10_000 * 10_000 + 10_000).or_default();
        *price = b.price.max(*price);
    }
    let mut rows = Vec::new();
    for b in &events.bids {
        for (end, price) in &most {
            if b.price == *price && end - 10_000 <= b.date_time && b.date_time < *end {
                rows.push(json!({
                    "auction": b.auction, "price": b.price, "bidder": b.bidder, "date_time": b.date_time, "extra": b.extra,
                }));
            }
        }
    }
    rows
}

pub(super) fn q8(events: &Events) -> Vec<Value> {
    let start = |ms: u64| ms / 10_000 * 10_000;
    let persons: BTreeSet<_> = events.persons.iter().map(|p| (p.id, &p.name, start(p.date_time))).collect();
    let sellers: BTreeSet<_> = events.auctions.iter().map(|a| (a.seller, start(a.date_time))).collect();
    let mut rows = Vec::new();
    for (id, name, starttime) in persons {
        if sellers.contains(&(id, starttime)) {
            rows.push(json!({ "id": id, "name": name, "starttime": starttime }));
        }
    }
    rows
}

pub(super) fn q9(events: &Events) -> Vec<Value> {
    let row = |(a, b): (&Auction, &Bid)| {
        let mut row = auction(a);
        row["auction"] = b.auction.into();
        row["bidder"] = b.bidder.into();
        row["price"] = b.price.into();
        row["bid_date_time"] = b.date_time.into();
        row["bid_extra"] = b.extra.clone().into();
        row
    };
    winning(events).into_iter().map(row).collect()
}

/// The first day of the generator, and the day after it.
fn day(ms: u64) -> &'static str {
    match ms / 86_400_000 {
        16_631 => "2015-07-15",
        16_632 => "2015-07-16",
        other => panic!("day {other} is not expected"),
    }
}

fn hour(ms: u64) -> u64 {
    ms / 3_600_000 % 24
}

fn minute(ms: u64) -> String {
    format!("{:02}:{:02}", hour(ms), ms / 60_000 % 60)
}

pub(super) fn q10(events: &Events) -> Vec<Value> {
    let mut rows = q0(events);
    for (row, b) in rows.iter_mut().zip(&events.bids) {
        row["dt"] = day(b.date_time).into();
        row["hm"] = minute(b.date_time).into();
    }
    rows
}

pub(super) fn q11(events: &Events) -> Vec<Value> {
    let gap = 10_000;
    let mut times: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for b in &events.bids {
        times.entry(b.bidder).or_default().push(b.date_time);
    }
    let mut rows = Vec::new();
    for (bidder, times) in times {
        let mut sessions: Vec<(u64, u64, u64)> = Vec::new();
        for time in times {
            match sessions.last_mut() {
                Some((count, _, last)) if time - *last < gap => {
                    *count += 1;
                    *last = time;
                }
                _ => sessions.push((1, time, time)),
            }
        }
        rows.extend(sessions.iter().map(|(count, first, last)| {
            json!({ "bidder": bidder, "bid_count": count, "starttime": first, "endtime": last + gap })
        }));
    }
    rows
}

/// The side input has a row for each remainder.
pub(super) fn q13(events: &Events) -> Vec<Value> {
    let row = |b: &Bid| {
        json!({
            "auction": b.auction, "bidder": b.bidder, "price": b.price, "date_time": b.date_time,
            "value": format!("value-{}", b.auction % 10_000),
        })
    };
    events.bids.iter().map(row).collect()
}

pub(super) fn q14(events: &Events) -> Vec<Value> {
    let mut rows = Vec::new();
    for b in &events.bids {
        let price = in_euros(b.price);
        if price > 1_000_000.0 && price < 50_000_000.0 {
            let hour = hour(b.date_time);
            let bid_time_type = if (8..=18).contains(&hour) {
                "dayTime"
            } else if hour <= 6 || hour >= 20 {
                "nightTime"
            } else {
                "otherTime"
            };
            rows.push(json!({
                "auction": b.auction, "bidder": b.bidder, "price": price, "bid_time_type": bid_time_type,
                "date_time": b.date_time, "extra": b.extra, "c_counts": b.extra.chars().filter(|c| *c == 'c').count(),
            }));
        }
    }
    rows
}

/// All bids, then those of the three ranks.
fn ranks<'b>(bids: &[&'b Bid]) -> [Vec<&'b Bid>; 4] {
    let of = |rank: &dyn Fn(usize) -> bool| bids.iter().copied().filter(|b| rank(b.price)).collect();
    [
        of(&|_| true),
        of(&|price| price < 10_000),
        of(&|price| (10_000..1_000_000).contains(&price)),
        of(&|price| price >= 1_000_000),
    ]
}

const RANKS: [&str; 4] = ["total", "rank1", "rank2", "rank3"];

/// The counts of `q15` and `q16`.
fn statistics(row: &mut Value, bids: &[&Bid]) {
    for (rank, bids) in RANKS.iter().zip(ranks(bids)) {
        let bidders: BTreeSet<usize> = bids.iter().map(|b| b.bidder).collect();
        let auctions: BTreeSet<usize> = bids.iter().map(|b| b.auction).collect();
        row[format!("{rank}_bids")] = bids.len().into();
        row[format!("{rank}_bidders")] = bidders.len().into();
        row[format!("{rank}_auctions")] = auctions.len().into();
    }
}

fn grouped<K: Ord>(events: &Events, key: impl Fn(&Bid) -> K) -> BTreeMap<K, Vec<&Bid>> {
    let mut groups: BTreeMap<K, Vec<&Bid>> = BTreeMap::new();
    for b in &events.bids {
        groups.entry(key(b)).or_default().push(b);
    }
    groups
}

pub(super) fn q15(events: &Events) -> Vec<Value> {
    let mut rows = Vec::new();
    for (day, bids) in grouped(events, |b| day(b.date_time)) {
        let mut row = json!({ "day": day });
        statistics(&mut row, &bids);
        rows.push(row);
    }
    rows
}

pub(super) fn q16(events: &Events) -> Vec<Value> {
    let mut rows = Vec::new();
    for ((channel, day), bids) in grouped(events, |b| (b.channel.clone(), day(b.date_time))) {
        let minute = bids.iter().map(|b| minute(b.date_time)).max();
        let mut row = json!({ "channel": channel, "day": day, "minute": minute });
        statistics(&mut row, &bids);
        rows.push(row);
    }
    rows
}

pub(super) fn q17(events: &Events) -> Vec<Value> {
    let mut rows = Vec::new();
    for ((auction, day), bids) in grouped(events, |b| (b.auction, day(b.date_time))) {
        let prices: Vec<usize> = bids.iter().map(|b| b.price).collect();
        let mut row = json!({
            "auction": auction, "day": day, "min_price": prices.iter().min(), "max_price": prices.iter().max(),
            "avg_price": average(&prices), "sum_price": prices.iter().sum::<usize>(),
        });
        for (rank, bids) in RANKS.iter().zip(ranks(&bids)) {
            row[format!("{rank}_bids")] = bids.len().into();
        }
        rows.push(row);
    }
    rows
}

pub(super) fn q18(events: &Events) -> Vec<Value> {
    let mut rows = Vec::new();
    for bids in grouped(events, |b| (b.bidder, b.auction)).values() {
        let last = bids.iter().max_by(|a, b| a.date_time.cmp(&b.date_time).then(columns(b).cmp(&columns(a))));
        rows.extend(last.map(|b| bid(b)));
    }
    rows
}

pub(super) fn q19(events: &Events) -> Vec<Value> {
    let mut rows = Vec::new();
    for mut bids in grouped(events, |b| b.auction).into_values() {
        bids.sort_by(|a, b| b.price.cmp(&a.price).then(columns(a).cmp(&columns(b))));
        rows.extend(bids.iter().take(10).map(|b| bid(b)));
    }
    rows
}

pub(super) fn q20(events: &Events) -> Vec<Value> {
    let mut rows = Vec::new();
    for b in &events.bids {
        for a in &events.auctions {
            if b.auction == a.id && a.category == 10 {
                let Value::Object(mut row) = auction(a) else { panic!("an auction is an object") };
                row.remove("id");
                for (column, value) in [
                    ("auction", json!(b.auction)),
                    ("bidder", json!(b.bidder)),
                    ("price", json!(b.price)),
                    ("channel", json!(b.channel)),
                    ("url", json!(b.url)),
                    ("bid_date_time", json!(b.date_time)),
                    ("bid_extra", json!(b.extra)),
                ] {
                    row.insert(column.to_owned(), value);
                }
                rows.push(Value::Object(row));
            }
        }
    }
    rows
}

pub(super) fn q21(events: &Events) -> Vec<Value> {
    let mut rows = Vec::new();
    for b in &events.bids {
        // What stands behind `channel_id=`, at the beginning of the text or after an ampersand, up to the next one.
        let of_url = b.url.split('&').find_map(|part| part.strip_prefix("channel_id="));
        let channel_id = match b.channel.to_lowercase().as_str() {
            "apple" => Some("0"),
            "google" => Some("1"),
            "facebook" => Some("2"),
            "baidu" => Some("3"),
            _ => of_url,
        };
        if let Some(channel_id) = channel_id {
            rows.push(json!({
                "auction": b.auction, "bidder": b.bidder, "price": b.price, "channel": b.channel, "channel_id": channel_id,
            }));
        }
    }
    rows
}

pub(super) fn q22(events: &Events) -> Vec<Value> {
    let mut rows = Vec::new();
    for b in &events.bids {
        let parts: Vec<&str> = b.url.split('/').collect();
        rows.push(json!({
            "auction": b.auction, "bidder": b.bidder, "price": b.price, "channel": b.channel,
            "dir1": parts[3], "dir2": parts[4], "dir3": parts[5],
        }));
    }
    rows
}
