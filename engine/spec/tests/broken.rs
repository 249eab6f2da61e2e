//! The corpus of broken specs: each `tests/cases/broken/spec/NAME.yaml` gives exactly the diagnostics of `NAME.stderr`.
//!
//! A case is loaded as `engine dry-run` would, or as its first line says: `# options: --run --profile p --set a.b=c
//! --param x=1`. Other files of the folder's `files/` can be named by it; the environment has `SET=5` and the secret
//! `PASSWORD`. The kinds below are as much of the real ones as these cases need. `BLESS=1` writes what came out.

use std::io;
use std::path::{Path, PathBuf};

use engine_base::diagnostic::render::{Format, render};
use engine_base::{Diagnostics, SourceMap};
use engine_spec::{Assignments, Expression, Files, Input, LoadOptions, Node, Pipeline, Rate, Secret, TimeSpan, load};
use serde::Deserialize;

struct Folder(PathBuf);

impl Files for Folder {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("file_too_large.yaml") => Ok(b"# a pipeline of ten megabytes\n".repeat(350_000)),
            _ => std::fs::read(self.0.join(path)),
        }
    }
    fn env(&self, name: &str) -> Option<String> {
        (name == "SET").then(|| "5".to_owned())
    }
    fn secret(&self, name: &str) -> Option<String> {
        (name == "PASSWORD").then(|| "s3cret-value".to_owned())
    }
    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only decoding is tested")]
struct File {
    path: String,
    #[serde(default)]
    follow: bool,
    format: Option<String>,
    schema: Option<Node>,
    metadata: Option<Assignments>,
    event_time: Option<EventTime>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only decoding is tested")]
struct EventTime {
    column: String,
    max_delay: Option<TimeSpan>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only decoding is tested")]
struct Generate {
    rate: Option<Rate>,
    rows: Option<u64>,
    columns: Assignments,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only decoding is tested")]
struct Filter {
    input: Input,
    r#where: Expression,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only decoding is tested")]
struct Map {
    input: Input,
    set: Option<Assignments>,
    keep: Option<Vec<String>>,
    drop: Option<Vec<String>>,
    rename: Option<Node>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Append,
    Upsert,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only decoding is tested")]
struct Sink {
    input: Input,
    format: Option<String>,
    mode: Option<Mode>,
    url: Option<String>,
    password: Option<Secret>,
}

fn decode_components(pipeline: &Pipeline, files: &dyn Files, sources: &mut SourceMap, diagnostics: &mut Diagnostics) {
    for component in pipeline.sources.values() {
        if let Some(schema) = component.node.get("schema") {
            engine_spec::read_schema(schema, &component.base_dir, files, sources, diagnostics);
        }
    }
    let all = pipeline.sources.values().chain(pipeline.operators.values()).chain(pipeline.sinks.values());
    for component in all {
        match component.kind.as_str() {
            "file" => drop(component.node.decode::<File>(diagnostics)),
            "generate" => drop(component.node.decode::<Generate>(diagnostics)),
            "filter" => drop(component.node.decode::<Filter>(diagnostics)),
            "map" => drop(component.node.decode::<Map>(diagnostics)),
            _ => drop(component.node.decode::<Sink>(diagnostics)),
        }
    }
}

fn options(text: &str) -> LoadOptions {
    let mut options = LoadOptions::default();
    let mut words =
        text.lines().next().and_then(|line| line.strip_prefix("# options: ")).unwrap_or_default().split(' ');
    let pair = |word: Option<&str>| {
        let (name, value) = word.and_then(|word| word.split_once('=')).expect("NAME=VALUE");
        (name.to_owned(), value.to_owned())
    };
    while let Some(word) = words.next() {
        match word {
            "--run" => options.secrets_required = true,
            "--profile" => options.profile = words.next().map(str::to_owned),
            "--set" => options.set.push(pair(words.next())),
            "--param" => options.params.push(pair(words.next())),
            _ => {}
        }
    }
    options
}

fn rendered(folder: &Path, name: &str) -> String {
    let files = Folder(folder.to_path_buf());
    let path = Path::new(name);
    let text = std::fs::read(folder.join(path)).unwrap_or_default();
    let options = options(&String::from_utf8_lossy(&text));
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    if let Some(pipeline) = load(path, &files, &options, &mut sources, &mut diagnostics) {
        decode_components(&pipeline, &files, &mut sources, &mut diagnostics);
        assert!(!format!("{pipeline:?}").contains("s3cret-value"), "{name} shows a secret");
    }
    diagnostics.settle(&sources);
    diagnostics.sort();
    for format in [Format::Json, Format::Sarif, Format::Github] {
        assert!(!render(format, &diagnostics, &sources).contains("s3cret-value"), "{name} shows a secret");
    }
    render(Format::Human { color: false }, &diagnostics, &sources)
}

/// The folder of this package: where cargo says it is now, since a binary of another clone may be found in a shared build
/// folder.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

#[test]
fn broken_specs() {
    let folder = package().join("../../tests/cases/broken/spec");
    let bless = std::env::var_os("BLESS").is_some();
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the corpus is there")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    let mut wrong = Vec::new();
    let mut all = String::new();
    for name in &names {
        let came = rendered(&folder, name);
        all.push_str(&came);
        let expected_path = folder.join(name.replace(".yaml", ".stderr"));
        if bless {
            std::fs::write(&expected_path, &came).expect("can write");
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if expected != came {
            wrong.push(format!("== {name}\n-- expected\n{expected}-- came\n{came}"));
        }
        assert!(!came.is_empty(), "{name} has no problem");
        assert!(!came.contains("s3cret-value"), "{name} shows a secret");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(names.len() >= 45, "{} cases", names.len());
    let missing: Vec<&str> = engine_base::codes::spec::CODES
        .iter()
        .map(|info| info.code.0)
        .filter(|code| !all.contains(&format!("[{code}]")))
        .collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}
