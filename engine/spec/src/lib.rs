//! The language: a YAML file to a spanned tree, and the tree to typed structs.
//!
//! It does no I/O (files come through [`Files`]), knows no kind of source, operator, sink or model, and plans nothing:
//! it parses, substitutes, applies profiles and overrides, takes chains and templates apart, and hands out [`Component`]s whose config is
//! decoded by whoever knows the kind. Every function returns what it understood and every problem it found.

pub mod decode;
pub mod node;
pub mod pipeline;
mod substitute;
pub mod types;
pub mod value;
pub mod yaml;

pub use node::{Entry, Node, Piece, Value};
pub use pipeline::{
    Component, Delivery, ExpectedConfig, Folders, Instance, LoadOptions, MaxInFlight, Measure, ModelRef, Objective,
    Parameter, Pipeline, PipelineFile, Test, TestStepConfig, load,
};
pub use types::{ColumnType, FieldSpec, SchemaSpec, TimeUnit, read_schema, read_type};
pub use value::{Assignments, Expression, Input, Rate, Secret, Size, SpanOr, TimeSpan};

use std::io;
use std::path::Path;

/// How files are read while a pipeline is loaded and planned. Tests and editors give their own.
pub trait Files {
    /// The bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The value of an environment variable.
    fn env(&self, name: &str) -> Option<String>;
    /// The value of a secret, or `None` where it is not to be had (dry-run puts a typed placeholder).
    fn secret(&self, name: &str) -> Option<String>;
    /// How a secret is set, for who has not done so.
    fn secret_help(&self, _name: &str) -> String {
        "set it where the engine runs".to_owned()
    }
    /// Whether a file can be opened to be read, without reading it.
    fn check_readable(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
    /// The one path of a file that several paths may lead to.
    fn canonical(&self, path: &Path) -> std::path::PathBuf {
        path.to_owned()
    }
    /// The files that a glob pattern matches, sorted by name.
    fn glob(&self, pattern: &Path) -> io::Result<Vec<std::path::PathBuf>>;
}
