//! Text to SQL syntax tree, with the place of every token.
//!
//! The grammar is sqlparser's; three things are ours. What SQL has and an expression over a row has not (subqueries, `==`)
//! is told by name before the parser meets it. Words that are keywords only in other SQL are made plain names again, so
//! that columns may be called `interval` or `user`. And the parser is kept from its exponential corners: it tries a
//! dotted name, or a keyword that may be a function, again at each level when what follows is wrong, so dotted names
//! are joined to one token first, and such a keyword is read in one way only.

use crate::error::ExprError;
use datafusion_sql::sqlparser::ast::{Expr, Ident, Spanned, Value};
use datafusion_sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, TokenizerError, Word};
use engine_base::codes::expr as codes;
use std::any::TypeId;
use std::ops::Range;

/// The longest text, in bytes.
const MAX_TEXT_BYTES: usize = 64 * 1024;
/// The most tokens; with it the deepest tree that a chain of operators can make.
const MAX_TOKENS: usize = 20_000;
/// How deep parentheses, brackets and calls may be nested.
const MAX_NESTING: usize = 40;
/// `position(a IN b)` is tried in two ways at each level; beyond this many it is an ordinary call.
const MAX_POSITIONS: usize = 4;
/// Marks the one token that stands for a dotted name.
/// The name of the type `timestamp` with a unit and a zone, which nobody can write.
pub(crate) const TIMESTAMP_IN: &str = "\u{1}timestamp";
const DOTTED: char = '\u{1}';

/// A text, its tree and its places.
#[derive(Debug)]
pub(crate) struct Parsed<'t> {
    /// As it is written.
    pub(crate) text: &'t str,
    /// What it says.
    pub(crate) tree: Expr,
    tokens: Vec<(Token, Range<usize>)>,
    places: Places,
    dotted: Vec<Vec<Ident>>,
}

