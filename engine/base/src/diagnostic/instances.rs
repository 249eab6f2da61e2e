//! Files as the instances of templates see them.
//!
//! The text of a template stands once in a file, and its steps are made of it once for each instance. So that a problem can
//! say in which instance it arose, whoever finds it, an instance has a *view* of the file: a file of its own in the
//! [`SourceMap`], with the same path and text, into which its spans point. [`Diagnostics::settle`] leads the spans back to
//! the file, says which instance it was, and tells what is the same in several instances once.

use std::collections::HashMap;

use super::{Diagnostic, Diagnostics, FileId, Label, SourceFile, SourceMap, Span};

/// How many instances are named where a problem is the same in several.
const NAMED_MAX: usize = 3;

/// An instance of a template, as problems name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its full name.
    pub name: String,
    /// The template that it is an instance of.
    pub template: String,
    /// Where it is named; in a view itself if it stands in a template.
    pub span: Span,
}

/// What a file of the map is a view of.
#[derive(Clone, Debug)]
pub(super) struct View {
    of: FileId,
    instance: Instance,
}

impl SourceMap {
    /// Adds a view of a file, which is shown as that file.
    pub fn view(&mut self, of: FileId, instance: Instance) -> FileId {
        let of = self.files.get(of.0 as usize).and_then(|file| file.view.as_ref()).map_or(of, |view| view.of);
        let Some(file) = self.file(of) else { return of };
        let view = SourceFile { view: Some(View { of, instance }), ..file.clone() };
        self.push(view)
    }

    /// The place in the file itself.
    pub fn origin(&self, span: Span) -> Span {
        self.view_of(span).map_or(span, |view| Span { file: view.of, ..span })
    }

    /// The instance whose view this stands in.
    pub fn instance(&self, span: Span) -> Option<&Instance> {
        self.view_of(span).map(|view| &view.instance)
    }

    fn view_of(&self, span: Span) -> Option<&View> {
        self.file(span.file)?.view.as_ref()
    }
}

impl Diagnostics {
    /// Leads the places of problems back from views to the files themselves, and says in which instances they arose. What
    /// differs between instances in their names alone is told once.
    pub fn settle(&mut self, sources: &SourceMap) {
        if sources.files.iter().all(|file| file.view.is_none()) {
            return;
        }
        let mut settled: Vec<(Diagnostic, Vec<Instance>)> = Vec::new();
        let mut known: HashMap<Diagnostic, usize> = HashMap::new();
        for mut item in std::mem::take(&mut self.items) {
            let instance = item.primary.as_ref().and_then(|label| sources.instance(label.span)).cloned();
            // From the innermost instance to the outermost.
            let mut names = Vec::new();
            let mut within = instance.as_ref();
            while let Some(instance) = within {
                names.push(instance.name.as_str());
                within = sources.instance(instance.span);
            }
            for label in item.primary.iter_mut().chain(&mut item.labels) {
                label.span = sources.origin(label.span);
            }
            let at = *known.entry(nameless(&item, &names)).or_insert_with(|| {
                settled.push((item, Vec::new()));
                settled.len() - 1
            });
            if let Some(instance) = instance
                && !settled[at].1.iter().any(|known| known.name == instance.name)
            {
                settled[at].1.push(instance);
            }
        }
        self.items = settled
            .into_iter()
            .map(|(mut item, instances)| {
                if let Some(first) = instances.first() {
                    let span = sources.origin(first.span);
                    item.labels.push(Label { span, text: said(&first.template, &instances) });
                }
                item
            })
            .collect();
    }
}

fn said(template: &str, instances: &[Instance]) -> String {
    let mut names: Vec<String> =
        instances.iter().take(NAMED_MAX).map(|instance| format!("`{}`", instance.name)).collect();
    if instances.len() > NAMED_MAX {
        names.push(format!("{} more", instances.len() - NAMED_MAX));
    }
    let (noun, names) = match names.split_last() {
        Some((last, [])) => ("instance", last.clone()),
        Some((last, others)) => ("instances", format!("{} and {last}", others.join(", "))),
        None => ("instance", String::new()),
    };
    format!("in the {noun} {names} of the template `{template}`")
}

/// A problem without the names of the instances that it arose in: what it shares with that of another instance.
fn nameless(item: &Diagnostic, names: &[&str]) -> Diagnostic {
    let mut item = item.clone();
    let texts = [&mut item.message].into_iter().chain(&mut item.help);
    let labels = item.primary.iter_mut().chain(&mut item.labels).map(|label| &mut label.text);
    for text in texts.chain(labels) {
        for (at, name) in names.iter().enumerate() {
            *text = text.replace(&format!("`{name}`"), &format!("`{at}`"));
            *text = text.replace(&format!("`{name}."), &format!("`{at}."));
            *text = text.replace(&format!(" {name}."), &format!(" {at}."));
        }
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    fn at(file: FileId, start: usize) -> Span {
        Span { file, start, end: start + 1 }
    }

    #[test]
    fn what_arises_in_several_instances_is_told_once() {
        let mut sources = SourceMap::default();
        let file = sources.add("p.yaml", "template text, and instances");
        let mut found = Diagnostics::new();
        let mut views = Vec::new();
        for name in ["a", "b", "c", "d", "e"] {
            let instance = Instance { name: name.to_owned(), template: "t".to_owned(), span: at(file, 20) };
            let view = sources.view(file, instance);
            views.push(view);
            let message = format!("`{name}.step` has no column `x`");
            found.push(Diagnostic::error(Code("E1"), at(view, 3), message).also(at(view, 5), "here"));
        }
        found.push(Diagnostic::error(Code("E1"), at(views[1], 3), "only one"));
        found.push(Diagnostic::error(Code("E1"), at(file, 9), "no instance").also(at(views[1], 2), "there"));
        // An instance in an instance.
        let inner = Instance { name: "a.i".to_owned(), template: "u".to_owned(), span: at(views[0], 4) };
        let inner = sources.view(views[0], inner);
        found.push(Diagnostic::error(Code("E1"), at(inner, 6), "`a.i.step` reads `a.step`"));
        found.settle(&sources);
        found.settle(&sources);
        let told: Vec<String> = found
            .iter()
            .map(|item| {
                let labels = item.primary.iter().chain(&item.labels);
                assert!(labels.clone().all(|label| label.span.file == file), "{item:?}");
                let labels: Vec<String> = labels.map(|label| format!("{} {}", label.span.start, label.text)).collect();
                format!("{} | {}", item.message, labels.join(" | "))
            })
            .collect();
        assert_eq!(
            told,
            [
                "`a.step` has no column `x` | 3  | 5 here | 20 in the instances `a`, `b`, `c` and 2 more of the template `t`",
                "only one | 3  | 20 in the instance `b` of the template `t`",
                "no instance | 9  | 2 there",
                "`a.i.step` reads `a.step` | 6  | 4 in the instance `a.i` of the template `u`",
            ]
        );
        assert_eq!(sources.files().count(), 1, "a view is no file");
    }
}
