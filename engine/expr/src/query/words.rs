//! The words and signs of a query, and the small forms that its clauses share.

use super::{Interval, Name, Term, Word, term};
use crate::error::ExprError;
use crate::parse::{self, short};
use datafusion_sql::sqlparser::tokenizer::Token;
use engine_base::codes::query as codes;
use std::ops::Range;

/// Words behind which a value or a name is still due, so that what follows is no clause.
const OPEN: &[&str] = &[
    "AND", "OR", "NOT", "LIKE", "ILIKE", "IN", "BETWEEN", "IS", "BY", "WHERE", "HAVING", "ON", "SELECT", "DISTINCT",
    "ALL", "FROM", "JOIN", "AS", "WHEN", "THEN", "ELSE", "CASE", "ESCAPE", "LIMIT", "TO", "XOR", "DIV", "OFFSET",
];

/// Words that end a value and can't be the name given to one.
const NO_ALIAS: &[&str] = &["END", "NULL", "TRUE", "FALSE", "UNKNOWN"];

/// The tokens of a query.
pub(super) struct Words<'t> {
    pub(super) text: &'t str,
    pub(super) tokens: Vec<(Token, Range<usize>)>,
    /// How many brackets and CASEs each stands in.
    pub(super) depth: Vec<usize>,
}