impl Parsed<'_> {
    /// The parts of a dotted name, if this is one.
    pub(crate) fn dotted(&self, ident: &Ident) -> Option<&[Ident]> {
        let at: usize = ident.value.strip_prefix(DOTTED).filter(|_| ident.quote_style.is_none())?.parse().ok()?;
        self.dotted.get(at).map(Vec::as_slice)
    }

    /// The field of a `.name` that was read as `['name']`.
    pub(crate) fn dot_field<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.strip_prefix(DOTTED)
    }

    /// The bytes of a part of the tree, where the tree knows them.
    pub(crate) fn range(&self, part: &impl Spanned) -> Option<Range<usize>> {
        self.span(part.span())
    }

    /// The bytes of a span.
    pub(crate) fn span(&self, span: Span) -> Option<Range<usize>> {
        if span.start.line == 0 || span.end.line == 0 {
            return None;
        }
        let start = self.places.byte(span.start);
        let end = self.places.byte(span.end);
        (start < end).then_some(start..end)
    }

    /// A range with the parentheses that belong to it: the tree forgets those around a part.
    pub(crate) fn balanced(&self, range: Range<usize>) -> Range<usize> {
        let (mut open, mut unopened) = (0usize, 0usize);
        for (token, at) in &self.tokens {
            if at.start < range.start || at.end > range.end {
                continue;
            }
            match token {
                Token::LParen | Token::LBracket | Token::LBrace => open += 1,
                Token::RParen | Token::RBracket | Token::RBrace if open > 0 => open -= 1,
                Token::RParen | Token::RBracket | Token::RBrace => unopened += 1,
                _ => {}
            }
        }
        let closes = |token: &Token| matches!(token, Token::RParen | Token::RBracket | Token::RBrace);
        let opens = |token: &Token| matches!(token, Token::LParen | Token::LBracket | Token::LBrace);
        let after = self.tokens.iter().filter(|(token, at)| at.start >= range.end && closes(token));
        let before = self.tokens.iter().rev().filter(|(token, at)| at.end <= range.start && opens(token));
        let end = after.map(|(_, at)| at.end).take(open).last().unwrap_or(range.end);
        let start = before.map(|(_, at)| at.start).take(unopened).last().unwrap_or(range.start);
        start..end
    }

    /// The bytes of a cast's type: behind AS or ::, where that follows the value.
    pub(crate) fn cast_type(&self, value: Range<usize>) -> Option<Range<usize>> {
        let mark = self.tokens.iter().position(|(token, at)| {
            at.start >= value.end && (keyword(token) == Keyword::AS || *token == Token::DoubleColon)
        })?;
        let mut depth = 0usize;
        let mut range: Option<Range<usize>> = None;
        for (token, at) in &self.tokens[mark + 1..] {
            match token {
                Token::LParen | Token::Lt => depth += 1,
                Token::RParen | Token::Gt if depth == 0 => break,
                Token::RParen | Token::Gt => depth -= 1,
                Token::Word(_) | Token::Number(..) | Token::Comma | Token::SingleQuotedString(_) => {}
                _ => break,
            }
            range = Some(range.map_or(at.start, |range| range.start)..at.end);
            // `x::type` ends with its one word.
            let next = self.tokens.get(mark + 2).map(|(token, _)| token);
            if self.tokens[mark].0 == Token::DoubleColon && !matches!(next, Some(Token::LParen | Token::Lt)) {
                break;
            }
        }
        range
    }

    /// The bytes of each argument of a call.
    pub(crate) fn arguments(&self, call: Range<usize>) -> Vec<Range<usize>> {
        let inside = self.tokens.iter().filter(|(_, at)| at.start >= call.start && at.end <= call.end);
        let mut depth = 0usize;
        let mut arguments: Vec<Range<usize>> = Vec::new();
        let mut current: Option<Range<usize>> = None;
        for (token, at) in inside {
            let closing = matches!(token, Token::RParen | Token::RBracket | Token::RBrace);
            depth -= usize::from(closing && depth > 0);
            if depth == 0 && closing {
                break;
            }
            match token {
                Token::Comma if depth == 1 => arguments.extend(current.take()),
                _ if depth == 0 => {}
                Token::Word(word)
                    if depth == 1 && matches!(word.keyword, Keyword::DISTINCT | Keyword::ALL) && current.is_none() => {}
                Token::Word(word) if depth == 1 && word.keyword == Keyword::ORDER => break,
                _ => current = Some(current.map_or(at.start, |range| range.start)..at.end),
            }
            depth += usize::from(matches!(token, Token::LParen | Token::LBracket | Token::LBrace));
        }
        arguments.extend(current);
        arguments
    }

    /// The bytes of a call: from its name to its closing parenthesis.
    pub(crate) fn call(&self, name: Span) -> Option<Range<usize>> {
        let name = self.span(name)?;
        let mut depth = 0usize;
        for (token, range) in self.tokens.iter().skip_while(|(_, range)| range.start < name.end) {
            match token {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return Some(name.start..if *token == Token::RParen { range.end } else { name.end });
            }
        }
        Some(name)
    }
}

/// Reads one expression.
pub(crate) fn parse(text: &str) -> Result<Parsed<'_>, ExprError> {
    if text.trim().is_empty() {
        return Err(ExprError::new(codes::EMPTY, "an expression is due here, and nothing is written")
            .help("for an empty text, write `''`"));
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(ExprError::new(
            codes::TOO_LARGE,
            format!("the expression is longer than {} KiB", MAX_TEXT_BYTES / 1024),
        )
        .help("compute a part of it as a column in a `map` before this step"));
    }
    let (places, mut tokens) = tokenize(text)?;
    if tokens.is_empty() {
        return Err(ExprError::new(codes::EMPTY, "an expression is due here, and there is only a comment"));
    }
    if tokens.len() > MAX_TOKENS {
        return Err(ExprError::new(
            codes::TOO_LARGE,
            format!("the expression has more than {MAX_TOKENS} words and signs"),
        )
        .help("compute a part of it as a column in a `map` before this step"));
    }
    check_brackets(&tokens)?;
    check_foreign(&tokens)?;
    plain_words(&mut tokens);
    timestamp_types(&mut tokens);
    let kept = tokens.iter().map(|(token, range)| (token.token.clone(), range.clone())).collect();
    let mut parsed = Parsed { text, tree: Expr::value(Value::Null), tokens: kept, places, dotted: Vec::new() };
    let joined = join_names(&mut parsed, tokens)?;
    let mut parser = Parser::new(&Language).with_recursion_limit(MAX_NESTING + 8).with_tokens_with_locations(joined);
    parsed.tree = parser.parse_expr().map_err(|error| refused(&parsed, &error))?;
    let rest = parser.peek_token_ref();
    if rest.token != Token::EOF {
        let at = parsed.places.byte(rest.span.start);
        return Err(left_over(&parsed, at));
    }
    Ok(parsed)
}

