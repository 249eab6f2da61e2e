//! Nothing that stands in a file makes the front end panic or hang.
//!
//! Random bytes, random pieces of YAML, a good pipeline with random damage, and texts built to be slow. The same body
//! serves the fuzz target.

mod survive;

use std::path::Path;
use std::time::{Duration, Instant};

use engine_base::diagnostic::render::{Format, render};
use engine_base::{Diagnostics, SourceMap};
use engine_spec::{LoadOptions, load};
use proptest::prelude::*;
use survive::{Same, survive};

/// A pipeline with something of everything.
const GOOD: &str = include_str!("good.yaml");

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survive(&bytes);
    }

    #[test]
    fn random_yaml(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        survive(pieces.concat().as_bytes());
    }

    #[test]
    fn a_good_pipeline_damaged(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), 0_usize..4, proptest::sample::select(PIECES)), 1..6)
    ) {
        let mut text = GOOD.to_owned();
        for (at, cut, piece) in damage {
            let mut at = at.index(text.len().max(1)).min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            let mut end = (at + cut).min(text.len());
            while !text.is_char_boundary(end) {
                end += 1;
            }
            text.replace_range(at..end, piece);
        }
        survive(text.as_bytes());
    }
}

const PIECES: &[&str] = &[
    "a",
    ": ",
    ":",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "-",
    "[",
    "]",
    "{",
    "}",
    ",",
    ", ",
    "'",
    "\"",
    "|",
    "|-\n",
    ">",
    ">+2\n",
    "#",
    " # c",
    "&a ",
    "*a",
    "!t ",
    "!!str ",
    "? ",
    "<<: ",
    "---",
    "...",
    "\t",
    " ",
    "${",
    "${env:AB}",
    "${secret:AB}",
    "${param:threshold}",
    "$${",
    "}",
    "\\",
    "\\u0041",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "\0",
    "é",
    "日本",
    "1",
    "-1",
    "1.5e3",
    ".inf",
    "0x1F",
    "true",
    "null",
    "~",
    "yes",
    "5m",
    "64KiB",
    "version: 1\n",
    "sources:\n",
    "type: ",
    "input: ",
    "steps:\n",
    "include: a\n",
    "templates:\n",
    "template: kept",
    "operators:\n",
    "(",
    ")",
    "coalesce(a, b)",
    "\r\n",
    "\r",
    "%YAML 1.2\n---\n",
    "@",
    "`",
    "list<",
    ">",
    "decimal(18, 2)",
];

#[test]
fn the_good_pipeline_is_good() {
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    let options = LoadOptions { profile: Some("kafka".to_owned()), ..LoadOptions::default() };
    load(Path::new("p.yaml"), &Same(GOOD.as_bytes()), &options, &mut sources, &mut diagnostics);
    let rendered = render(Format::Human { color: false }, &diagnostics, &sources);
    assert!(diagnostics.is_empty(), "{rendered}");
    survive(GOOD.as_bytes());
}

#[test]
fn texts_built_to_be_slow() {
    let size = 4 << 20;
    let repeat = |piece: &str| piece.repeat(size / piece.len());
    let texts = [
        repeat("["),
        repeat("{"),
        repeat("[]"),
        repeat("[["),
        repeat("{a: "),
        repeat("- "),
        repeat("-"),
        repeat("? "),
        repeat("a: "),
        repeat("a:\n"),
        repeat("&a "),
        repeat("*a "),
        repeat("!a "),
        repeat("'"),
        repeat("\""),
        repeat("''"),
        repeat("\\"),
        repeat(" "),
        repeat("\n"),
        repeat("#"),
        repeat("# \n"),
        repeat("a"),
        repeat("é"),
        repeat("a\n"),
        repeat("\t"),
        repeat("|"),
        repeat("|\n"),
        repeat("\r"),
        repeat("- - a\n"),
        repeat("a: [\n"),
        repeat("---\n"),
        repeat("%"),
        repeat("x: 1\n"),
        repeat("\"a\" "),
        repeat("a b "),
        repeat(", "),
        repeat("${"),
        repeat("(a, "),
        format!("a: \"{}", repeat("\\x")),
        format!("a: [{}", repeat("1,")),
        format!("[{}]", repeat("1,")),
        format!("a: '{}'", repeat("''")),
        format!("a: |\n{}", repeat("  x\n")),
        format!("a: >\n{}", repeat("  x\n\n")),
        format!("a: {}", repeat("x # ")),
        format!("a: \"{}\"", repeat("\\n")),
        format!("a: \"{}\"", repeat("${")),
        format!("a: \"{}\"", repeat("${env:A:-")),
        format!("{{{}}}", (0..200_000).map(|n| format!("k{n}: {n},")).collect::<String>()),
        (0..200_000).map(|n| format!("k{n}: {n}\n")).collect::<String>(),
        format!("a: {{{}}}", repeat("x: f(a, ")),
        format!("a: [{}]", repeat("f(a, ")),
        format!("a: [{}]", repeat("f(,")),
        (0..1_000).map(|n| format!("{}k:\n", " ".repeat(n))).collect::<String>(),
        (0..40_000).map(|n| format!("&a{n} ")).collect::<String>(),
        (0..40_000).map(|n| format!("- &a{n} x\n- *a{n}\n")).collect::<String>(),
        (0..40_000).map(|n| format!("- &a{n} x\n")).collect::<String>() + &"- *a1\n".repeat(9_000),
        GOOD.replace("type: filter", &"é: ".repeat(1_000)),
        GOOD.replace("count(*)", &"(".repeat(100_000)),
        GOOD.replace("string", &"list<".repeat(10_000)),
        format!(
            "version: 1\npipeline: p\nsources:\n{}",
            (0..20_000).map(|n| format!("  s{n}: {{ type: file path: x }}\n")).collect::<String>()
        ),
        format!(
            "version: 1\npipeline: p\nsources:\n{}",
            (0..20_000).map(|n| format!("  s{n}: {{ pth: 1 }}\n")).collect::<String>()
        ),
    ];
    for text in &texts {
        let started = Instant::now();
        let mut end = text.len().min(size);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        survive(&text.as_bytes()[..end]);
        let took = started.elapsed();
        let head: String = text.chars().take(40).collect();
        assert!(took < Duration::from_secs(20), "{took:?} for {head:?}...");
    }
}
