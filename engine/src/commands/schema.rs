//! `engine schema`: the JSON Schema of the language, made from the structs that read it.

use super::{Exit, print};
use crate::load::registries;

/// The document is the same for the same build, so that it can be committed and compared.
pub(crate) fn run() -> Exit {
    print(&format!("{:#}\n", engine_plan::schema::language(&registries())));
    Exit::Success
}
