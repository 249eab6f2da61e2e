//! A cursor over the text of one JSON record: tokens, and values that nobody wants.
//!
//! It checks the whole grammar of RFC 8259, also of what is skipped: numbers, escapes, control characters, UTF-8, nesting.
//! What is left to those who want a string is whether its `\u` escapes pair up to characters.
//!
//! It is our own because a pipeline reads few of a record's fields and knows their names and order before: most keys are
//! a comparison of two words, a skipped string is one search. A test holds it to serde_json's verdict on any input.

use super::super::RecordError;

/// How deep arrays and objects may stand in each other in a value that is skipped or kept as raw text.
pub const DEPTH_MAX: usize = 128;

type Result<T> = std::result::Result<T, Box<RecordError>>;

/// A place in the text.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

/// A string between its quotes.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a> {
    /// As it stands there; valid UTF-8.
    pub raw: &'a [u8],
    /// It has escapes.
    pub escaped: bool,
}

/// A number as it stands there, with what was learnt on the way over it.
#[derive(Clone, Copy, Debug)]
pub struct Number<'a> {
    /// Its text; ASCII.
    pub text: &'a [u8],
    /// It starts with a minus.
    pub negative: bool,
    /// All its digits as one number, whatever the point; meaningless with more than 19 of them.
    pub digits: u64,
    /// How many digits, leading zeros of the fraction included.
    pub count: usize,
    /// How many of them stand behind the point.
    pub fraction: usize,
    /// The exponent behind `e`, cut off far outside of any float.
    pub exponent: i32,
    /// It has neither point nor exponent.
    pub whole: bool,
}

impl<'a> Cursor<'a> {
    /// At the start of `text`.
    pub fn new(text: &'a [u8]) -> Self {
        Cursor { text, at: 0 }
    }

