//! Every kind that the language names, built or not: an unknown `type:` and one that is not built yet are two things to
//! tell a user. What is built is known by the registries alone.

/// The kinds of source.
pub const SOURCES: &[&str] =
    &["dead_letters", "file", "generate", "http", "kafka", "kinesis", "mqtt", "nats", "postgres", "pubsub", "stdin"];

/// The kinds of operator. `chain`, `template` and `sql` are taken apart before the planner sees them.
pub const OPERATORS: &[&str] = &[
    "aggregate",
    "chain",
    "deduplicate",
    "distinct",
    "drift",
    "enrich",
    "filter",
    "flatten",
    "join",
    "map",
    "nearest",
    "pattern",
    "predict",
    "rolling",
    "route",
    "sql",
    "stateful",
    "template",
    "top",
    "union",
    "window",
];

/// The kinds of sink.
pub const SINKS: &[&str] = &[
    "alert",
    "blackhole",
    "dashboard",
    "dead_letters",
    "file",
    "kafka",
    "kinesis",
    "mqtt",
    "nats",
    "postgres",
    "pubsub",
    "redis",
    "sqlite",
    "stdout",
    "webhook",
];

/// The kinds of connection.
pub const CONNECTIONS: &[&str] =
    &["http", "kafka", "kinesis", "mqtt", "nats", "postgres", "pubsub", "redis", "smtp", "sqlite"];

/// Formats of the language that are not built yet.
pub const FORMATS_NOT_BUILT: &[&str] = &["avro", "protobuf", "parquet", "debezium"];

/// The kinds of model.
pub const MODELS: &[&str] = &["candle", "embedding", "onnx", "remote", "trees"];

/// Operators that put out the rows of their first input, some of them: what reads them can be checked even where the
/// operator itself is wrong.
pub const PASSES_ROWS: &[&str] = &["deduplicate", "filter", "union"];

/// Operators that take changelogs; all others take rows that stay.
pub const TAKES_CHANGELOGS: &[&str] = &["aggregate", "distinct", "enrich", "filter", "join", "map", "route", "top"];

/// Words that people bring from elsewhere, and the kind that does it here.
pub const ELSEWHERE: &[(&str, &str)] = &[
    ("project", "map"),
    ("select", "map"),
    ("derive", "map"),
    ("transform", "map"),
    ("remap", "map"),
    ("rename", "map"),
    ("where", "filter"),
    ("switch", "route"),
    ("split", "route"),
    ("branch", "route"),
    ("explode", "flatten"),
    ("unnest", "flatten"),
    ("flat_map", "flatten"),
    ("merge", "union"),
    ("concat", "union"),
    ("group_by", "aggregate"),
    ("reduce", "aggregate"),
    ("tumble", "window"),
    ("sliding", "window"),
    ("hop", "window"),
    ("session", "window"),
    ("over", "rolling"),
    ("dedupe", "deduplicate"),
    ("dedup", "deduplicate"),
    ("lookup", "enrich"),
    ("score", "predict"),
    ("infer", "predict"),
    ("inference", "predict"),
    ("model", "predict"),
    ("console", "stdout"),
    ("print", "stdout"),
    ("null", "blackhole"),
    ("discard", "blackhole"),
    ("http", "webhook"),
    ("slack", "alert"),
    ("pagerduty", "alert"),
    ("email", "alert"),
    ("demo_logs", "generate"),
    ("fake", "generate"),
    ("datagen", "generate"),
    ("random", "generate"),
];

/// Keys of components that the language names and that are not built yet, whatever the kind.
pub(crate) const KEYS_NOT_BUILT: &[(&str, &str)] = &[
    ("changelog", "every source is a stream of rows that stay; leave this out"),
    ("expire_after", "leave it out: a step keeps what it looks back on"),
    ("on_error", "leave it out: a fault of this system stops the pipeline, and its rows come again after a restart"),
    ("lookup", "read the table with a source, and name it in `table`"),
    ("bootstrap", "leave it out: a source starts where `start` says, and no history is read first"),
    ("partition_by", "leave it out: all rows go to one file"),
    ("roll", "leave it out: all rows go to one file"),
];
