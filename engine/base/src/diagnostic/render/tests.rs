//! Each form of output, on the same problems, and on spans that lie.

use super::*;
use crate::diagnostic::{Code, Diagnostic, FileId};

const UNKNOWN: Code = Code("E0117");

fn source() -> SourceMap {
    let mut sources = SourceMap::default();
    sources.add("pipelines/fraud.yaml", "version: 1\nsources:\n  é: { pth: x }\n");
    sources
}

fn span(start: usize, end: usize) -> Span {
    Span { file: FileId(0), start, end }
}

fn one() -> Diagnostics {
    let mut diagnostics = Diagnostics::new();
    diagnostics.push(
        Diagnostic::error(UNKNOWN, span(28, 31), "unknown key `pth`")
            .at_caret("here")
            .also(span(11, 18), "in this section")
            .help("did you mean `path`?"),
    );
    diagnostics
}

fn check(format: Format, expected: &str) {
    let rendered = render(format, &one(), &source());
    assert_eq!(rendered.trim_end(), expected.trim_end(), "\n{rendered}");
}

#[test]
fn for_people() {
    check(
        Format::Human { color: false },
        r"
error[E0117]: unknown key `pth`
 --> pipelines/fraud.yaml:3:8
  |
2 | sources:
  | ------- in this section
3 |   é: { pth: x }
  |        ^^^ here
  |
  = help: did you mean `path`?"
            .trim_start(),
    );
    let colored = render(Format::Human { color: true }, &one(), &source());
    assert!(colored.contains("\u{1b}["));
}

#[test]
fn for_github() {
    check(
        Format::Github,
        "::error file=pipelines/fraud.yaml,line=3,endLine=3,col=8,endColumn=11,title=E0117::unknown key `pth`%0Adid you mean `path`?",
    );
    let mut sources = SourceMap::default();
    sources.add("a,b:c%.yaml", "x");
    let mut diagnostics = Diagnostics::new();
    diagnostics.push(Diagnostic::warning(UNKNOWN, span(0, 1), "50 %\nof it: a, b"));
    assert_eq!(
        render(Format::Github, &diagnostics, &sources),
        "::warning file=a%2Cb%3Ac%25.yaml,line=1,endLine=1,col=1,endColumn=2,title=E0117::50 %25%0Aof it: a, b\n"
    );
}

#[test]
fn for_machines() {
    let json: serde_json::Value = serde_json::from_str(&render(Format::Json, &one(), &source())).unwrap();
    assert_eq!(json["errors"], 1);
    let item = &json["diagnostics"][0];
    assert_eq!(
        (&item["code"], &item["severity"], &item["message"], &item["file"]),
        (&"E0117".into(), &"error".into(), &"unknown key `pth`".into(), &"pipelines/fraud.yaml".into())
    );
    assert_eq!((&item["line"], &item["column"], &item["end_column"]), (&3.into(), &8.into(), &11.into()));
    assert_eq!(item["labels"][0]["message"], "in this section");
    assert_eq!(item["help"][0], "did you mean `path`?");

    let sarif: serde_json::Value = serde_json::from_str(&render(Format::Sarif, &one(), &source())).unwrap();
    let run = &sarif["runs"][0];
    assert_eq!(sarif["version"], "2.1.0");
    assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "E0117");
    let result = &run["results"][0];
    assert_eq!(
        (&result["ruleId"], &result["ruleIndex"], &result["level"]),
        (&"E0117".into(), &0.into(), &"error".into())
    );
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "pipelines/fraud.yaml");
    assert_eq!((&place["region"]["startLine"], &place["region"]["startColumn"]), (&3.into(), &8.into()));
}

/// Any span in any text gives some text in every format.
#[test]
fn no_span_is_too_odd() {
    let texts = ["", "a", "é\n", "\n\n\n", "a\r\nb\r\n", "\t\tx", "日本\u{200b}語", "a\u{0}\u{1b}[31mb", "no end"];
    for text in texts {
        let mut sources = SourceMap::default();
        sources.add("f", text);
        for file in [0, 1, u32::MAX] {
            for start in (0..10).chain([usize::MAX]) {
                for end in (0..10).chain([usize::MAX]) {
                    let mut diagnostics = Diagnostics::new();
                    let span = Span { file: FileId(file), start, end };
                    diagnostics.push(
                        Diagnostic::error(UNKNOWN, span, "x\u{1b}[31m\n")
                            .at_caret("y\n")
                            .also(Span { start: end, end: start, ..span }, "z"),
                    );
                    for format in [Format::Human { color: false }, Format::Json, Format::Sarif, Format::Github] {
                        assert!(!render(format, &diagnostics, &sources).contains("\u{1b}[31mx"));
                    }
                }
            }
        }
    }
}

#[test]
fn long_files_and_lines_are_cut() {
    let started = std::time::Instant::now();
    let mut sources = SourceMap::default();
    sources.add("long", "é".repeat(5_000_000));
    sources.add("many", "a: b\n".repeat(2_000_000));
    let mut diagnostics = Diagnostics::new();
    for at in 0..50 {
        diagnostics.push(Diagnostic::error(UNKNOWN, span(at * 100_000, 9_000_000), "x").at_caret("here"));
        let many = Span { file: FileId(1), start: at * 150_000, end: at * 150_000 + 20 };
        diagnostics.push(Diagnostic::error(UNKNOWN, many, "x").also(Span { start: 0, end: 1, ..many }, "first"));
    }
    for format in [Format::Human { color: false }, Format::Json, Format::Sarif, Format::Github] {
        let rendered = render(format, &diagnostics, &sources);
        assert!(rendered.len() < 1_000_000, "{}", rendered.len());
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    let human = render(Format::Human { color: false }, &diagnostics, &sources);
    assert!(human.contains("long:1:50001"), "{}", human.chars().take(3_000).collect::<String>());
}