    /// The place: bytes from the start.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The text from `start` up to here.
    pub fn since(&self, start: usize) -> &'a [u8] {
        &self.text[start..self.at]
    }

    /// The text from here on.
    pub fn ahead(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// The next byte, which stays; zero at the end (and a zero byte is an error wherever it stands).
    #[inline(always)]
    pub fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    /// Goes over white space.
    #[inline(always)]
    pub fn space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// Takes `byte` if it is next.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) -> bool {
        let found = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    /// Takes `token` if it is next.
    #[inline(always)]
    pub fn take_token(&mut self, token: &Token) -> bool {
        let found = token.starts(self.text, self.at);
        if found {
            self.at += token.text.len();
        }
        found
    }

    /// Takes a word such as `null`, of which the first letter was seen.
    #[inline]
    pub fn word(&mut self, word: &'static [u8]) -> Result<()> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Nothing but white space may follow.
    pub fn end(&mut self) -> Result<()> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.unexpected("the end of the record")) }
    }

    /// The error that something else was expected here.
    #[cold]
    pub fn unexpected(&self, expected: &'static str) -> Box<RecordError> {
        let found = match self.text.get(self.at) {
            None => return self.error(format!("it ends where {expected} is expected")),
            Some(byte @ 0x21..=0x7e) => format!("`{}`", char::from(*byte)),
            Some(byte) => format!("the byte 0x{byte:02x}"),
        };
        self.error(format!("expected {expected}, found {found}"))
    }

    /// A mistake in the grammar here.
    #[cold]
    pub fn error(&self, what: impl Into<String>) -> Box<RecordError> {
        Box::new(RecordError::Syntax { what: what.into(), at: self.at })
    }

    /// A key and its colon, with space around it.
    pub fn key(&mut self) -> Result<Quoted<'a>> {
        if !self.take(b'"') {
            return Err(self.unexpected("a key"));
        }
        let key = self.string_rest()?;
        self.space();
        if !self.take(b':') {
            return Err(self.unexpected("a colon"));
        }
        Ok(key)
    }

    /// The rest of a string whose opening quote was taken.
    #[inline]
    pub fn string_rest(&mut self) -> Result<Quoted<'a>> {
        let start = self.at;
        let mut high = false;
        let mut escaped = false;
        loop {
            let (stop, seen_high) = string_stop(self.text, self.at);
            self.at = stop;
            high |= seen_high;
            match self.text.get(stop) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.error("a control character stands in a string")),
                None => return Err(self.error("it ends within a string")),
            }
        }
        let raw = &self.text[start..self.at];
        if high && let Err(error) = std::str::from_utf8(raw) {
            self.at = start + error.valid_up_to();
            return Err(self.error("it is not UTF-8"));
        }
        self.at += 1;
        Ok(Quoted { raw, escaped })
    }

    #[cold]
    fn escape(&mut self) -> Result<()> {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u')
                if self.text.get(self.at + 2..self.at + 6).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) =>
            {
                self.at += 6;
            }
            _ => return Err(self.error("an escape that JSON does not have")),
        }
        Ok(())
    }

    /// A whole number of up to 18 digits, if that is what comes; else nothing is taken, and [`Cursor::number`] tells more.
    #[inline(always)]
    pub fn small_integer(&mut self) -> Option<i64> {
        let start = self.at;
        let negative = self.take(b'-');
        let (mut digits, mut count) = (0, 0);
        self.digits(&mut digits, &mut count);
        let plain = count > 0 && !matches!(self.peek(), b'.' | b'e' | b'E');
        if !plain || count > 18 || (count > 1 && self.text[self.at - count] == b'0') {
            self.at = start;
            return None;
        }
        let value = digits as i64;
        Some(if negative { -value } else { value })
    }

    /// A number.
    #[inline(never)]
    pub fn number(&mut self) -> Result<Number<'a>> {
        let start = self.at;
        let negative = self.take(b'-');
        let (mut digits, mut count) = (0, 0);
        self.digits(&mut digits, &mut count);
        let first = self.text.get(self.at - count);
        if count == 0 || (count > 1 && first == Some(&b'0')) {
            self.at -= count.saturating_sub(1);
            return Err(self.unexpected(if count == 0 { "a digit" } else { "no digit behind a leading zero" }));
        }
        let mut number = Number { text: &[], negative, digits, count, fraction: 0, exponent: 0, whole: true };
        if matches!(self.peek(), b'.' | b'e' | b'E') {
            self.fraction_and_exponent(&mut number)?;
        }
        number.text = &self.text[start..self.at];
        Ok(number)
    }

    fn fraction_and_exponent(&mut self, number: &mut Number<'a>) -> Result<()> {
        number.whole = false;
        if self.take(b'.') {
            let before = number.count;
            self.digits(&mut number.digits, &mut number.count);
            number.fraction = number.count - before;
            if number.fraction == 0 {
                return Err(self.unexpected("a digit"));
            }
        }
        if self.take(b'e') || self.take(b'E') {
            let negative = self.take(b'-');
            if !negative {
                self.take(b'+');
            }
            let (mut digits, mut count) = (0, 0);
            self.digits(&mut digits, &mut count);
            if count == 0 {
                return Err(self.unexpected("a digit"));
            }
            let size = if count > 9 { 99_999 } else { digits.min(99_999) as i32 };
            number.exponent = if negative { -size } else { size };
        }
        Ok(())
    }

    /// Takes digits, eight at a time, and appends them to `value`; wraps around beyond 19 of them.
    #[inline(always)]
    fn digits(&mut self, value: &mut u64, count: &mut usize) {
        loop {
            let (parsed, found) = leading_digits(padded_word_at(self.text, self.at));
            *value = value.wrapping_mul(POWERS_OF_TEN[found]).wrapping_add(parsed);
            *count += found;
            self.at += found;
            if found < 8 {
                return;
            }
        }
    }

    /// Goes over a number.
    #[inline(always)]
    fn skip_number(&mut self) -> Result<()> {
        let start = self.at;
        self.take(b'-');
        let first = self.peek();
        let mut count = 0;
        loop {
            let found = digits_in_front(padded_word_at(self.text, self.at));
            count += found;
            self.at += found;
            if found < 8 {
                break;
            }
        }
        if count == 0 || (count > 1 && first == b'0') || matches!(self.peek(), b'.' | b'e' | b'E') {
            self.at = start;
            return self.number().map(drop);
        }
        Ok(())
    }

    /// Goes over a value of any kind.
    #[inline]
    pub fn skip(&mut self) -> Result<()> {
        match self.peek() {
            b'"' => {
                self.at += 1;
                self.string_rest().map(drop)
            }
            b'-' | b'0'..=b'9' => self.skip_number(),
            b'{' | b'[' => self.skip_nested(),
            _ => self.skip_word(),
        }
    }

    fn skip_word(&mut self) -> Result<()> {
        match self.peek() {
            b'n' => self.word(b"null"),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Goes over an array or an object. The nesting is a word of bits, an object is a one: no stack to overflow.
    fn skip_nested(&mut self) -> Result<()> {
        let mut open: u128 = 0;
        let mut depth = 0;
        loop {
            // A value is expected.
            let byte = self.peek();
            if byte == b'{' || byte == b'[' {
                if depth == DEPTH_MAX {
                    return Err(self.error("it is nested more than 128 deep"));
                }
                self.at += 1;
                self.space();
                let object = byte == b'{';
                if !self.take(if object { b'}' } else { b']' }) {
                    open = open << 1 | u128::from(object);
                    depth += 1;
                    if object {
                        self.key()?;
                        self.space();
                    }
                    continue;
                }
            } else {
                self.skip()?;
            }
            // A value has ended.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                self.space();
                let object = open & 1 == 1;
                if self.take(b',') {
                    self.space();
                    if object {
                        self.key()?;
                        self.space();
                    }
                    break;
                }
                if !self.take(if object { b'}' } else { b']' }) {
                    return Err(self.unexpected(if object { "a comma or `}`" } else { "a comma or `]`" }));
                }
                open >>= 1;
                depth -= 1;
            }
        }
    }
}

