//! E0451 to E0499: connections, brokers and receivers.

use super::CodeInfo;
use crate::diagnostic::Code;

/// Not the address of a broker.
pub const BAD_BROKERS: Code = Code("E0451");
/// Security keys that don't go together.
pub const SECURITY: Code = Code("E0452");
/// A password stands in the file.
pub const PASSWORD_IN_FILE: Code = Code("E0453");
/// A file of a certificate or key can't be used.
pub const TLS_FILE: Code = Code("E0454");
/// An option that librdkafka does not have, or not with this value.
pub const BAD_OPTION: Code = Code("E0455");
/// An option that the engine sets itself.
pub const RESERVED_OPTION: Code = Code("E0456");
/// Not a topic.
pub const BAD_TOPIC: Code = Code("E0457");
/// Not a place to start at in a topic.
pub const BAD_TOPIC_START: Code = Code("E0458");
/// Not a URL that can be sent to.
pub const BAD_URL: Code = Code("E0459");
/// Not a header.
pub const BAD_HEADER: Code = Code("E0460");
/// A value that must be there may be null.
pub const MAY_BE_NULL: Code = Code("E0461");
/// An idempotency key that changes when a row is sent again.
pub const UNSTABLE_KEY: Code = Code("E0462");
/// A value that can't be written as a key, a header or a topic.
pub const NOT_TEXT: Code = Code("E0463");
/// An idempotency key and batches.
pub const KEY_AND_BATCH: Code = Code("E0464");
/// A format that a system can't carry.
pub const FORMAT_NOT_CARRIED: Code = Code("E0465");

