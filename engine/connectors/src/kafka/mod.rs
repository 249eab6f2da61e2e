//! Kafka, through librdkafka: the connection, the source and the sink `kafka`.
//!
//! librdkafka fetches and sends in threads of its own. Records go from its fetch buffers straight into columns on the
//! worker's thread ([`source`]); the engine decides who reads which partition and from where, never a consumer group.
//! Unsafe code stands in [`native`] alone.

pub mod connection;
mod keeper;
mod marks;
mod native;
pub mod sink;
pub mod source;

use connection::Context;
use engine_base::Diagnostic;
use engine_base::codes::system as codes;
use engine_plan::Cx;

/// The longest name of a topic.
const TOPIC_LENGTH_MAX: usize = 249;

/// Notes an error where `name` can't be a topic.
fn check_topic(cx: &mut Cx<'_>, path: &[&str], name: &str) -> bool {
    let node = cx.component.node.at(path);
    if node.is_some_and(|node| node.is_placeholder()) {
        return true;
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let problem = if name.is_empty() {
        "a topic has a name"
    } else if name == "." || name == ".." {
        "`.` and `..` can't be topics"
    } else if name.len() > TOPIC_LENGTH_MAX {
        "the name of a topic has at most 249 characters"
    } else if !name.chars().all(legal) {
        "the name of a topic has letters, digits, `.`, `_` and `-` only"
    } else {
        return true;
    };
    let mut found = Diagnostic::error(codes::BAD_TOPIC, cx.span(path), problem);
    if name.contains(',') {
        found = found.help("write several topics as a list: `topic: [orders, returns]`");
    }
    cx.push(found);
    false
}

#[cfg(test)]
mod testing;