/// A key with its quotes and colon, ready to be compared in two words.
#[derive(Clone, Debug)]
pub struct Token {
    text: Box<[u8]>,
    head: u64,
    head_mask: u64,
    tail: u64,
}

impl Token {
    /// The token `"key":`, for a key without escapes.
    pub fn of_key(key: &[u8]) -> Self {
        let text: Box<[u8]> = [b"\"", key, b"\":"].concat().into();
        let mut padded = [0; 8];
        let short = text.len().min(8);
        padded[..short].copy_from_slice(&text[..short]);
        Token {
            head: u64::from_le_bytes(padded),
            head_mask: u64::MAX >> (64 - 8 * short),
            tail: text.len().checked_sub(8).and_then(|at| word_at(&text, at)).unwrap_or(0),
            text,
        }
    }

    #[inline(always)]
    fn starts(&self, text: &[u8], at: usize) -> bool {
        let len = self.text.len();
        let Some(head) = word_at(text, at) else {
            return text[at..].starts_with(&self.text);
        };
        if (head ^ self.head) & self.head_mask != 0 {
            return false;
        }
        match len {
            ..=8 => true,
            9..=16 => word_at(text, at + len - 8) == Some(self.tail),
            _ => text[at + 8..].starts_with(&self.text[8..]),
        }
    }
}

#[inline(always)]
fn word_at(text: &[u8], at: usize) -> Option<u64> {
    text.get(at..).and_then(|rest| rest.first_chunk()).map(|word| u64::from_le_bytes(*word))
}

/// The word at a place, with zeros for what lies behind the end of the text.
#[inline(always)]
fn padded_word_at(text: &[u8], at: usize) -> u64 {
    match word_at(text, at) {
        Some(word) => word,
        None => end_word(text, at),
    }
}

