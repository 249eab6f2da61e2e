//! E07xx: queries, `type: sql`.

use super::CodeInfo;
use crate::diagnostic::Code;

/// A query that can't be read.
pub const QUERY_SYNTAX: Code = Code("E0701");
/// A clause that is not supported.
pub const QUERY_CLAUSE: Code = Code("E0702");
/// A table that is no input, or an input that is no table.
pub const QUERY_TABLE: Code = Code("E0703");
/// What is neither grouped nor aggregated, and windows without their bounds.
pub const QUERY_GROUP: Code = Code("E0704");
/// A column without a name, or with that of another.
pub const QUERY_NAME: Code = Code("E0705");
/// A join that says too little.
pub const QUERY_JOIN: Code = Code("E0706");
/// A column taken for the event time.
pub const QUERY_TIME: Code = Code("E0707");
/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: QUERY_SYNTAX,
        title: "not a query",
        explanation: r#"A step of `type: sql` has one SELECT:

```yaml
query: |
  SELECT auction, count(*) AS n, window_start
  FROM TUMBLE(bids, INTERVAL '1 minute')
  WHERE price > 0
  GROUP BY auction, window_start
  HAVING count(*) > 5
```

Its clauses stand in this order: SELECT, FROM, WHERE, GROUP BY, HAVING, ORDER BY, LIMIT. Expressions are those of all other steps."#,
    },
    CodeInfo {
        code: QUERY_CLAUSE,
        title: "a clause that is not supported",
        explanation: "A query is taken apart into the operators of the language, and this clause has no place there. The help says \
                      what does it instead: most often a step of its own, which the query reads by its name. `docs/sql.md` has the \
                      table of what is supported, and what each becomes.",
    },
    CodeInfo {
        code: QUERY_TABLE,
        title: "a table of a query",
        explanation: r#"The tables of a query are the inputs of its step, by their names; each input stands in the query, and each table among the inputs:

```yaml
paid: { type: sql, inputs: [orders, payments], query: "SELECT o.id, p.paid FROM orders AS o JOIN payments AS p ON o.id = p.id" }
```

A side output is named in double quotes, `FROM "bids.late"`. Where a step has one `input`, the query may call it `input` as well: in a chain the step before has no other name."#,
    },
    CodeInfo {
        code: QUERY_GROUP,
        title: "neither grouped nor aggregated",
        explanation: r#"A row for many has what they have in common, the columns of GROUP BY, and aggregates: `max(price)`, `last(price)`. Another column has one value for each of them.

Windows of FROM come out by `window_start` and `window_end`, which GROUP BY names, one of them at least:

```sql
SELECT card, sum(amount) AS total, window_start FROM TUMBLE(payments, INTERVAL '1 hour') GROUP BY card, window_start
```"#,
    },
    CodeInfo {
        code: QUERY_NAME,
        title: "a column needs a name of its own",
        explanation: "What is computed has no name unless the query gives it one: `count(*) AS n`. Two columns of one SELECT can't \
                      have one name.",
    },
    CodeInfo {
        code: QUERY_JOIN,
        title: "a join that says too little",
        explanation: r#"Rows meet by columns that are equal, one pair at least, each with its table in front. Further conditions, and how near they are in event time, follow behind AND:

```sql
SELECT o.id, p.paid
FROM orders AS o JOIN payments AS p
  ON o.id = p.order_id AND p.at BETWEEN o.at AND o.at + INTERVAL '1 hour' AND p.paid > 0
```

What is equal only once it is computed is computed by a `map` before."#,
    },
    CodeInfo {
        code: QUERY_TIME,
        title: "not the event time",
        explanation: "Windows and joins within so much time go by the event time of the rows, which their source says \
                      (`event_time: { column: at }`). The column that stands here is another one.",
    },
];
