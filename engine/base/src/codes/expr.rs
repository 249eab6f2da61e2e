//! E02xx: expressions.

use super::CodeInfo;
use crate::diagnostic::Code;

/// Nothing is written.
pub const EMPTY: Code = Code("E0201");
/// The text is no SQL expression.
pub const SYNTAX: Code = Code("E0202");
/// A whole expression, and something left after it.
pub const TRAILING: Code = Code("E0203");
/// A quote, parenthesis or bracket is not closed.
pub const UNCLOSED: Code = Code("E0204");
/// An operator of another language.
pub const FOREIGN_OPERATOR: Code = Code("E0205");
/// Too long, or nested too deeply.
pub const TOO_LARGE: Code = Code("E0206");
/// A name that is no column.
pub const UNKNOWN_COLUMN: Code = Code("E0207");
/// Double quotes around something that is no column.
pub const DOUBLE_QUOTES: Code = Code("E0208");
/// A field that the value doesn't have.
pub const UNKNOWN_FIELD: Code = Code("E0209");
/// `param.x` without a parameter `x`.
pub const UNKNOWN_PARAMETER: Code = Code("E0210");
/// A function that doesn't exist.
pub const UNKNOWN_FUNCTION: Code = Code("E0211");
/// Arguments that the function doesn't take.
pub const ARGUMENTS: Code = Code("E0212");
/// Operands that the operator doesn't take.
pub const OPERANDS: Code = Code("E0213");
/// A type that doesn't exist.
pub const UNKNOWN_TYPE: Code = Code("E0214");
/// A cast between types that have nothing in common.
pub const IMPOSSIBLE_CAST: Code = Code("E0215");
/// A literal that says nothing, such as an interval without a unit.
pub const BAD_LITERAL: Code = Code("E0216");
/// A constant part fails for every row.
pub const ALWAYS_FAILS: Code = Code("E0217");
/// SQL that is no part of the language.
pub const UNSUPPORTED: Code = Code("E0218");
/// A function whose value is not a function of the row.
pub const NOT_DETERMINISTIC: Code = Code("E0219");
/// An aggregate where there is one row.
pub const AGGREGATE_HERE: Code = Code("E0220");
/// A column outside the aggregates.
pub const OUTSIDE_AGGREGATE: Code = Code("E0221");
/// An aggregate within an aggregate.
pub const NESTED_AGGREGATE: Code = Code("E0222");
/// A condition that is not true or false.
pub const NOT_BOOLEAN: Code = Code("E0223");
/// A value of no column type.
pub const NO_COLUMN_TYPE: Code = Code("E0224");
/// The planned expression and the columns don't fit.
pub const INTERNAL: Code = Code("E0225");