/// A token and its bytes.
type TokenAt = (TokenWithSpan, Range<usize>);

/// The tokens of a text with their bytes, without spaces and comments.
fn tokenize(text: &str) -> Result<(Places, Vec<TokenAt>), ExprError> {
    let places = Places::of(text);
    let raw =
        Tokenizer::new(&Language, text).tokenize_with_location().map_err(|error| unreadable(text, &places, &error))?;
    let tokens = raw
        .into_iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
        .map(|token| {
            let range = places.byte(token.span.start)..places.byte(token.span.end);
            (token, range)
        })
        .collect();
    Ok((places, tokens))
}

/// The tokens of a query, whose brackets match.
pub(crate) fn words(text: &str) -> Result<Vec<(Token, Range<usize>)>, ExprError> {
    let too_large = |message: String| {
        let error = ExprError::new(codes::TOO_LARGE, message);
        Err(error.help("make a step of its own of a part of it"))
    };
    if text.len() > MAX_TEXT_BYTES {
        return too_large(format!("the query is longer than {} KiB", MAX_TEXT_BYTES / 1024));
    }
    let (_, tokens) = tokenize(text)?;
    if tokens.len() > MAX_TOKENS {
        return too_large(format!("the query has more than {MAX_TOKENS} words and signs"));
    }
    check_brackets(&tokens)?;
    Ok(tokens.into_iter().map(|(token, range)| (token.token, range)).collect())
}

/// From lines and characters, both counted from one, to bytes.
#[derive(Debug)]
struct Places {
    /// The byte of each character, and of the end.
    characters: Vec<usize>,
    /// The number of each line's first character.
    lines: Vec<usize>,
}

impl Places {
    fn of(text: &str) -> Self {
        let mut places = Places { characters: Vec::with_capacity(text.len() + 1), lines: vec![0] };
        for (number, (byte, c)) in text.char_indices().enumerate() {
            places.characters.push(byte);
            if c == '\n' {
                places.lines.push(number + 1);
            }
        }
        places.characters.push(text.len());
        places
    }

    fn byte(&self, at: Location) -> usize {
        let counted = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
        let end = self.characters.last().copied().unwrap_or(0);
        let Some(first) = self.lines.get(counted(at.line)) else { return end };
        self.characters.get(first.saturating_add(counted(at.column))).copied().unwrap_or(end)
    }
}

/// SQL as far as an expression over a row needs it. It passes for sqlparser's generic dialect, whose special cases it keeps.
#[derive(Debug)]
struct Language;

impl Dialect for Language {
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }
    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_' || ch == '#' || ch == '@'
    }
    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || matches!(ch, '_' | '$' | '#' | '@')
    }
    // A keyword that opens a form is read as that form; `plain_words` has made the others plain.
    fn is_reserved_for_identifier(&self, _: Keyword) -> bool {
        true
    }
    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }
    fn supports_window_function_null_treatment_arg(&self) -> bool {
        true
    }
    fn supports_dictionary_syntax(&self) -> bool {
        true
    }
    fn support_map_literal_syntax(&self) -> bool {
        true
    }
    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }
    fn allow_extract_custom(&self) -> bool {
        true
    }
    fn allow_extract_single_quotes(&self) -> bool {
        true
    }
    fn supports_bitwise_shift_operators(&self) -> bool {
        true
    }
    fn supports_comma_separated_trim(&self) -> bool {
        true
    }
    fn supports_string_escape_constant(&self) -> bool {
        true
    }
    fn supports_nested_comments(&self) -> bool {
        true
    }
    fn supports_data_type_signed_suffix(&self) -> bool {
        true
    }
}