impl<'t> Words<'t> {
    pub(super) fn new(text: &'t str) -> Result<Words<'t>, ExprError> {
        let mut tokens = parse::words(text)?;
        if tokens.last().is_some_and(|(token, _)| *token == Token::SemiColon) {
            tokens.pop();
        }
        let mut words = Words { text, depth: Vec::with_capacity(tokens.len()), tokens };
        let mut depth = 0usize;
        for at in 0..words.tokens.len() {
            let closes = matches!(words.tokens[at].0, Token::RParen | Token::RBracket | Token::RBrace);
            let ends = words.is(at, "END") && !words.dotted(at);
            depth = depth.saturating_sub(usize::from(closes));
            words.depth.push(depth);
            depth = depth.saturating_sub(usize::from(ends));
            let opens = matches!(words.tokens[at].0, Token::LParen | Token::LBracket | Token::LBrace);
            depth += usize::from(opens || words.is(at, "CASE") && !words.dotted(at));
        }
        Ok(words)
    }

    /// Whether a word is a part of a name with dots.
    fn dotted(&self, at: usize) -> bool {
        let period =
            |at: Option<usize>| at.and_then(|at| self.tokens.get(at)).is_some_and(|(t, _)| *t == Token::Period);
        period(at.checked_sub(1)) || period(Some(at + 1))
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn token(&self, at: usize) -> Option<&Token> {
        self.tokens.get(at).map(|(token, _)| token)
    }

    pub(super) fn sign(&self, at: usize, sign: &Token) -> bool {
        self.token(at) == Some(sign)
    }

    /// The word at a place, where it is no quoted name.
    pub(super) fn bare(&self, at: usize) -> Option<&str> {
        match self.token(at) {
            Some(Token::Word(word)) if word.quote_style.is_none() => Some(&word.value),
            _ => None,
        }
    }

    pub(super) fn is(&self, at: usize, word: &str) -> bool {
        self.bare(at).is_some_and(|found| found.eq_ignore_ascii_case(word))
    }

    pub(super) fn any(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(at, word))
    }

    /// The name at a place, quoted or not.
    pub(super) fn word(&self, at: usize) -> Option<Word> {
        match self.tokens.get(at)? {
            (Token::Word(word), range) => Some(Word { text: word.value.clone(), range: range.clone() }),
            _ => None,
        }
    }

    /// The bytes of some tokens; the end of the text for none behind the last.
    pub(super) fn bytes(&self, tokens: Range<usize>) -> Range<usize> {
        let end = self.text.trim_end().len();
        let start = self.tokens.get(tokens.start).map_or(end, |(_, range)| range.start);
        let last = tokens.end.checked_sub(1).filter(|last| *last >= tokens.start);
        let stop = last.and_then(|last| self.tokens.get(last)).map_or(start, |(_, range)| range.end);
        start..stop.max(start)
    }

    /// Whether a value or a name ends with the token.
    pub(super) fn ends_value(&self, at: usize) -> bool {
        match self.token(at) {
            Some(Token::Word(word)) => {
                word.quote_style.is_some()
                    || self.dotted(at)
                    || !OPEN.iter().any(|open| word.value.eq_ignore_ascii_case(open))
            }
            Some(Token::Mul) => match at.checked_sub(1) {
                Some(before) => {
                    self.any(before, &["SELECT", "DISTINCT", "ALL"])
                        || matches!(self.token(before), Some(Token::Comma | Token::Period))
                }
                None => false,
            },
            Some(Token::RParen | Token::RBracket | Token::RBrace | Token::Number(..) | Token::Placeholder(_)) => true,
            Some(token) => matches!(
                token,
                Token::SingleQuotedString(_)
                    | Token::EscapedStringLiteral(_)
                    | Token::HexStringLiteral(_)
                    | Token::NationalStringLiteral(_)
                    | Token::DollarQuotedString(_)
            ),
            None => false,
        }
    }

    /// Whether the word at `at` begins a clause: it stands outside of brackets, behind a whole value.
    pub(super) fn begins(&self, at: usize) -> bool {
        self.depth[at] == 0
            && self.bare(at).is_some()
            && at.checked_sub(1).is_some_and(|before| self.ends_value(before))
            && !self.sign(at + 1, &Token::Period)
    }

    /// Parts between commas outside of brackets.
    pub(super) fn parts(&self, tokens: Range<usize>) -> Vec<Range<usize>> {
        let depth = self.depth.get(tokens.start).copied().unwrap_or(0);
        let mut parts = Vec::new();
        let mut start = tokens.start;
        for at in tokens.clone() {
            if self.depth[at] == depth && self.sign(at, &Token::Comma) {
                parts.push(start..at);
                start = at + 1;
            }
        }
        parts.push(start..tokens.end);
        parts
    }

    /// Conditions between ANDs outside of brackets; one where there is an OR.
    pub(super) fn conditions(&self, tokens: Range<usize>) -> Vec<Range<usize>> {
        let outside = |at: &usize| self.depth[*at] == 0 && self.is_operator(*at);
        if tokens.clone().filter(outside).any(|at| self.any(at, &["OR", "XOR"])) {
            return vec![tokens];
        }
        let mut parts = Vec::new();
        let mut start = tokens.start;
        let mut between = 0usize;
        for at in tokens.clone().filter(|at| self.depth[*at] == 0 && self.is_operator(*at)) {
            if self.is(at, "BETWEEN") {
                between += 1;
            } else if self.is(at, "AND") && between > 0 {
                between -= 1;
            } else if self.is(at, "AND") {
                parts.push(start..at);
                start = at + 1;
            }
        }
        parts.push(start..tokens.end);
        parts
    }

    fn is_operator(&self, at: usize) -> bool {
        self.bare(at).is_some() && !self.dotted(at)
    }

    /// The expression of some tokens.
    pub(super) fn term(&self, tokens: Range<usize>, what: &str) -> Result<Term, ExprError> {
        if tokens.is_empty() {
            let at = self.bytes(tokens);
            let found = self.tokens.iter().find(|(_, range)| range.start == at.start && !range.is_empty());
            let message = match found {
                Some((_, range)) => {
                    format!("{what} is due here, not `{}`", short(&self.text[range.clone()]))
                }
                None => format!("{what} is due here, and the query ends"),
            };
            let place = found.map_or(at, |(_, range)| range.clone());
            return Err(ExprError::new(codes::QUERY_SYNTAX, message).at(place));
        }
        let form = |at: usize| match &self.tokens[at].0 {
            // Keywords and functions have no case; columns do, and differ nowhere else.
            Token::Word(word) if self.sign(at + 1, &Token::LParen) => word.value.to_lowercase(),
            token => token.to_string(),
        };
        let form: Vec<String> = tokens.clone().map(form).collect();
        term(self.text, self.bytes(tokens), form.join(" "))
    }

    /// A name with dots, from `at` on, and where it ends.
    pub(super) fn name(&self, at: usize) -> Option<(Name, usize)> {
        let mut parts = vec![self.word(at)?];
        let mut next = at + 1;
        while self.sign(next, &Token::Period) {
            parts.push(self.word(next + 1)?);
            next += 2;
        }
        Some((Name { parts }, next))
    }

    /// `INTERVAL '1 minute'` or `INTERVAL '1' MINUTE` from `at` on, and where it ends.
    pub(super) fn interval(&self, at: usize) -> Option<Result<(Interval, usize), ExprError>> {
        if !self.is(at, "INTERVAL") {
            return None;
        }
        let written = match self.token(at + 1)? {
            Token::SingleQuotedString(text) => text.clone(),
            Token::Number(number, _) => number.clone(),
            _ => return None,
        };
        let unit = self.bare(at + 2).filter(|word| unit_ns(word).is_some() || is_calendar(word)).map(str::to_owned);
        let end = at + 2 + usize::from(unit.is_some());
        let range = self.bytes(at..end);
        let written = format!("{written} {}", unit.unwrap_or_default());
        let wrong = |message: &str| {
            ExprError::new(codes::QUERY_SYNTAX, message.to_owned())
                .at(range.clone())
                .help("write a whole number and a unit: `INTERVAL '90 seconds'`, `INTERVAL '1' MINUTE`")
        };
        Some(span_ns(&written).map_err(wrong).map(|ns| (Interval { ns, range: range.clone() }, end)))
    }

    /// Whether the name in the last token of an item is one that it is given, without AS.
    pub(super) fn names_item(&self, tokens: &Range<usize>) -> bool {
        let Some(last) = tokens.end.checked_sub(1).filter(|last| *last > tokens.start) else { return false };
        let is_unit = last >= tokens.start + 2 && self.is(last - 2, "INTERVAL");
        self.depth[last] == 0
            && self.word(last).is_some()
            && !self.any(last, NO_ALIAS)
            && self.ends_value(last - 1)
            && !is_unit
    }

    /// A clause that is not supported.
    pub(super) fn refused(&self, what: &str, tokens: Range<usize>, help: &str) -> ExprError {
        ExprError::new(codes::QUERY_CLAUSE, format!("{what} is not supported in a query"))
            .at(self.bytes(tokens))
            .help(help)
    }

    /// A token that can't stand where it does.
    pub(super) fn unexpected(&self, at: usize, wanted: &str) -> ExprError {
        let message = match self.tokens.get(at) {
            Some((_, range)) => format!("{wanted} is due here, not `{}`", short(&self.text[range.clone()])),
            None => format!("{wanted} is due here, and the query ends"),
        };
        ExprError::new(codes::QUERY_SYNTAX, message).at(self.bytes(at..at + 1))
    }
}

fn is_calendar(unit: &str) -> bool {
    matches!(unit.to_ascii_lowercase().trim_end_matches('s'), "month" | "year" | "quarter" | "decade" | "century")
}

fn unit_ns(unit: &str) -> Option<i64> {
    Some(match unit.to_ascii_lowercase().trim_end_matches('s') {
        "nanosecond" => 1,
        "microsecond" => 1_000,
        "millisecond" => 1_000_000,
        "second" => 1_000_000_000,
        "minute" => 60_000_000_000,
        "hour" => 3_600_000_000_000,
        "day" => 86_400_000_000_000,
        "week" => 7 * 86_400_000_000_000,
        _ => return None,
    })
}

/// `1 minute 30 seconds` in nanoseconds, or why not.
fn span_ns(text: &str) -> Result<i64, &'static str> {
    const FORM: &str = "this interval can't be read";
    let mut words = text.split_whitespace();
    let mut total = 0i64;
    let mut any = false;
    while let Some(number) = words.next() {
        let number: i64 = number.parse().map_err(|_| FORM)?;
        let unit = words.next().ok_or("this interval has no unit")?;
        if is_calendar(unit) {
            return Err("months and years are not equally long");
        }
        let unit = unit_ns(unit).ok_or(FORM)?;
        let more = number.checked_mul(unit).ok_or("this interval is too long")?;
        total = total.checked_add(more).ok_or("this interval is too long")?;
        any = true;
    }
    if any { Ok(total) } else { Err(FORM) }
}