#[inline]
fn end_word(text: &[u8], at: usize) -> u64 {
    match text.len().checked_sub(8) {
        // The last word holds it all; what stands before the place is shifted out.
        Some(last) if at < text.len() => word_at(text, last).unwrap_or(0) >> (8 * (at - last)),
        Some(_) => 0,
        None => text.iter().skip(at).rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// 10^n for n up to 8.
const POWERS_OF_TEN: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// How many of eight bytes are digits before the first that is none.
#[inline(always)]
fn digits_in_front(word: u64) -> usize {
    let digits = word ^ 0x3030_3030_3030_3030;
    // A byte has its high nibble set if it is no digit: above nine it is carried there.
    let others = (digits | digits.wrapping_add(0x0606_0606_0606_0606)) & 0xf0f0_f0f0_f0f0_f0f0;
    (others.trailing_zeros() / 8) as usize
}

/// The number that the leading digits of eight bytes make, and how many they are.
#[inline(always)]
fn leading_digits(word: u64) -> (u64, usize) {
    let count = digits_in_front(word);
    if count == 0 {
        return (0, 0);
    }
    let digits = word ^ 0x3030_3030_3030_3030;
    // The digits move up and zeros come in front of them; then pairs, fours and eights are joined.
    let digits = digits << (64 - 8 * count);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    let eight = fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff;
    (eight, count)
}

/// The first quote, backslash or control character from `at` on (or the end), and whether a byte of no ASCII character
/// stands before it.
#[inline(always)]
pub fn string_stop(text: &[u8], at: usize) -> (usize, bool) {
    let mut at = at;
    let mut high = false;
    while let Some(block) = text.get(at..).and_then(|rest| rest.first_chunk()) {
        let (stops, highs) = block_masks(block);
        if stops != 0 {
            let before = stops.trailing_zeros();
            return (at + before as usize, high | (highs & ((1 << before) - 1) != 0));
        }
        high |= highs != 0;
        at += 16;
    }
    if at >= text.len() {
        return (text.len(), high);
    }
    // The last block holds the rest; what stands before it is shifted out, and the zeros that come in stop the search.
    let block = match text.last_chunk::<16>() {
        Some(last) => u128::from_le_bytes(*last) >> (8 * (at + 16 - text.len())),
        None => text[at..].iter().rev().fold(0, |block, byte| block << 8 | u128::from(*byte)),
    };
    let (stops, highs) = block_masks(&block.to_le_bytes());
    let before = (stops.trailing_zeros() as usize).min(text.len() - at);
    (at + before, high | (highs & ((1 << before) - 1) != 0))
}

/// A bit for each byte that stops a string, and one for each that is not ASCII.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn block_masks(block: &[u8; 16]) -> (u32, u32) {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    // SAFETY: SSE2 is part of every x86_64, and the load reads the 16 bytes of `block` without asking for alignment.
    unsafe {
        let bytes = _mm_loadu_si128(block.as_ptr().cast::<__m128i>());
        let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        let stops = _mm_or_si128(_mm_or_si128(quote, backslash), control);
        (_mm_movemask_epi8(stops) as u32, _mm_movemask_epi8(bytes) as u32)
    }
}

/// A bit for each byte that stops a string, and one for each that is not ASCII.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn block_masks(block: &[u8; 16]) -> (u32, u32) {
    let (mut stops, mut highs) = (0, 0);
    for (at, byte) in block.iter().enumerate() {
        stops |= u32::from(matches!(byte, b'"' | b'\\' | 0..=0x1f)) << at;
        highs |= u32::from(!byte.is_ascii()) << at;
    }
    (stops, highs)
}

/// Appends the characters of a string with escapes to `out`.
pub fn unescape(raw: &[u8], out: &mut Vec<u8>) -> std::result::Result<(), &'static str> {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        // The cursor has checked that each escape is complete.
        let (escape, behind) = rest[at + 1..].split_first().ok_or("an escape that ends early")?;
        rest = behind;
        match escape {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let code = character(&mut rest)?;
                out.extend_from_slice(code.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => out.push(*other),
        }
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// The character of one `\u` escape, or of the two of a surrogate pair.
fn character(rest: &mut &[u8]) -> std::result::Result<char, &'static str> {
    const LONE: &str = "a `\\u` escape that is half of a surrogate pair";
    let first = hex(rest)?;
    if let Some(character) = char::from_u32(first) {
        return Ok(character);
    }
    *rest = rest.strip_prefix(b"\\u").filter(|_| first < 0xdc00).ok_or(LONE)?;
    let second = hex(rest)?;
    if !(0xdc00..0xe000).contains(&second) {
        return Err(LONE);
    }
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(LONE)
}

