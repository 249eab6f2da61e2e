//! Files that include files: what comes of it, and what is said where it can't be.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use engine_base::{Diagnostics, SourceMap};

use crate::{Files, LoadOptions, Node, Pipeline, load};

pub(in crate::pipeline) struct Several<'t>(pub(in crate::pipeline) HashMap<&'t str, &'t str>);

impl Files for Several<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = self.0.get(path.to_str().unwrap_or_default());
        text.map(|text| text.as_bytes().to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn env(&self, _: &str) -> Option<String> {
        None
    }
    fn secret(&self, _: &str) -> Option<String> {
        None
    }
    fn canonical(&self, path: &Path) -> PathBuf {
        // A link.
        if path == Path::new("dir/link.yaml") { PathBuf::from("common/rows.yaml") } else { path.to_owned() }
    }
    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// What comes of `dir/p.yaml`, and one line for each problem: code, file and line, message.
pub(in crate::pipeline) fn loaded(files: &[(&str, &str)], options: &LoadOptions) -> (Option<Pipeline>, Vec<String>) {
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    let files = Several(files.iter().copied().collect());
    let pipeline = load(Path::new("dir/p.yaml"), &files, options, &mut sources, &mut diagnostics);
    let lines = diagnostics.iter().map(|item| {
        let place = item.primary.as_ref().and_then(|label| {
            let file = sources.file(label.span.file)?;
            Some(format!("{}:{}", file.path, file.line_column(label.span.start).0))
        });
        format!("{} {} {}", item.code, place.unwrap_or_default(), item.message)
    });
    (pipeline, lines.collect())
}

const MAIN: &str = "version: 1
pipeline: p
include: [../common/rows.yaml, ../common/scored.yaml]
sources:
  own: { type: x, path: own.jsonl }
operators:
  last: { type: map, input: scored }
sinks:
  out: { type: y, input: last }
profiles:
  other:
    sources:
      rows: { path: changed.jsonl }
tests:
  - { name: one, steps: [] }
";
const ROWS: &str = "version: 1\nparameters:\n  limit: { type: int64, default: 3 }\nsources:\n  rows: { type: x, path: rows.jsonl, schema: s.yaml }\n";
const SCORED: &str = "version: 1\ndescription: scores rows\ninclude: rows.yaml\nmodels:\n  m: { type: candle }\noperators:\n  scored: { type: filter, input: rows, where: a > param.limit, n: \"${param:limit}\" }\ntests:\n  - { name: two, steps: [] }\n";

#[test]
fn sections_are_brought_together() {
    let files = [("dir/p.yaml", MAIN), ("common/rows.yaml", ROWS), ("common/scored.yaml", SCORED)];
    let (pipeline, problems) = loaded(&files, &LoadOptions::default());
    assert_eq!(problems, [""; 0]);
    let pipeline = pipeline.expect("a pipeline");
    // What is included comes first; a file that two name comes once.
    assert_eq!(pipeline.sources.keys().collect::<Vec<_>>(), ["rows", "own"]);
    assert_eq!(pipeline.operators.keys().collect::<Vec<_>>(), ["scored", "last"]);
    assert_eq!(pipeline.tests.iter().map(|test| test.config.name.as_str()).collect::<Vec<_>>(), ["two", "one"]);
    assert_eq!(pipeline.operators["scored"].node.get("n").and_then(Node::as_str), Some("3"));
    let rows = &pipeline.sources["rows"];
    assert_eq!((rows.dir(&["path"]), rows.base_dir.as_path()), (Path::new("common"), Path::new("common")));
    assert_eq!(pipeline.sources["own"].dir(&["path"]), Path::new("dir"));
    assert_eq!(pipeline.models["m"].base_dir, Path::new("common"));
    assert!(pipeline.folders.is_included(rows.name_span) && !pipeline.folders.is_included(pipeline.name_span));
    assert_eq!(pipeline.description, None);
}

/// A path is relative to the file that names it, be it a profile of the main file or the command line.
#[test]
fn profiles_and_overrides_change_what_is_included() {
    let files = [("dir/p.yaml", MAIN), ("common/rows.yaml", ROWS), ("common/scored.yaml", SCORED)];
    let options = LoadOptions {
        profile: Some("other".to_owned()),
        set: vec![("sources.rows.schema".to_owned(), "other.yaml".to_owned())],
        params: vec![("limit".to_owned(), "7".to_owned())],
        ..LoadOptions::default()
    };
    let (pipeline, problems) = loaded(&files, &options);
    assert_eq!(problems, [""; 0]);
    let pipeline = pipeline.expect("a pipeline");
    let rows = &pipeline.sources["rows"];
    assert_eq!(rows.node.get("path").and_then(Node::as_str), Some("changed.jsonl"));
    assert_eq!((rows.dir(&["path"]), rows.dir(&["schema"])), (Path::new("dir"), Path::new("dir")));
    assert_eq!(rows.dir(&[]), Path::new("common"));
    assert_eq!(pipeline.operators["scored"].node.get("n").and_then(Node::as_str), Some("7"));
    let options = LoadOptions { set: vec![("include".to_owned(), "[]".to_owned())], ..LoadOptions::default() };
    let (_, problems) = loaded(&files, &options);
    assert_eq!(
        problems,
        ["E0138 <command line>:1 `include` can't be set: files are brought in before anything is changed"]
    );
}

/// The main file need not have the sections; one that is empty there is no matter.
#[test]
fn all_may_be_included() {
    let main = "version: 1\npipeline: p\ninclude: [rest.yaml, link.yaml]\nsources:\n";
    let rest =
        "version: 1\ninclude: ../common/rows.yaml\nsinks:\n  out: { type: y, input: rows }\nobjectives: []\ntests:\n";
    let files = [("dir/p.yaml", main), ("dir/rest.yaml", rest), ("common/rows.yaml", ROWS)];
    let (pipeline, problems) = loaded(&files, &LoadOptions::default());
    assert_eq!(problems, [""; 0]);
    let pipeline = pipeline.expect("a pipeline");
    assert_eq!((pipeline.sources.len(), pipeline.sinks.len()), (1, 1));
}

#[test]
fn what_cannot_be_included_is_told_at_its_place() {
    let tail = "sources:\n  a: { type: x }\nsinks:\n  b: { type: y, input: a }\n";
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        ("gone.yaml", &[], &["E0101 dir/p.yaml:3 `dir/gone.yaml` can't be read: there is no such file"]),
        ("5", &[], &["E0119 dir/p.yaml:3 `include` takes paths of files, not the number `5`"]),
        ("[\"\"]", &[], &["E0119 dir/p.yaml:3 `include` takes paths of files, not the text ``"]),
        (
            "a-${env:B}.yaml",
            &[],
            &["E0152 dir/p.yaml:3 an include is a plain path: files are read before any value is replaced"],
        ),
        ("p.yaml", &[], &["E0152 dir/p.yaml:3 `dir/p.yaml` includes itself"]),
        (
            "x.yaml",
            &[("dir/x.yaml", "version: 1\ninclude: ../dir/y.yaml\n"), ("dir/y.yaml", "version: 1\ninclude: x.yaml\n")],
            &["E0152 dir/y.yaml:2 files include each other in a circle: dir/x.yaml -> dir/y.yaml -> dir/x.yaml"],
        ),
        (
            "x.yaml",
            &[("dir/x.yaml", "[]\n")],
            &["E0119 dir/x.yaml:1 an included file is a map of keys and values, not a list"],
        ),
        ("x.yaml", &[("dir/x.yaml", "sinks: {}\n")], &["E0139 dir/x.yaml:1 the key `version` is missing"]),
        (
            "x.yaml",
            &[("dir/x.yaml", "version: 1\npipeline: q\nsource: {}\ncheckpoint: {}\nsinks: []\n")],
            &[
                "E0152 dir/x.yaml:2 an included file can't have `pipeline`",
                "E0117 dir/x.yaml:3 unknown key `source`",
                "E0152 dir/x.yaml:4 an included file can't have `checkpoint`",
                "E0119 dir/x.yaml:5 `sinks` takes a map of names, not a list",
            ],
        ),
        (
            "[x.yaml, y.yaml]",
            &[
                ("dir/x.yaml", "version: 1\nsources:\n  a: { type: x }\n  c: { type: x }\n"),
                ("dir/y.yaml", "version: 1\nsources:\n  c: { type: x }\n"),
            ],
            &[
                "E0141 dir/y.yaml:3 `c` is the name of a source already",
                "E0141 dir/p.yaml:5 `a` is the name of a source already",
            ],
        ),
        // A component that is lost is known by name.
        (
            "x.yaml",
            &[("dir/x.yaml", "version: 1\nsources:\n  c: { type: x path: y }\n")],
            &["E0104 dir/x.yaml:3 a comma is missing before `path`"],
        ),
    ];
    for (include, more, expected) in cases {
        let main = format!("version: 1\npipeline: p\ninclude: {include}\n{tail}");
        let mut files = vec![("dir/p.yaml", main.as_str())];
        files.extend(more.iter().copied());
        let (_, problems) = loaded(&files, &LoadOptions::default());
        assert_eq!(problems.len(), expected.len(), "{include}: {problems:#?}");
        for (problem, expected) in problems.iter().zip(*expected) {
            assert!(problem.starts_with(expected), "{include}: {problem}");
        }
    }
}

/// Every path is another file, and each includes the next.
struct Endless;

impl Files for Endless {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let at = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok()).unwrap_or(0);
        Ok(format!("version: 1\npipeline: p\ninclude: [{}.yaml, {}.yaml]\n", 2 * at + 1, 2 * at + 2).into_bytes())
    }
    fn env(&self, _: &str) -> Option<String> {
        None
    }
    fn secret(&self, _: &str) -> Option<String> {
        None
    }
    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

#[test]
fn files_are_bounded() {
    let mut diagnostics = Diagnostics::new();
    let options = LoadOptions::default();
    let pipeline = load(Path::new("0.yaml"), &Endless, &options, &mut SourceMap::default(), &mut diagnostics);
    assert!(pipeline.is_none());
    assert!(diagnostics.iter().any(|problem| problem.message.starts_with("a pipeline has at most 200 files")));
}