/// The codes of this subject, in order.
pub const CODES: &[CodeInfo] = &[
    CodeInfo {
        code: EMPTY,
        title: "empty expression",
        explanation: "An expression is due here and nothing is written.\n\n\
            Write one, such as `amount > 0`; for an empty text, write `''`.",
    },
    CodeInfo {
        code: SYNTAX,
        title: "not an expression",
        explanation: "The text can't be read as a SQL expression. The caret is where the reader gave up, the mistake is there or \
            shortly before.\n\n```sql\namount >              -- nothing after the operator\ncard IN 'a', 'b'      -- a list needs \
            parentheses: card IN ('a', 'b')\n```",
    },
    CodeInfo {
        code: TRAILING,
        title: "something left over",
        explanation: "A whole expression was read, and there is more text after it.\n\n```sql\namount > 0 card = 'a'   -- an AND is \
            missing\nNew York                -- text needs single quotes: 'New York'\n```\n\nOne key takes one expression, without \
            a semicolon at its end.",
    },
    CodeInfo {
        code: UNCLOSED,
        title: "not closed",
        explanation: "A quote, parenthesis, bracket or comment is opened and never closed, or closed and never opened.\n\nA single \
            quote within text is written twice: `'it''s'`.",
    },
    CodeInfo {
        code: FOREIGN_OPERATOR,
        title: "an operator of another language",
        explanation: "Expressions are SQL.\n\n| instead of | write |\n|---|---|\n| `a == b` | `a = b` |\n| `a && b` | `a AND b` |\n\
            | `a || b` for conditions | `a OR b` |\n| `!a` | `NOT a` |\n| `a ? b : c` | `CASE WHEN a THEN b ELSE c END` |\n\
            | `x -> ...` | a list function such as `array_has` |\n\n`||` joins texts.",
    },
    CodeInfo {
        code: TOO_LARGE,
        title: "expression too large",
        explanation: "An expression may be 64 KiB long and nested 40 parentheses or 150 operators deep; chains of `AND`, `OR` \
            and lists behind `IN` may be longer.\n\nCompute a part of it as a column in a `map` before this step.",
    },
    CodeInfo {
        code: UNKNOWN_COLUMN,
        title: "unknown column",
        explanation: "A name stands where a column is due, and the input has no column of that name. Names are case-sensitive: \
            `userId` is not `userid`.\n\nText stands in single quotes. YAML takes a pair of quotes for itself, so an expression \
            that is only a text needs both:\n\n```yaml\nset:\n  kind: \"'order'\"       # the text order\n  copy: kind            \
            # the column kind\n```\n\n`engine dry-run` prints the columns of every step.",
    },
    CodeInfo {
        code: DOUBLE_QUOTES,
        title: "double quotes name a column",
        explanation: "In SQL double quotes name a column (one with a space in its name, say), single quotes hold text.\n\n\
            ```sql\ncity = \"Paris\"    -- the column Paris\ncity = 'Paris'    -- the text Paris\n```",
    },
    CodeInfo {
        code: UNKNOWN_FIELD,
        title: "unknown field",
        explanation: "The value before the dot or bracket has no such field.\n\n```sql\ns.field                      -- a field of a \
            struct\nm['key']                     -- the value of a map's key, or null\nl[1]                         -- the first \
            element of a list, or null\njson_get(text, '$.a.b')      -- a value in JSON text\n```",
    },
    CodeInfo {
        code: UNKNOWN_PARAMETER,
        title: "unknown parameter",
        explanation: "`param.NAME` is the value of a parameter, and each parameter is declared.\n\n```yaml\nparameters:\n  \
            threshold: { type: float64, default: 0.9 }\n```",
    },
    CodeInfo {
        code: UNKNOWN_FUNCTION,
        title: "unknown function",
        explanation: "There is no function of that name. The functions are those of DataFusion, and `lag`, `max_by`, `min_by`, \
            `json_get`, `regexp_extract`, `geo_distance_m` and `event_time`. Upper and lower case don't matter.",
    },
    CodeInfo {
        code: ARGUMENTS,
        title: "wrong arguments",
        explanation: "The function exists and doesn't take these arguments: their number, their types or, where they are \
            constants, their values. The message says what was given, the help what is accepted.\n\nA cast turns a value into \
            another type: `CAST(x AS float64)`.",
    },
    CodeInfo {
        code: OPERANDS,
        title: "operands don't fit",
        explanation: "The operator can't be applied to values of these types.\n\n```sql\namount + 'EUR'               -- text joins \
            with ||\nat + 5                       -- five what? at + INTERVAL '5m'\namount AND active            -- a number is \
            not a condition: amount <> 0 AND active\n```",
    },
    CodeInfo {
        code: UNKNOWN_TYPE,
        title: "unknown type",
        explanation: "The types of a cast are those of a schema: `bool`, `int8` to `int64`, `uint8` to `uint64`, `float32`, \
            `float64`, `decimal(p, s)`, `string`, `binary`, `date`, `timestamp`, `duration`. SQL's names such as `BIGINT`, \
            `DOUBLE` and `VARCHAR` are understood as well.",
    },
    CodeInfo {
        code: IMPOSSIBLE_CAST,
        title: "impossible cast",
        explanation: "No value of the one type can become a value of the other, whatever the row.",
    },
    CodeInfo {
        code: BAD_LITERAL,
        title: "bad literal",
        explanation: "A constant is not written as it must be.\n\n```sql\nINTERVAL '5m'          -- ns, us, ms, s, m (minutes), h, \
            d, w\nINTERVAL '3 months'    -- or in words\nDATE '2026-01-31'\nTIMESTAMP '2026-01-31T10:00:00Z'\n```",
    },
    CodeInfo {
        code: ALWAYS_FAILS,
        title: "fails for every row",
        explanation: "A part of the expression is constant and can't be computed: each row would fail.\n\n```sql\namount / 0\n\
            CAST('abc' AS int64)\nat > 'yesterday'       -- text compared with a timestamp is read as one\n```\n\nWithin a branch \
            of `CASE`, or to the right of `AND` and `OR`, it is left to the rows.",
    },
    CodeInfo {
        code: UNSUPPORTED,
        title: "not part of the language",
        explanation: "The text is valid SQL that has no place in an expression over one row: subqueries, window functions \
            (`OVER`), lambdas, placeholders and the like.\n\nRows of the past are what `rolling` gives, rows of another stream \
            `join` and `enrich`.",
    },
    CodeInfo {
        code: NOT_DETERMINISTIC,
        title: "not a function of the row",
        explanation: "Results are a function of the recorded input, so that a run can be repeated to the bit. `now()` is the time \
            at which the row was recorded, `random()` and `uuid()` are drawn from the row's position; other volatile functions \
            are refused.",
    },
    CodeInfo {
        code: AGGREGATE_HERE,
        title: "an aggregate where there is one row",
        explanation: "`count`, `sum`, `avg` and the like need many rows; this expression is computed for each row alone.\n\n\
            Aggregates stand under `columns:` of `rolling` (rows so far, for each row), `window` (rows of a span of time) and \
            `aggregate` (all rows). For the elements of a list there are `array_sum`, `array_max` and so on, for the greatest \
            of several columns `greatest`.",
    },
    CodeInfo {
        code: OUTSIDE_AGGREGATE,
        title: "a column outside the aggregates",
        explanation: "Many rows go into one value here, so that a bare column has no one value.\n\n```yaml\ncolumns:\n  share: \
            current.amount / sum(amount)   # in `rolling`: the row's own amount\n  last: last(amount)\n```",
    },
    CodeInfo {
        code: NESTED_AGGREGATE,
        title: "an aggregate within an aggregate",
        explanation: "An aggregate's argument is computed for each row, so that it can't hold an aggregate itself. Compute the \
            inner one in a step before.",
    },
    CodeInfo {
        code: NOT_BOOLEAN,
        title: "not a condition",
        explanation: "A condition is due: an expression that is true or false, such as `amount > 0`. A number or a text is \
            neither; compare it with something.",
    },
    CodeInfo {
        code: NO_COLUMN_TYPE,
        title: "no column type",
        explanation: "The expression is understood, but its value can't be a column: a bare `NULL` has no type \
            (`CAST(NULL AS string)` has one), an interval of months no length, a time of day no type in the language.",
    },
    CodeInfo {
        code: INTERNAL,
        title: "expression and columns don't fit",
        explanation: "A planned expression met columns other than those it was planned for. This is a mistake of the engine, not \
            of the pipeline; please report it.",
    },
];