/// A text that can't be cut into tokens: nearly always a quote that is not closed.
fn unreadable(text: &str, places: &Places, error: &TokenizerError) -> ExprError {
    let at = places.byte(error.location);
    let message = error.message.as_str();
    let unclosed =
        |what: &str, from: usize| ExprError::new(codes::UNCLOSED, format!("{what} is not closed")).at(from..text.len());
    if message.contains("string literal") || message.contains("encoded string") {
        unclosed("the text that starts here", at).help("a single quote within text is written twice: `'it''s'`")
    } else if message.contains("close delimiter") || message.contains("nested delimiter") {
        unclosed("the quoted name that starts here", at).help("text stands in single quotes")
    } else if message.contains("comment") {
        let from = text.find("/*").unwrap_or(at);
        unclosed("the comment that starts here", from)
    } else if message.contains("dollar-quoted") {
        unclosed("the text in dollar signs", text.find('$').unwrap_or(at))
    } else {
        ExprError::new(codes::SYNTAX, "this can't be read as an expression").at(at..text.len())
    }
}

/// Each bracket closes the one it should, and none is nested too deeply.
fn check_brackets(tokens: &[(TokenWithSpan, Range<usize>)]) -> Result<(), ExprError> {
    let mut open: Vec<(&'static str, &'static str, &Range<usize>)> = Vec::new();
    for (token, range) in tokens {
        let (opened, closed) = match token.token {
            Token::LParen => (Some(("(", ")")), None),
            Token::LBracket => (Some(("[", "]")), None),
            Token::LBrace => (Some(("{", "}")), None),
            Token::RParen => (None, Some(")")),
            Token::RBracket => (None, Some("]")),
            Token::RBrace => (None, Some("}")),
            _ => continue,
        };
        if let Some((sign, closes)) = opened {
            open.push((sign, closes, range));
            if open.len() > MAX_NESTING {
                return Err(ExprError::new(
                    codes::TOO_LARGE,
                    format!("the expression is nested more than {MAX_NESTING} brackets deep"),
                )
                .at(range.clone())
                .help("compute a part of it as a column in a `map` before this step"));
            }
        } else if let Some(sign) = closed {
            match open.pop() {
                Some((_, closes, _)) if closes == sign => {}
                Some((opens, closes, _)) => {
                    return Err(ExprError::new(codes::UNCLOSED, format!("`{sign}` can't close `{opens}`"))
                        .at(range.clone())
                        .help(format!("`{closes}` is due before it")));
                }
                None => {
                    return Err(
                        ExprError::new(codes::UNCLOSED, format!("this `{sign}` closes nothing")).at(range.clone())
                    );
                }
            }
        }
    }
    match open.pop() {
        None => Ok(()),
        Some((sign, _, range)) => {
            Err(ExprError::new(codes::UNCLOSED, format!("this `{sign}` is never closed")).at(range.clone()))
        }
    }
}

