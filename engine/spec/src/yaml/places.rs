//! Where the bytes of a scalar's text stand in the file, whatever its style.

use saphyr_parser::ScalarStyle;

use crate::node::Places;

/// Finds `value` in the `start..end` of `text` that holds the scalar as it was written.
///
/// Folding and escapes change only white space and quoting, so the two are aligned by their other characters: white
/// space of the value lies wherever the character before it ended.
pub(super) fn find(text: &str, start: usize, end: usize, style: ScalarStyle, value: &str) -> Places {
    let Some(written) = text.get(start..end) else { return Places::Whole };
    let direct = match style {
        ScalarStyle::Plain => written.ends_with(value).then(|| end - value.len()),
        ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
            let inside = written.get(..written.len().saturating_sub(1)).unwrap_or_default();
            (inside.ends_with(value) && !value.contains('\\')).then(|| end - 1 - value.len())
        }
        ScalarStyle::Literal | ScalarStyle::Folded => None,
    };
    match direct {
        Some(start) => Places::From(start),
        None => align(text, start, end, style, value).unwrap_or(Places::Whole),
    }
}

fn align(text: &str, start: usize, end: usize, style: ScalarStyle, value: &str) -> Option<Places> {
    let mut steps: Vec<(usize, usize)> = Vec::new();
    let mut at = start;
    if matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted) {
        at += text.get(start..end)?.find(['\'', '"'])? + 1;
    }
    for (byte, c) in value.char_indices() {
        if c.is_whitespace() {
            // A run of white space goes on from the character before it; spans are clamped, and nobody points at a blank.
            continue;
        }
        let (from, next) = next_visible(text.get(..end)?, at, style)?;
        let expected = text.get(from..next)?;
        let same = expected.starts_with(c) || (style == ScalarStyle::DoubleQuoted && expected.starts_with('\\'));
        if !same {
            return None;
        }
        let runs_on =
            steps.last().is_some_and(|(text_byte, file_byte)| byte - text_byte == from.wrapping_sub(*file_byte));
        if !runs_on {
            steps.push((byte, from));
        }
        at = next;
        // An escape is longer than its character: what follows does not run on.
        if next - from != c.len_utf8() {
            steps.push((byte + c.len_utf8(), next));
        }
    }
    if steps.first().is_none_or(|(byte, _)| *byte > 0) {
        steps.insert(0, (0, at.min(steps.first().map_or(at, |(_, file)| *file))));
    }
    steps.dedup_by_key(|(byte, _)| *byte);
    Some(Places::Steps(steps.into()))
}

/// The next character that is not white space, escaped or not: its first byte and the one after it.
fn next_visible(text: &str, mut at: usize, style: ScalarStyle) -> Option<(usize, usize)> {
    loop {
        let c = text.get(at..)?.chars().next()?;
        let length = match (style, c) {
            (ScalarStyle::DoubleQuoted, '\\') => {
                let kind = text.get(at + 1..)?.chars().next()?;
                let length = match kind {
                    'x' => 4,
                    'u' => 6,
                    'U' => 10,
                    kind => 1 + kind.len_utf8(),
                };
                let blank = match kind {
                    'n' | 't' | 'r' | 'v' | 'f' | ' ' | '\t' | '\n' | '\r' | 'N' | '_' | 'L' | 'P' => true,
                    'x' | 'u' | 'U' => text
                        .get(at + 2..at + length)
                        .and_then(|hex| u32::from_str_radix(hex, 16).ok())
                        .and_then(char::from_u32)
                        .is_some_and(char::is_whitespace),
                    _ => false,
                };
                if !blank {
                    return Some((at, at + length));
                }
                length
            }
            (ScalarStyle::SingleQuoted, '\'') => return Some((at, at + 2)),
            (_, c) if c.is_whitespace() => c.len_utf8(),
            (_, c) => return Some((at, at + c.len_utf8())),
        };
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use engine_base::{Diagnostics, FileId};

    /// Each `«…»` in the expected file text marks where `needle` of the value must be found.
    fn check(marked: &str, needle: &str) {
        let text = marked.replace(['«', '»'], "");
        let start = marked.find('«').unwrap();
        let end = marked.find('»').unwrap() - '«'.len_utf8();
        let mut diagnostics = Diagnostics::new();
        let root = super::super::parse(FileId(0), &text, &mut diagnostics).root.unwrap();
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        let node = root.get("k").unwrap();
        let value = node.as_str().unwrap();
        let at = value.find(needle).unwrap_or_else(|| panic!("{needle:?} is not in {value:?}"));
        let span = node.locate(at..at + needle.len());
        assert_eq!((span.start, span.end), (start, end), "{text:?}: {:?}", text.get(span.start..span.end));
    }

    #[test]
    fn every_style() {
        check("k: amount > «card» AND x", "card");
        check("k:   «amount»", "amount");
        check("k: &anchor «amount» > 5", "amount");
        check("k: \"amount > «card»\"", "card");
        check("k: 'amount > «card»'", "card");
        check("k: 'it''s «card»'", "card");
        check("k: 'it''«s» card'", "s");
        check("k: \"a\\tb «card»\"", "card");
        check("k: \"caf\\u00e9 «card» x\"", "card");
        check("k: é ü «card» x", "card");
        check("k: |\n  amount > 5\n    AND «card» = 1\n  AND x\n", "card");
        check("k: |-\n  amount > 5\n  AND é = «card»\n", "card");
        check("k: >\n  amount > 5\n  AND «card» = 1\n\n  x\n", "card");
        check("k: amount >\n   «card» AND\n   x", "card");
        check("k: 'amount >\n   «card» AND\n   x'", "card");
        check("k: \"amount > \\\n   «card» AND\n   x\"", "card");
    }
}
