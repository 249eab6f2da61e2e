//! Nodes to structs: what is understood, and every problem with its place.

use engine_base::{Diagnostics, FileId};
use indexmap::IndexMap;
use serde::Deserialize;

use super::*;
use crate::value::{Assignments, Expression, Input, Rate, Secret, Size, TimeSpan};
use crate::{FieldSpec, yaml};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Append,
    Upsert,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code, reason = "read through Debug")]
enum Window {
    Tumbling(TimeSpan),
    Hopping { size: TimeSpan, every: TimeSpan },
    Global {},
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a name, or a list of names")]
#[expect(dead_code, reason = "read through Debug")]
enum Names {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[expect(dead_code, reason = "read through Debug")]
enum Lookup {
    Redis { key: String, port: u16 },
    Http { url: String },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    input: Option<Input>,
    #[serde(rename = "where")]
    filter: Option<Expression>,
    set: Option<Assignments>,
    follow: Option<bool>,
    count: Option<u8>,
    ratio: Option<f64>,
    path: Option<String>,
    timeout: Option<TimeSpan>,
    size: Option<Size>,
    rate: Option<Rate>,
    token: Option<Secret>,
    mode: Option<Mode>,
    window: Option<Window>,
    names: Option<Names>,
    lookup: Option<Lookup>,
    retry: Option<Retry>,
    list: Option<Vec<Retry>>,
    pair: Option<(u8, u8)>,
    by_name: Option<IndexMap<String, u8>>,
    any: Option<Node>,
    ty: Option<FieldSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read through Debug")]
struct Retry {
    attempts: u32,
    first: TimeSpan,
    max: TimeSpan,
    mode: Mode,
}

fn parse(text: &str) -> Node {
    let mut diagnostics = Diagnostics::new();
    let root = yaml::parse(FileId(0), text, &mut diagnostics).root;
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    root.unwrap()
}

/// Each problem as `the text at its place: code sentence | help`.
fn problems(text: &str, diagnostics: &Diagnostics) -> Vec<String> {
    let mut diagnostics = diagnostics.clone();
    diagnostics.sort();
    diagnostics
        .iter()
        .map(|item| {
            let span = item.primary.as_ref().unwrap().span;
            format!("{}: {} {} | {}", &text[span.start..span.end], item.code, item.message, item.help.join(" | "))
        })
        .collect()
}

fn check(text: &str, expected: &[&str]) {
    let mut diagnostics = Diagnostics::new();
    let decoded = parse(text).decode::<Config>(&mut diagnostics);
    assert_eq!(problems(text, &diagnostics), expected, "{text}");
    assert_eq!(decoded.is_some(), expected.is_empty(), "{text}");
}

fn check_ok(text: &str, part: &str) {
    let mut diagnostics = Diagnostics::new();
    let decoded = parse(text).decode::<Config>(&mut diagnostics);
    assert!(diagnostics.is_empty(), "{text}: {diagnostics:?}");
    let shown = format!("{:?}", decoded.unwrap());
    assert!(shown.contains(part), "{text}: {shown}");
}

#[test]
fn what_is_right() {
    check_ok("where: true", r#"filter: Some(Expression("true"))"#);
    check_ok("where: 1.50", r#"filter: Some(Expression("1.50"))"#);
    check_ok("set: { a: NULL }", r#"set: Some({"a": Expression("NULL")})"#);
    check_ok("where: ~", "filter: None");
    check_ok("where: { literal: it's }", r#"filter: Some(Expression("'it''s'"))"#);
    check_ok("where: { literal: 5 }", r#"filter: Some(Expression("5"))"#);
    check_ok("set: { b: 1, a: x + 1 }", r#"set: Some({"b": Expression("1"), "a": Expression("x + 1")})"#);
    check_ok("input: rows.errors", r#"Input { from: "rows.errors", filter: None }"#);
    check_ok("input: { from: rows, where: x }", r#"Input { from: "rows", filter: Some(Expression("x")) }"#);
    check_ok("timeout: 1.5s", "timeout: Some(TimeSpan(1500000000))");
    check_ok("size: 64KiB\nrate: 120/m", "size: Some(Size(65536)), rate: Some(Rate(2.0))");
    check_ok("token: abc", "token: Some(***)");
    check_ok("mode: upsert", "mode: Some(Upsert)");
    check_ok("window: { tumbling: 5m }", "Tumbling(TimeSpan(300000000000))");
    check_ok("window: { hopping: { size: 2s, every: 1s } }", "Hopping { size: TimeSpan(2000000000)");
    check_ok("window: { global: {} }", "window: Some(Global)");
    check_ok("names: [a, b]", r#"Many(["a", "b"])"#);
    check_ok("lookup: { type: redis, key: k, port: 5 }", r#"Redis { key: "k", port: 5 }"#);
    check_ok("path: null\ncount: 0x10\nratio: 3", "count: Some(16), ratio: Some(3.0), path: None");
    check_ok("ty: list<string | null>", "nullable: true");
    check_ok("any: [1, { a: b }]", "any: Some(List(");
}

#[test]
fn keys() {
    check(
        "pth: a\nfollow: yes\nsieze: 5MiB\n",
        &[
            "pth: E0117 unknown key `pth` | did you mean `path`?",
            "yes: E0120 `follow` takes `true` or `false`, not the text `yes` | write `true`",
            "sieze: E0117 unknown key `sieze` | did you mean `size`?",
        ],
    );
    check(
        "retry: { atempts: 5, first: 5, mode: x }",
        &[
            "retry: E0118 the key `max` is missing | add `max:` below `retry`",
            "atempts: E0117 unknown key `atempts` | did you mean `attempts`? | the keys here are `attempts`, `first`, `max` and `mode`",
            "5: E0122 `5` has no unit, and `first` needs one | write a unit: `5ms`",
            "x: E0121 `mode` can't be `x` | it is `append` or `upsert`",
        ],
    );
    check(
        "list: [{ attempts: 1, first: 1s, max: 1s, mode: append }, { attempts: x }, 5]",
        &[
            "{ attempts: x }: E0118 the key `first` is missing | add `first:`",
            "{ attempts: x }: E0118 the key `max` is missing | add `max:`",
            "{ attempts: x }: E0118 the key `mode` is missing | add `mode:`",
            "x: E0119 `attempts` takes a whole number, zero or more, not the text `x` | write a whole number, zero or more",
            "5: E0119 a map of keys and values is due here, not the number `5` | write a map of keys and values",
        ],
    );
}

#[test]
fn types() {
    check("count: 300", &["300: E0142 `300` is out of range for `count` | it takes 0 to 255"]);
    check(
        "count: 1.5",
        &[
            "1.5: E0119 `count` takes a whole number, zero or more, not the number `1.5` | write a whole number, zero or more",
        ],
    );
    check(
        "count: \"5\"",
        &["\"5\": E0119 `count` takes a whole number, zero or more, not the text `5` | write it without quotes: `5`"],
    );
    check("path: 1.10", &["1.10: E0119 `path` takes a text, not the number `1.10` | put it in quotes: `\"1.10\"`"]);
    check("path: [a]", &["[a]: E0119 `path` takes a text, not a list | write it without the brackets"]);
    check("follow: 1", &["1: E0120 `follow` takes `true` or `false`, not the number `1` | write `true`"]);
    check(
        "path:",
        &[
            "path: E0119 `path` has no value; it takes a text | write a value, indent what belongs to `path` deeper than it, or leave the key out",
        ],
    );
    check("pair: [1]", &["[1]: E0151 this has 1 entry | it takes a tuple of size 2"]);
    check("pair: [1, 2, 3]", &["[1, 2, 3]: E0151 this has 3 entries | it takes 2 entries"]);
    check(
        "by_name: { a: 1, b: x }",
        &["x: E0119 `b` takes a whole number, zero or more, not the text `x` | write a whole number, zero or more"],
    );
    check("mode: [a]", &["[a]: E0119 `mode` takes `append` or `upsert`, not a list | write `append` or `upsert`"]);
    check(
        "window: tumbling",
        &["tumbling: E0119 `tumbling` needs its settings | write `tumbling:` with its keys below it"],
    );
    check("mode: { append: 5 }", &["{ append: 5 }: E0119 `append` has no settings | write `append` alone"]);
    check(
        "window: { tumblin: 5m }",
        &[
            "tumblin: E0121 `tumblin` is not known here | did you mean `tumbling`? | it is `tumbling`, `hopping` or `global`",
        ],
    );
    check(
        "window: { hopping: { size: 5 } }",
        &[
            "hopping: E0118 the key `every` is missing | add `every:` below `hopping`",
            "5: E0122 `5` has no unit, and `size` needs one | write a unit: `5ms`",
        ],
    );
    check("ty: strin", &["strin: E0147 `strin` is not a type | did you mean `string`?"]);
}

/// Serde buffers these; the place is found again.
#[test]
fn buffered_enums() {
    check("names: 5", &["5: E0151 `names`: a name, or a list of names | "]);
    check(
        "lookup: { type: redis, key: k, port: x }",
        &["x: E0119 `port` takes a whole number, zero or more, not the text `x` | write a whole number, zero or more"],
    );
    check(
        "lookup: { type: redis, kee: k, port: 1 }",
        &["kee: E0117 unknown key `kee` | did you mean `key`? | the keys here are `key` and `port`"],
    );
    check(
        "lookup: { type: rediss, key: k }",
        &["rediss: E0121 `type` can't be `rediss` | did you mean `redis`? | it is `redis` or `http`"],
    );
    check("lookup: { key: k }", &["lookup: E0118 the key `type` is missing | add `type:` below `lookup`"]);
}

#[test]
fn expressions() {
    check(
        "where: ''",
        &[
            "'': E0126 an expression is missing here | write one, such as `amount > 0`; for an empty text write `\"''\"`",
        ],
    );
    check(
        "set: { z: }",
        &["z: E0126 an expression is missing here | write one, such as `amount > 0`; for an empty text write `\"''\"`"],
    );
    check(
        "where: { literl: x }",
        &[
            "{ literl: x }: E0119 an expression is due here, not a map | `{` and `: ` make a map in YAML: put the expression in quotes, or below a `|`; a text is `{ literal: text }`",
        ],
    );
    check(
        "input: { frm: a }",
        &["frm: E0117 unknown key `frm` | did you mean `from`? | the keys here are `from` and `where`"],
    );
}

fn substituted(text: &str, value: &str, secret: bool) -> Node {
    let mut node = parse(text);
    node.for_each(&mut |node| {
        if node.as_str() == Some("SUB") {
            node.value = Value::String(value.to_owned());
            node.substituted = true;
            node.secret = secret;
        }
    });
    node
}

#[test]
fn substituted_scalars_read_as_the_key_wants() {
    let mut diagnostics = Diagnostics::new();
    let text = "count: SUB\nratio: SUB\npath: SUB\nby_name: { a: SUB }";
    let config: Config = substituted(text, "5", false).decode(&mut diagnostics).unwrap();
    assert_eq!((config.count, config.ratio, config.path.as_deref()), (Some(5), Some(5.0), Some("5")));
    let config: Config = substituted("follow: SUB", "true", false).decode(&mut diagnostics).unwrap();
    assert_eq!(config.follow, Some(true));
    let config: Config = substituted("timeout: SUB", "5s", false).decode(&mut diagnostics).unwrap();
    assert_eq!(config.timeout, Some(TimeSpan(5_000_000_000)));
    assert!(diagnostics.is_empty());
    let text = "timeout: SUB\nwhere: SUB";
    assert!(substituted(text, "5", false).decode::<Config>(&mut diagnostics).is_none());
    let codes: Vec<&str> = diagnostics.iter().map(|item| item.code.0).collect();
    assert_eq!(codes, ["E0122", "E0127"]);
}

#[test]
fn secrets_stay_secret() {
    let mut diagnostics = Diagnostics::new();
    let node = substituted("token: SUB", "hush", true);
    assert_eq!(node.decode::<Config>(&mut diagnostics).unwrap().token.unwrap().reveal(), "hush");
    assert!(!format!("{node:?}").contains("hush"));
    for text in [
        "path: SUB",
        "count: SUB",
        "mode: SUB",
        "names: SUB",
        "timeout: SUB",
        "input: SUB",
        "set: { a: SUB }",
        "window: { SUB: 1 }",
    ] {
        let node = substituted(text, "hush", true);
        let mut diagnostics = Diagnostics::new();
        assert!(node.decode::<Config>(&mut diagnostics).is_none(), "{text}");
        assert!(diagnostics.has_errors(), "{text}");
        assert!(!format!("{diagnostics:?}").contains("hush"), "{text}: {diagnostics:?}");
    }
}

#[test]
fn placeholders_read_as_anything() {
    for text in [
        "path: P",
        "count: P",
        "mode: P",
        "timeout: P",
        "window: P",
        "retry: P",
        "list: P",
        "follow: P",
        "token: P",
        "by_name: P",
        "pair: P",
    ] {
        let mut node = parse(text);
        node.for_each(&mut |node| {
            if node.as_str() == Some("P") {
                node.written.stand_in = Some(StandIn::Placeholder);
            }
        });
        let mut diagnostics = Diagnostics::new();
        assert!(node.decode::<Config>(&mut diagnostics).is_some(), "{text}");
        assert!(diagnostics.is_empty(), "{text}: {diagnostics:?}");
    }
}

#[test]
fn what_a_placeholder_hides_is_said() {
    #[derive(Debug, Deserialize)]
    #[serde(try_from = "String")]
    struct Even;
    impl TryFrom<String> for Even {
        type Error = String;
        fn try_from(text: String) -> Result<Even, String> {
            if text.len().is_multiple_of(4) { Ok(Even) } else { Err(format!("{text} is odd")) }
        }
    }
    for (text, fits) in [("even", true), ("odd", false)] {
        let mut node = parse(text);
        node.written.stand_in = Some(StandIn::Placeholder);
        let mut diagnostics = Diagnostics::new();
        assert_eq!(node.decode::<Even>(&mut diagnostics).is_some(), fits);
        assert_eq!((diagnostics.len(), diagnostics.has_errors()), (usize::from(!fits), false));
    }
}

#[test]
fn many_problems_end() {
    let text: String = (0..5_000).map(|n| format!("k{n}: 1\n")).collect();
    let mut diagnostics = Diagnostics::new();
    assert!(parse(&text).decode::<Config>(&mut diagnostics).is_none());
    assert_eq!(diagnostics.len(), MAX_PROBLEMS);
}