/// What people of other languages write, and what SQL has beyond expressions.
fn check_foreign(tokens: &[(TokenWithSpan, Range<usize>)]) -> Result<(), ExprError> {
    let foreign = |sign: &str, write: &str, range: &Range<usize>| {
        Err(ExprError::new(codes::FOREIGN_OPERATOR, format!("`{sign}` is not SQL"))
            .at(range.clone())
            .help(write.to_owned()))
    };
    for (at, (token, range)) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| &tokens[at].0.token);
        match &token.token {
            Token::DoubleEq => return foreign("==", "write `=`", range),
            Token::Overlap => return foreign("&&", "write `AND`", range),
            Token::ExclamationMark => return foreign("!", "write `NOT`", range),
            Token::Arrow | Token::LongArrow => {
                return foreign(
                    &token.token.to_string(),
                    "a field is `s.field`, a value in JSON text `json_get(text, '$.a.b')`",
                    range,
                );
            }
            Token::Question => return foreign("?", "write `CASE WHEN a THEN b ELSE c END`", range),
            Token::Assignment => return foreign(":=", "write `=`", range),
            Token::SemiColon => {
                return Err(ExprError::new(codes::TRAILING, "an expression has no `;`")
                    .at(range.clone())
                    .help("leave it out"));
            }
            Token::Placeholder(name) if name == "?" => {
                return foreign("?", "write `CASE WHEN a THEN b ELSE c END`", range);
            }
            Token::Placeholder(name) => {
                return Err(ExprError::new(
                    codes::UNSUPPORTED,
                    format!("`{name}` is a placeholder, and nothing fills it"),
                )
                .at(range.clone())
                .help("a parameter of the pipeline is `param.name`"));
            }
            Token::LParen if before.is_some_and(|before| keyword(before) == Keyword::FILTER) => {
                if let Some((next, at)) = tokens.get(at + 1)
                    && keyword(&next.token) != Keyword::WHERE
                {
                    return Err(ExprError::new(codes::SYNTAX, "WHERE is due here")
                        .at(at.clone())
                        .help("write `FILTER (WHERE condition)`"));
                }
            }
            Token::Word(word) if word.quote_style.is_none() && matches!(before, Some(Token::LParen)) => {
                if matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::TABLE) {
                    return Err(ExprError::new(
                        codes::UNSUPPORTED,
                        "a subquery can't stand in an expression over one row",
                    )
                    .at(range.clone())
                    .help("rows of the past are what `rolling` gives, rows of another stream `join` and `enrich`"));
                }
            }
            Token::Word(word)
                if word.keyword == Keyword::SELECT
                    && word.quote_style.is_none()
                    && before.is_none()
                    && tokens.len() > 1 =>
            {
                return Err(ExprError::new(codes::UNSUPPORTED, "a query can't stand where an expression is due")
                    .at(range.clone())
                    .help("write only what stands between SELECT and FROM"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes their meaning from keywords that open no form here, so that they are plain names.
fn plain_words(tokens: &mut [(TokenWithSpan, Range<usize>)]) {
    let positions = tokens.iter().filter(|(token, _)| keyword(&token.token) == Keyword::POSITION).count();
    let mut type_follows = false;
    for at in 0..tokens.len() {
        let next = tokens.get(at + 1).map(|(token, _)| token.token.clone());
        let called = next == Some(Token::LParen);
        let before = at.checked_sub(1).map(|at| &tokens[at].0.token);
        // Within a cast's type: after AS or ::, and on through `ARRAY<`.
        type_follows = match before {
            Some(Token::DoubleColon) => true,
            Some(Token::Word(word)) => word.keyword == Keyword::AS || (word.keyword == Keyword::ARRAY && type_follows),
            Some(Token::Lt) => type_follows,
            _ => false,
        };
        let Token::Word(word) = &mut tokens[at].0.token else { continue };
        let keep = match word.keyword {
            Keyword::EXTRACT
            | Keyword::SUBSTR
            | Keyword::SUBSTRING
            | Keyword::OVERLAY
            | Keyword::TRIM
            | Keyword::CAST
            | Keyword::TRY_CAST
            | Keyword::SAFE_CAST => called,
            Keyword::POSITION => called && positions <= MAX_POSITIONS,
            Keyword::ARRAY => next == Some(Token::LBracket) || type_follows,
            Keyword::MAP => next == Some(Token::LBrace),
            Keyword::INTERVAL => matches!(next, Some(Token::SingleQuotedString(_) | Token::Number(..))),
            Keyword::EXISTS
            | Keyword::CONVERT
            | Keyword::TRY_CONVERT
            | Keyword::STRUCT
            | Keyword::MATCH
            | Keyword::LAMBDA
            | Keyword::PRIOR
            | Keyword::CEIL
            | Keyword::FLOOR
            | Keyword::USER
            | Keyword::CURRENT_USER
            | Keyword::SESSION_USER
            | Keyword::CURRENT_CATALOG
            | Keyword::NULLABLE
            | Keyword::LOWCARDINALITY
            | Keyword::TUPLE
            | Keyword::NESTED
            | Keyword::ENUM
            | Keyword::ENUM8
            | Keyword::ENUM16
            | Keyword::SET
            | Keyword::UNION
            | Keyword::TABLE
            | Keyword::SETOF
            | Keyword::TRIGGER
            | Keyword::OPERATOR
            | Keyword::OVERLAPS
            | Keyword::COLLATE
            | Keyword::SELECT
            | Keyword::VALUES
            | Keyword::XML => false,
            _ => continue,
        };
        if !keep {
            word.keyword = Keyword::NoKeyword;
        }
    }
}

/// Makes a type with arguments of `timestamp(ms)` and `timestamp(ms, "Europe/Berlin")`, as the language writes them: SQL
/// knows a number of digits there.
fn timestamp_types(tokens: &mut [(TokenWithSpan, Range<usize>)]) {
    for at in 1..tokens.len() {
        let (before, rest) = tokens.split_at_mut(at);
        let in_type = match before.last().map(|(token, _)| &token.token) {
            Some(Token::DoubleColon | Token::Lt) => true,
            Some(token) => keyword(token) == Keyword::AS,
            None => false,
        };
        let [(name, _), (open, _), (unit, _), behind @ ..] = rest else { return };
        let (Token::Word(name), Token::LParen, Token::Word(unit)) = (&mut name.token, &open.token, &mut unit.token)
        else {
            continue;
        };
        if !in_type || name.keyword != Keyword::TIMESTAMP || name.quote_style.is_some() {
            continue;
        }
        if let [(comma, _), (zone, _), ..] = behind
            && comma.token == Token::Comma
            && let Token::Word(Word { value, quote_style: Some('"'), .. }) = &zone.token
        {
            zone.token = Token::SingleQuotedString(value.clone());
        }
        *name = Word { value: TIMESTAMP_IN.to_owned(), quote_style: None, keyword: Keyword::NoKeyword };
        unit.keyword = Keyword::NoKeyword;
    }
}

fn keyword(token: &Token) -> Keyword {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

/// Makes one token of `a.b.c`, and `['c']` of a `.c` behind a bracket.
fn join_names(
    parsed: &mut Parsed<'_>,
    tokens: Vec<(TokenWithSpan, Range<usize>)>,
) -> Result<Vec<TokenWithSpan>, ExprError> {
    let mut joined: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut tokens = tokens.into_iter().peekable();
    while let Some((token, range)) = tokens.next() {
        match &token.token {
            Token::Word(first) if matches!(tokens.peek(), Some((next, _)) if next.token == Token::Period) => {
                let mut parts = vec![ident(first, token.span)];
                let mut end = token.span.end;
                while matches!(tokens.peek(), Some((next, _)) if next.token == Token::Period) {
                    let (_, dot) = tokens.next().unwrap_or_else(|| (token.clone(), range.clone()));
                    let Some((TokenWithSpan { token: Token::Word(word), span }, _)) = tokens.next() else {
                        return Err(ExprError::new(codes::SYNTAX, "a name is due after this dot").at(dot));
                    };
                    end = span.end;
                    parts.push(ident(&word, span));
                }
                let value = format!("{DOTTED}{}", parsed.dotted.len());
                parsed.dotted.push(parts);
                joined.push(TokenWithSpan {
                    token: Token::Word(Word { value, quote_style: None, keyword: Keyword::NoKeyword }),
                    span: Span::new(token.span.start, end),
                });
            }
            Token::Period => {
                let behind = matches!(joined.last().map(|token| &token.token), Some(Token::RBracket | Token::RParen));
                match tokens.next() {
                    Some((TokenWithSpan { token: Token::Word(word), span }, _)) if behind => {
                        let field = Token::SingleQuotedString(format!("{DOTTED}{}", word.value));
                        for token in [Token::LBracket, field, Token::RBracket] {
                            joined.push(TokenWithSpan { token, span });
                        }
                    }
                    Some(_) if !behind => {
                        return Err(
                            ExprError::new(codes::SYNTAX, "a dot must follow a name or a closing bracket").at(range)
                        );
                    }
                    _ => return Err(ExprError::new(codes::SYNTAX, "a name is due after this dot").at(range)),
                }
            }
            _ => joined.push(token),
        }
    }
    Ok(joined)
}

fn ident(word: &Word, span: Span) -> Ident {
    Ident { value: word.value.clone(), quote_style: word.quote_style, span }
}

/// A syntax error of the parser, in our words.
fn refused(parsed: &Parsed<'_>, error: &ParserError) -> ExprError {
    let text = match error {
        ParserError::RecursionLimitExceeded => {
            return ExprError::new(codes::TOO_LARGE, "the expression is nested too deeply")
                .help("compute a part of it as a column in a `map` before this step");
        }
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
    };
    let (text, place) = match text.rfind(" at Line: ") {
        Some(cut) => (&text[..cut], place(&text[cut + " at Line: ".len()..])),
        None => (text, None),
    };
    let found = place.map(|at| parsed.places.byte(at));
    let found = found.and_then(|at| parsed.tokens.iter().find(|(_, range)| range.contains(&at)));
    let wanted = text.strip_prefix("Expected: ").map(|text| text.split(", found: ").next().unwrap_or(text));
    let end = parsed.text.trim_end().len();
    match (wanted, found) {
        (Some(wanted), None) => {
            ExprError::new(codes::SYNTAX, format!("{} is due here, and the expression ends", plain(wanted)))
                .at(end..end)
        }
        (Some(wanted), Some((_, range))) => {
            let found = &parsed.text[range.clone()];
            let error = ExprError::new(codes::SYNTAX, format!("{} is due here, not `{}`", plain(wanted), short(found)));
            let behind_in = parsed
                .tokens
                .iter()
                .rev()
                .find(|(_, at)| at.end <= range.start)
                .is_some_and(|(token, _)| keyword(token) == Keyword::IN);
            let error = match found {
                _ if wanted == "(" && behind_in => {
                    error.help("values stand in parentheses: `x IN (a, b)`; of a list column write `x = ANY(list)`")
                }
                "=" | "<" | ">" | "*" | "/" | "%" | "," => error.help("a value is missing before it"),
                "'" => error.help("a single quote within text is written twice"),
                _ => error,
            };
            error.at(range.clone())
        }
        (None, found) => {
            let error = ExprError::new(codes::SYNTAX, "this can't be read as an expression");
            error.at(found.map(|(_, range)| range.clone()))
        }
    }
}

/// What the parser wanted, in plain words.
fn plain(wanted: &str) -> String {
    match wanted {
        "an expression" | "an expression:" | "placeholder" | "a value" => "a value".to_owned(),
        "(" | ")" | "[" | "]" | "{" | "}" | "," | ":" => format!("`{wanted}`"),
        "identifier" => "a name".to_owned(),
        "a data type name" => "the name of a type".to_owned(),
        "[NOT] NULL | TRUE | FALSE | DISTINCT | [form] NORMALIZED FROM after IS" => {
            "NULL, NOT NULL, TRUE, FALSE or DISTINCT FROM".to_owned()
        }
        other if other.len() <= 60 => other.to_owned(),
        _ => "something else".to_owned(),
    }
}

fn place(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
}

/// More text after a whole expression.
fn left_over(parsed: &Parsed<'_>, at: usize) -> ExprError {
    let Some(index) = parsed.tokens.iter().position(|(_, range)| range.contains(&at)) else {
        return ExprError::new(codes::TRAILING, "something is left after the expression").at(at..parsed.text.len());
    };
    let (token, range) = &parsed.tokens[index];
    let end = parsed.text.trim_end().len();
    let found = &parsed.text[range.clone()];
    let error = ExprError::new(codes::TRAILING, format!("the expression is complete before `{}`", short(found)))
        .at(range.start..end);
    let words = parsed.tokens.iter().all(|(token, _)| matches!(token, Token::Word(word) if word.quote_style.is_none()));
    match token {
        _ if words && !matches!(token, Token::Word(word) if word.keyword == Keyword::AS) => {
            error.help(format!("for text, write single quotes: `'{}'`", short(parsed.text.trim())))
        }
        Token::Comma => error.help("one key takes one expression; a list of values is `[a, b]`"),
        Token::Colon => error.help("a cast is `CAST(x AS type)`, a field `s.field`"),
        Token::Word(word) if word.keyword == Keyword::AS => error.help("the key is the column's name; leave out `AS`"),
        _ => error.help("an operator such as AND, +, = is missing before it, or quotes around text: `'...'`"),
    }
}

/// At most forty characters of it.
pub(crate) fn short(text: &str) -> String {
    const MOST: usize = 40;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= MOST && line.len() == text.len() {
        return line.to_owned();
    }
    line.chars().take(MOST - 1).chain(std::iter::once('…')).collect()
}