/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: BAD_BROKERS,
        title: "not the address of a broker",
        explanation: "\
`brokers:` is a list of addresses, `host:port`, or one text of them with commas between. One broker that can be reached is
enough to find the others.

    connections:
      bank: { type: kafka, brokers: \"kafka://127.0.0.1\" }

Write `brokers: \"127.0.0.1:9092\"`. Whether TLS or SASL is spoken is said under `security:`, not in the address.",
    },
    CodeInfo {
        code: SECURITY,
        title: "security keys that don't go together",
        explanation: "\
`security.protocol` says what is spoken with the brokers: `PLAINTEXT`, `SSL` (TLS), `SASL_PLAINTEXT` or `SASL_SSL`. With SASL
there must be `sasl:` with `mechanism`, `username` and `password`; without it there must not be. Keys under `tls:` need a
protocol with TLS, and a `certificate` of our own needs its `key`.

    connections:
      bank:
        type: kafka
        brokers: \"kafka:9093\"
        security:
          protocol: SASL_SSL
          sasl: { mechanism: SCRAM-SHA-512, username: fraud, password: \"${secret:KAFKA_PASSWORD}\" }
          tls: { ca: certs/ca.pem }",
    },
    CodeInfo {
        code: PASSWORD_IN_FILE,
        title: "password in the file",
        explanation: "\
A password, token or key stands in the pipeline file, where everybody sees it who sees the file.

    sasl: { mechanism: PLAIN, username: fraud, password: letmein }

Write `password: \"${secret:KAFKA_PASSWORD}\"` and set the secret where the engine runs. A secret is never shown in logs, plans or
diagnostics.",
    },
    CodeInfo {
        code: TLS_FILE,
        title: "file of a certificate or key that can't be used",
        explanation: "\
A file under `tls:` can't be read, or is not PEM: text with a line such as `-----BEGIN CERTIFICATE-----`. Paths are relative to
the file that names them.

    tls: { ca: certs/missing.pem }

A Java key store (`.jks`, `.p12`) must be converted to PEM, with `keytool` and `openssl pkcs12`.",
    },
    CodeInfo {
        code: BAD_OPTION,
        title: "unknown option of librdkafka",
        explanation: "\
`options:` of a `kafka` connection are properties of librdkafka, passed on as they are. One of them does not exist, or does not
take this value.

    options: { socket.keepalive: true }

The properties are listed in librdkafka's CONFIGURATION.md; this one is `socket.keepalive.enable`. Names from Java clients are
often different.",
    },
    CodeInfo {
        code: RESERVED_OPTION,
        title: "option that the engine sets itself",
        explanation: "\
Some properties of librdkafka carry the guarantees of the engine, and others have keys of their own: where to start, what is
committed, acknowledgements, idempotence, security. They can't be set under `options:`.

    options: { enable.auto.commit: true }

Leave it out, or use the key that the message names.",
    },
    CodeInfo {
        code: BAD_TOPIC,
        title: "not a topic",
        explanation: "\
A topic's name has letters, digits, `.`, `_` and `-`, and at most 249 of them. A source may read a list of topics of one schema,
each named once.

    sources:
      orders: { type: kafka, connection: bank, topic: \"orders,returns\", schema: order.yaml }

Write `topic: [orders, returns]`. A sink may choose the topic by row: `topic: { expression: \"concat('audit.', tenant)\" }`.",
    },
    CodeInfo {
        code: BAD_TOPIC_START,
        title: "not a place to start at in a topic",
        explanation: "\
`start:` of a `kafka` source is `earliest`, `latest`, `committed` (where the `group` stands), a time (the first record at or after
it), or an offset for each partition.

    start: \"2026-01-01T00:00:00Z\"
    start: { \"0\": 1500, \"1\": 1710 }

It counts when there is no state to go on from. `committed` needs a `group`, and offsets need a single topic.",
    },
    CodeInfo {
        code: BAD_URL,
        title: "not a URL that can be sent to",
        explanation: "\
A webhook's `url` begins with `http://` or `https://` and names a host.

    sinks:
      alerts: { type: webhook, input: risky, url: \"127.0.0.1:9900/alert\" }

Write `url: \"http://127.0.0.1:9900/alert\"`.",
    },
    CodeInfo {
        code: BAD_HEADER,
        title: "not a header",
        explanation: "\
The name of an HTTP header has letters, digits and a few signs such as `-`, and its value no line ends. Some headers are set by the
engine itself: `Content-Length`, `Transfer-Encoding`, `Connection`, `Host`, and `Idempotency-Key` from the key `idempotency_key`.

    headers: { \"X Token\": \"${secret:TOKEN}\" }

Write `X-Token`.",
    },
    CodeInfo {
        code: MAY_BE_NULL,
        title: "value that must be there may be null",
        explanation: "\
An `idempotency_key` and a topic chosen by row must be there for every row, and the type of this expression says that it may be
null.

    idempotency_key: concat(card, note)       # note: string | null

Use columns that can't be null, keep rows without them away (`where: note IS NOT NULL`), or give them a value:
`coalesce(note, '')`.",
    },
    CodeInfo {
        code: UNSTABLE_KEY,
        title: "idempotency key that changes when a row is sent again",
        explanation: "\
A receiver tells by the `Idempotency-Key` that it has a row already. After a restart rows may be read and sent again, and a key made
of `now()` or of random values would be another one then.

    idempotency_key: concat(card, now())

Make it of what identifies the event: `concat(card, ':', tx_id)`.",
    },
    CodeInfo {
        code: NOT_TEXT,
        title: "value that can't be a key, a header or a topic",
        explanation: "\
Keys, headers and topics are text. Numbers, truth values, dates and times are written as text; a list, a map or a struct is not.

    key: tags                                  # tags: list<string>

Make a text of it: `key: array_to_string(tags, ',')`.",
    },
    CodeInfo {
        code: KEY_AND_BATCH,
        title: "idempotency key and batches",
        explanation: "\
An idempotency key is that of a request. With `batch:` a request holds several rows, and after a restart the same rows may come in
other batches, so no key could tell the receiver what it has already.

    sinks:
      alerts: { type: webhook, input: risky, url: \"https://example.com\", idempotency_key: id, batch: { max_rows: 100 } }

Leave out `batch`, or `idempotency_key` and let the receiver tell rows apart by their columns.",
    },
    CodeInfo {
        code: FORMAT_NOT_CARRIED,
        title: "format that a system can't carry",
        explanation: "\
A webhook sends JSON. A message of a broker is one record, so CSV in it has no header.

    sources:
      orders: { type: kafka, connection: bank, topic: orders, format: csv, schema: order.yaml }

Write `format: { type: csv, header: false }`: the columns then stand in the order of the schema.",
    },
];