fn hex(rest: &mut &[u8]) -> std::result::Result<u32, &'static str> {
    let (digits, behind) = rest.split_at_checked(4).ok_or("an escape that ends early")?;
    *rest = behind;
    digits.iter().try_fold(0, |value, digit| {
        char::from(*digit).to_digit(16).map(|digit| value << 4 | digit).ok_or("an escape that is not hexadecimal")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn valid(text: &[u8]) -> bool {
        let mut cursor = Cursor::new(text);
        cursor.space();
        cursor.skip().and_then(|()| cursor.end()).is_ok()
    }

    /// What serde_json says of the grammar, lone surrogates let pass and numbers of any size.
    fn oracle(text: &[u8]) -> bool {
        std::str::from_utf8(text).is_ok() && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
    }

    fn check(text: &[u8]) {
        assert_eq!(valid(text), oracle(text), "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn agrees_with_serde_json_on_odd_texts() {
        for text in [
            "",
            " ",
            "{}",
            "[]",
            "null",
            "nul",
            "nulll",
            "true",
            "false",
            "fals",
            "0",
            "-0",
            "-",
            "00",
            "01",
            "-01",
            "1.",
            ".5",
            "1.5",
            "1e",
            "1e5",
            "1E+5",
            "1e-",
            "1e+",
            "1.5e10",
            "+1",
            "1..2",
            "--1",
            "1 2",
            "0x10",
            "NaN",
            "Infinity",
            "\"",
            "\"a",
            "\"a\"",
            "\"\\",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12G4\"",
            "\"\\u1234\"",
            "\"\\ud800\"",
            "\"\t\"",
            "\"\u{7f}\"",
            "\"\u{e9}\"",
            "\"0123456789abcdef\"",
            "\"0123456789abcde\\\"\"",
            "\"0123456789abcdef0123456789abcdef\u{1}\"",
            "{\"a\":1}",
            "{\"a\" : 1 }",
            "{\"a\":1,}",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{'a':1}",
            "{1:1}",
            "[1,2]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1",
            "]",
            "}",
            "{",
            "[{\"a\":[]},{}]",
            "[[],[[]]]",
            "{\"a\":{\"b\":[1,{\"c\":null}]}}",
            "{\"a\":[1}",
            "[1]]",
            "// x",
            "[1] // x",
            "\u{feff}{}",
            "123456789",
            "12345678901234567890123456789",
            "1234567.12345678901",
            "\u{0}",
            "{}\u{0}",
            " {\r\n\t} ",
        ] {
            check(text.as_bytes());
        }
        check(b"\"\xff\"");
        check(b"\"0123456789abcdef\xc3\"");
        check(b"{\"\xc3\xa9\":1}");
        check(b"{\"\xc3\":1}");
    }

    #[test]
    fn bounds_the_nesting() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(valid(nested(DEPTH_MAX).as_bytes()));
        assert!(!valid(nested(DEPTH_MAX + 1).as_bytes()));
        assert!(!valid("[".repeat(1_000_000).as_bytes()));
        assert!(!valid("{\"a\":".repeat(1_000_000).as_bytes()));
    }

    #[test]
    fn counts_and_joins_digits() {
        for (text, value, count) in [
            ("1       ", 1, 1),
            ("12345678", 12_345_678, 8),
            ("0001a999", 1, 4),
            ("x1234567", 0, 0),
            ("99999999", 99_999_999, 8),
            ("12:34567", 12, 2),
            ("12/34567", 12, 2),
        ] {
            assert_eq!(leading_digits(word_at(text.as_bytes(), 0).unwrap()), (value, count), "{text}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                proptest::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn takes_what_serde_json_writes(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
            prop_assert!(valid(&text.unwrap()));
        }

        #[test]
        fn agrees_with_serde_json_on_damaged_texts(value in json(), at: prop::sample::Index, byte: u8, what in 0..3) {
            let mut text = serde_json::to_vec(&value).unwrap();
            let at = at.index(text.len());
            match what {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => drop(text.remove(at)),
            }
            check(&text);
        }

        #[test]
        fn agrees_with_serde_json_on_json_like_bytes(text in "[\\[\\]{}:,\"\\\\ 0-9.eE+truefalsn-]{0,24}") {
            check(text.as_bytes());
        }

        #[test]
        fn unescapes_as_serde_json_does(text: String) {
            let quoted = serde_json::to_string(&text).unwrap();
            let mut cursor = Cursor::new(quoted.as_bytes());
            assert!(cursor.take(b'"'));
            let mut out = Vec::new();
            unescape(cursor.string_rest().unwrap().raw, &mut out).unwrap();
            prop_assert_eq!(out, text.into_bytes());
        }

        #[test]
        fn unescapes_any_escapes_as_serde_json_does(text in "(\\\\u[dD][89abcdefABCDEF][0-9a-f]{2}|\\\\[nrtbf/\\\\\"]|\\\\u[0-9a-f]{4}|[a-zé])*") {
            let quoted = format!("\"{text}\"");
            let mut cursor = Cursor::new(quoted.as_bytes());
            assert!(cursor.take(b'"'));
            let mut out = Vec::new();
            let ours = unescape(cursor.string_rest().unwrap().raw, &mut out).ok().map(|()| String::from_utf8(out).unwrap());
            prop_assert_eq!(ours, serde_json::from_str::<String>(&quoted).ok());
        }
    }
}
