//! JSON: one object a record.

pub mod decode;
pub mod encode;
pub mod scan;

pub(in crate::formats) use scan::string_stop as stop_of_string;

pub use decode::JsonDecoder;
pub use encode::JsonEncoder;

/// Whether `text` is one JSON value.
pub fn is_valid(text: &[u8]) -> bool {
    let mut cursor = scan::Cursor::new(text);
    cursor.space();
    cursor.skip().and_then(|()| cursor.end()).is_ok()
}

#[cfg(test)]
mod tests;
