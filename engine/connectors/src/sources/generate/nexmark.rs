//! The events of the Nexmark benchmark, as rows: persons, their auctions, and bids.
//!
//! What an event is made of is left to the `nexmark` crate, in which event number n is a function of n alone. Here its events
//! get columns. Nothing goes by the clock: the first event is of the time that the benchmark's first implementation gave it.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringBuilder, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Event, EventType};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// 2015-07-15T00:00:00Z, in milliseconds.
const FIRST_MS: u64 = 1_436_918_400_000;
/// Events come in rounds of a person, three auctions and 46 bids.
const ROUND: usize = 50;

/// Events of the Nexmark benchmark.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nexmark {
    /// Which of the events. Sources of the three kinds with the same seed are parts of one stream.
    pub(super) events: Kind,
    /// How many events of all kinds there are in a second of event time; of 50, 46 are bids, three auctions, one a person.
    #[serde(default = "per_second")]
    pub(super) per_second: usize,
}

fn per_second() -> usize {
    10_000
}

/// What `per_second` may be. The crate counts microseconds between events in floats.
pub(super) const PER_SECOND: std::ops::RangeInclusive<usize> = 1..=10_000_000;

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// People who join.
    Person,
    /// What they sell.
    Auction,
    /// What others offer for it.
    Bid,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Person => "person",
            Kind::Auction => "auction",
            Kind::Bid => "bid",
        }
    }

    fn of_crate(self) -> EventType {
        match self {
            Kind::Person => EventType::Person,
            Kind::Auction => EventType::Auction,
            Kind::Bid => EventType::Bid,
        }
    }

    /// The columns of its rows.
    pub(super) fn schema(self) -> SchemaRef {
        let (integer, text) = (DataType::Int64, DataType::Utf8);
        let time = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        let columns: &[(&str, &DataType)] = match self {
            Kind::Person => &[
                ("id", &integer),
                ("name", &text),
                ("email_address", &text),
                ("credit_card", &text),
                ("city", &text),
                ("state", &text),
                ("date_time", &time),
                ("extra", &text),
            ],
            Kind::Auction => &[
                ("id", &integer),
                ("item_name", &text),
                ("description", &text),
                ("initial_bid", &integer),
                ("reserve", &integer),
                ("date_time", &time),
                ("expires", &time),
                ("seller", &integer),
                ("category", &integer),
                ("extra", &text),
            ],
            Kind::Bid => &[
                ("auction", &integer),
                ("bidder", &integer),
                ("price", &integer),
                ("channel", &text),
                ("url", &text),
                ("date_time", &time),
                ("extra", &text),
            ],
        };
        let fields = columns.iter().map(|(name, data_type)| Field::new(*name, (*data_type).clone(), false));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

/// Makes the rows of one kind.
pub(super) struct NexmarkRows {
    events: EventGenerator,
    places: Vec<usize>,
    schema: SchemaRef,
}

impl NexmarkRows {
    /// Rows with these columns. A seed of 0 is the stream from its beginning, another one a stretch from far behind in it.
    pub(super) fn new(nexmark: Nexmark, seed: u64, columns: SchemaRef) -> Result<Self, String> {
        let all = nexmark.events.schema();
        let place = |field: &Arc<Field>| all.index_of(field.name()).map_err(|error| error.to_string());
        let places = columns.fields().iter().map(place).collect::<Result<_, _>>()?;
        // The crate seeds each event with its number.
        let skipped = if seed == 0 { 0 } else { (super::mix(seed, 0) >> 34) as usize * ROUND };
        let config = NexmarkConfig {
            base_time: FIRST_MS,
            first_rate: nexmark.per_second,
            next_rate: nexmark.per_second,
            first_event_id: skipped,
            ..NexmarkConfig::default()
        };
        let events = EventGenerator::new(config).with_type_filter(nexmark.events.of_crate());
        Ok(NexmarkRows { events, places, schema: columns })
    }

    /// So many rows from number `first` on, counted from zero.
    pub(super) fn make(&mut self, first: u64, count: usize) -> Result<RecordBatch, ArrowError> {
        let mut events = self.events.clone().with_offset(first);
        let events: Vec<Event> = events.by_ref().take(count).collect();
        let columns = self.places.iter().map(|place| column(&events, *place)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
    }
}

/// The value of a column.
enum Value<'e> {
    Integer(usize),
    Text(&'e str),
    TimeMs(u64),
}

/// The column at this place of the kind's schema.
fn column(events: &[Event], place: usize) -> ArrayRef {
    let time_ns = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    match events.first().map(|event| value(event, place)) {
        Some(Value::Integer(_)) | None => {
            let values = events.iter().map(|event| match value(event, place) {
                Value::Integer(value) => value as i64,
                _ => 0,
            });
            Arc::new(Int64Array::from_iter_values(values))
        }
        Some(Value::TimeMs(_)) => {
            let values = events.iter().map(|event| match value(event, place) {
                Value::TimeMs(ms) => time_ns(ms),
                _ => 0,
            });
            Arc::new(TimestampNanosecondArray::from_iter_values(values).with_timezone("UTC"))
        }
        Some(Value::Text(_)) => {
            let texts = || {
                events.iter().map(|event| match value(event, place) {
                    Value::Text(text) => text,
                    _ => "",
                })
            };
            let mut column = StringBuilder::with_capacity(events.len(), texts().map(str::len).sum());
            texts().for_each(|text| column.append_value(text));
            Arc::new(column.finish())
        }
    }
}

/// The value at a place of the kind's schema: the two stand in one order.
fn value(event: &Event, place: usize) -> Value<'_> {
    use Value::{Integer, Text, TimeMs};
    match event {
        Event::Person(person) => match place {
            0 => Integer(person.id),
            1 => Text(&person.name),
            2 => Text(&person.email_address),
            3 => Text(&person.credit_card),
            4 => Text(&person.city),
            5 => Text(&person.state),
            6 => TimeMs(person.date_time),
            _ => Text(&person.extra),
        },
        Event::Auction(auction) => match place {
            0 => Integer(auction.id),
            1 => Text(&auction.item_name),
            2 => Text(&auction.description),
            3 => Integer(auction.initial_bid),
            4 => Integer(auction.reserve),
            5 => TimeMs(auction.date_time),
            6 => TimeMs(auction.expires),
            7 => Integer(auction.seller),
            8 => Integer(auction.category),
            _ => Text(&auction.extra),
        },
        Event::Bid(bid) => match place {
            0 => Integer(bid.auction),
            1 => Integer(bid.bidder),
            2 => Integer(bid.price),
            3 => Text(&bid.channel),
            4 => Text(&bid.url),
            5 => TimeMs(bid.date_time),
            _ => Text(&bid.extra),
        },
    }
}
