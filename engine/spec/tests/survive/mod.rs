//! The body of the tests of robustness, which the fuzz target `front_end` runs too: bytes as a file, all the way through
//! the front end.

use std::io;
use std::path::{Path, PathBuf};

use engine_base::diagnostic::render::{Format, render};
use engine_base::{Diagnostics, SourceMap};
use engine_spec::{Assignments, Files, Input, LoadOptions, Secret, TimeSpan, load};
use serde::Deserialize;

/// Every file has the same bytes.
pub(crate) struct Same<'b>(pub(crate) &'b [u8]);

impl Files for Same<'_> {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }
    fn env(&self, name: &str) -> Option<String> {
        name.len().is_multiple_of(2).then(|| "1".to_owned())
    }
    fn secret(&self, name: &str) -> Option<String> {
        self.env(name)
    }
    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "only decoding is tested")]
enum Kind {
    Plain,
    One(TimeSpan),
    Two { a: Input, b: u8 },
}

#[derive(Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "only decoding is tested")]
enum Either {
    Number(u64),
    Map { x: String },
    List(Vec<Kind>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only decoding is tested")]
struct Config {
    input: Input,
    inputs: Option<Vec<Input>>,
    set: Option<Assignments>,
    #[serde(rename = "where")]
    filter: Option<engine_spec::Expression>,
    path: String,
    password: Option<Secret>,
    kind: Kind,
    either: Option<Either>,
    schema: Option<engine_spec::Node>,
}

/// Loads a pipeline of these bytes, decodes what it holds and shows what is wrong with it in every format.
pub(crate) fn survive(bytes: &[u8]) {
    let files = Same(bytes);
    let value = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
    let options = LoadOptions {
        profile: Some("kafka".to_owned()),
        set: vec![("sources.transactions.path".to_owned(), value.clone()), (value.clone(), "1".to_owned())],
        params: vec![("threshold".to_owned(), value)],
        secrets_required: bytes.len().is_multiple_of(2),
    };
    let mut sources = SourceMap::default();
    let mut diagnostics = Diagnostics::new();
    if let Some(pipeline) = load(Path::new("p.yaml"), &files, &options, &mut sources, &mut diagnostics) {
        for component in pipeline.sources.values().chain(pipeline.operators.values()).chain(pipeline.sinks.values()) {
            component.node.decode::<Config>(&mut diagnostics);
            if let Some(schema) = component.node.get("schema") {
                engine_spec::read_schema(schema, component.dir(&["schema"]), &files, &mut sources, &mut diagnostics);
            }
            for entry in component.node.entries() {
                entry.value.locate(0..usize::MAX);
                entry.value.locate(1..2);
            }
        }
    }
    diagnostics.settle(&sources);
    diagnostics.sort();
    for format in [Format::Human { color: false }, Format::Json, Format::Sarif, Format::Github] {
        render(format, &diagnostics, &sources);
    }
}
