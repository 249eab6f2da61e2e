//! The way of rustc: code, sentence, the line with a caret, the remedy.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::clamp;
use crate::diagnostic::{Diagnostic, Diagnostics, Label, Severity, SourceFile, SourceMap, Span};

/// Labels at most this many lines apart share a snippet; the lines between are folded.
const MAX_WINDOW_LINES: usize = 200;
/// A longer line is cut around the label before it is laid out.
const MAX_LINE_BYTES: usize = 2_000;
/// How much of a cut line stands before the label.
const CUT_BEFORE_BYTES: usize = 60;

pub(super) fn render(diagnostics: &Diagnostics, sources: &SourceMap, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for diagnostic in diagnostics.iter() {
        text.push_str(renderer.render(&[group(diagnostic, sources)]).trim_end());
        text.push_str("\n\n");
    }
    text
}

/// A piece of a file with its labels.
struct Window<'s> {
    file: &'s SourceFile,
    /// First line, from one, and its first byte.
    line: usize,
    start: usize,
    end: usize,
    labels: Vec<(bool, Label)>,
}

fn group<'s>(diagnostic: &'s Diagnostic, sources: &'s SourceMap) -> Group<'s> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let mut group = Group::with_title(level.primary_title(clean(&diagnostic.message)).id(diagnostic.code.0));
    for window in windows(diagnostic, sources) {
        let text = &window.file.text[window.start..window.end];
        if text.len() > MAX_LINE_BYTES && !text.contains('\n') {
            for (primary, label) in &window.labels {
                let (cut, from, at) = cut_line(text, label.span.start - window.start, label.span.end - window.start);
                let (line, column) = window.file.line_column(label.span.start);
                group = group.element(Origin::path(window.file.path.clone()).line(line).char_column(column)).element(
                    Snippet::source(cut)
                        .line_start(line)
                        .annotation(kind(*primary).span(from..at).label(label_text(label))),
                );
            }
            continue;
        }
        let annotations = window.labels.iter().map(|(primary, label)| {
            kind(*primary).span(label.span.start - window.start..label.span.end - window.start).label(label_text(label))
        });
        group = group.element(
            Snippet::source(text)
                .path(window.file.path.clone())
                .line_start(window.line)
                .annotations(annotations.collect::<Vec<_>>()),
        );
    }
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(clean(help)));
    }
    group
}

fn kind(primary: bool) -> AnnotationKind {
    if primary { AnnotationKind::Primary } else { AnnotationKind::Context }
}

fn label_text(label: &Label) -> Option<String> {
    (!label.text.is_empty()).then(|| clean(&label.text))
}

/// The labels by file and nearness, the primary's first. Each is on one line.
fn windows<'s>(diagnostic: &Diagnostic, sources: &'s SourceMap) -> Vec<Window<'s>> {
    let labels = diagnostic.primary.iter().map(|label| (true, label));
    let labels = labels.chain(diagnostic.labels.iter().map(|label| (false, label)));
    let mut windows: Vec<(Span, Window<'s>)> = Vec::new();
    for (primary, label) in labels {
        let Some(file) = sources.file(label.span.file) else { continue };
        let (start, end) = clamp(&file.text, label.span);
        let line_end = file.text[start..].find('\n').map_or(file.text.len(), |at| start + at);
        let line_end = start + file.text[start..line_end].trim_end_matches('\r').len();
        let visible_end = file.text[start..line_end].trim_end().len() + start;
        let end = end.min(visible_end.max(start));
        let line_start = file.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let (line, _) = file.line_column(start);
        let label = Label { span: Span { start, end, ..label.span }, text: label.text.clone() };
        let long = line_end - line_start > MAX_LINE_BYTES;
        let near = windows.iter_mut().find(|(span, window)| {
            let lines = window.line.abs_diff(line);
            let bytes = window.start.abs_diff(line_start);
            span.file == label.span.file
                && !long
                && lines < MAX_WINDOW_LINES
                && bytes < MAX_WINDOW_LINES * MAX_LINE_BYTES
        });
        match near {
            Some((_, window)) => {
                if line_start < window.start {
                    (window.start, window.line) = (line_start, line);
                }
                window.end = window.end.max(line_end);
                window.labels.push((primary, label));
            }
            None => {
                let window =
                    Window { file, line, start: line_start, end: line_end, labels: vec![(primary, label.clone())] };
                windows.push((label.span, window));
            }
        }
    }
    windows.into_iter().map(|(_, window)| window).collect()
}

/// The part of a long line around `start..end`, and where these lie in it.
fn cut_line(text: &str, start: usize, end: usize) -> (String, usize, usize) {
    let boundary = |mut byte: usize| {
        byte = byte.min(text.len());
        while !text.is_char_boundary(byte) {
            byte -= 1;
        }
        byte
    };
    let from = boundary(start.saturating_sub(CUT_BEFORE_BYTES));
    let to = boundary((from + MAX_LINE_BYTES).max(start));
    let before = if from > 0 { "…" } else { "" };
    let after = if to < text.len() { "…" } else { "" };
    let cut = format!("{before}{}{after}", &text[from..to]);
    let shift = |byte: usize| byte.clamp(from, to) - from + before.len();
    (cut, shift(start), shift(end.max(start)))
}

/// Text of the file may stand in a sentence: it must not move the cursor or change colours.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c) => {
                '\u{fffd}'
            }
            c => c,
        })
        .collect()
}
