//! Templates taken apart: names, values and places; and what is said of those that are wrong.

use crate::pipeline::include::tests::loaded;
use crate::{LoadOptions, Node, Pipeline};

fn text<'p>(pipeline: &'p Pipeline, step: &str, path: &[&str]) -> Option<&'p str> {
    pipeline.operators[step].node.at(path)?.text()
}

fn steps(pipeline: &Pipeline) -> Vec<&str> {
    pipeline.operators.keys().map(String::as_str).collect()
}

const MAIN: &str = r#"version: 1
pipeline: p
include: ../lib/scoring.yaml
parameters:
  limit: { type: int64, default: 3 }
  region: { type: string, default: eu }
sources:
  a: { type: x }
operators:
  first: { type: filter, input: a }
  cards: { type: template, template: scoring, input: first, with: { threshold: 0.8 } }
  wires:
    type: template
    template: scoring
    input: { from: a, where: amount > param.limit }
    with: { threshold: "${param:limit}", region: us }
  chained:
    type: chain
    input: cards.history
    steps:
      - { type: map }
      - { type: template, template: twice, name: mid }
      - { type: template, template: twice }
sinks:
  b: { type: y, input: wires }
"#;

const LIBRARY: &str = r#"version: 1
templates:
  scoring:
    description: what a card did before
    parameters:
      threshold: { type: float64 }
      region: { type: string, default: "${param:region}" }
      note: { type: string | null }
    inputs: [rows]
    operators:
      history: { type: rolling, input: rows, over: 5m, path: "${param:region}/${param:limit}.txt" }
      clean:
        type: chain
        input: history
        steps: [{ type: map, set: { z: param.note } }, { type: map, name: kept }, { type: filter }]
      risky: { type: filter, input: clean, where: amount > param.threshold }
    output: risky
  twice:
    inputs: [rows]
    operators:
      one: { type: filter, input: rows }
      two: { type: template, template: inner, inputs: { given: { from: one, where: a > 1 } } }
  inner:
    inputs: [given]
    operators:
      last: { type: filter, input: given }
"#;

#[test]
fn an_instance_has_the_steps_of_its_template() {
    let (pipeline, problems) = loaded(&[("dir/p.yaml", MAIN), ("lib/scoring.yaml", LIBRARY)], &LoadOptions::default());
    assert_eq!(problems, [""; 0]);
    let pipeline = pipeline.expect("a pipeline");
    assert_eq!(
        steps(&pipeline).join(" "),
        "first cards.history cards.clean.1 cards.kept cards.clean cards.risky \
         wires.rows wires.history wires.clean.1 wires.kept wires.clean wires.risky \
         chained.1 mid.one mid.two.given mid.two.last chained.one chained.two.given chained.two.last"
    );
    assert_eq!(pipeline.chains["cards.clean"], ["cards.clean.1", "cards.kept", "cards.clean"]);
    assert_eq!(pipeline.chains["chained"], ["chained.1", "mid", "chained"]);
    // Names stay as they are written; the values of a text are those of the instance.
    assert_eq!(text(&pipeline, "cards.history", &["input"]), Some("rows"));
    assert_eq!(text(&pipeline, "cards.history", &["path"]), Some("eu/3.txt"));
    assert_eq!(text(&pipeline, "wires.history", &["path"]), Some("us/3.txt"));
    assert_eq!(text(&pipeline, "wires.rows", &["where"]), Some("amount > param.limit"));
    let wires = &pipeline.instances["wires"];
    assert_eq!((wires.output.0.as_str(), wires.inputs.len(), wires.steps.len()), ("risky", 0, 5));
    assert_eq!(wires.parameters["threshold"].value.as_ref().and_then(Node::text), Some("3"));
    let cards = &pipeline.instances["cards"];
    assert_eq!(cards.inputs["rows"].from, "first");
    assert_eq!(cards.parameters["threshold"].value.as_ref().and_then(Node::text), Some("0.8"));
    let last = &pipeline.operators["chained.two.last"];
    assert_eq!((last.instance.as_deref(), last.local_name()), (Some("chained.two"), "last"));
    assert_eq!(pipeline.instances["chained.two"].within.as_deref(), Some("chained"));
    // A filter of what is read stands where the instance does.
    assert_eq!(pipeline.operators["wires.rows"].instance, None);
    assert_eq!(pipeline.operators["mid.two.given"].instance.as_deref(), Some("mid"));
    // Paths are relative to the file that the template stands in.
    let history = &pipeline.operators["cards.history"];
    assert_eq!((history.dir(&["path"]), history.base_dir.as_path()), ("lib".as_ref(), "lib".as_ref()));
    assert_eq!(pipeline.operators["wires.rows"].dir(&[]).to_str(), Some("dir"));
    assert!(pipeline.unused.operators.is_empty() && pipeline.broken.is_empty());
}

#[test]
fn templates_can_be_set_from_the_command_line() {
    let options = LoadOptions {
        set: vec![
            ("templates.scoring.operators.history.over".to_owned(), "9m".to_owned()),
            ("operators.cards.with.threshold".to_owned(), "0.1".to_owned()),
        ],
        ..LoadOptions::default()
    };
    let (pipeline, problems) = loaded(&[("dir/p.yaml", MAIN), ("lib/scoring.yaml", LIBRARY)], &options);
    assert_eq!(problems, [""; 0]);
    let pipeline = pipeline.expect("a pipeline");
    assert_eq!(text(&pipeline, "cards.history", &["over"]), Some("9m"));
    assert_eq!(text(&pipeline, "wires.history", &["over"]), Some("9m"));
    assert_eq!(pipeline.instances["cards"].parameters["threshold"].value.as_ref().and_then(Node::text), Some("0.1"));
}

const HEAD: &str = "version: 1\npipeline: p\nsources:\n  a: { type: x }\nsinks:\n  b: { type: y, input: a }\n";
const ONE: &str = "  t:\n    parameters: { n: { type: int64 } }\n    inputs: [rows]\n    operators: { s: { type: filter, input: rows, where: param.n } }\n";

/// Templates and operators, and the problems: the line is counted from `templates:`.
#[test]
fn what_is_wrong_is_told_at_its_place() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            ONE,
            "  c: { type: template, template: t, input: a }\n",
            &["E0133 13 the parameter `n` of the template `t` has no value"],
        ),
        (
            ONE,
            "  c: { type: template, template: t, input: a, with: { n: x, m: 1 } }\n",
            &[
                "E0132 13 the template `t` has no parameter `m`",
                "E0134 13 the parameter `n` is of type `int64`, and this is the text `x`",
            ],
        ),
        (
            ONE,
            "  c: { type: template, template: t, input: a, with: { n: param.k } }\n",
            &["E0134 13 `with` takes values, and `param.k` is an expression"],
        ),
        (
            ONE,
            "  c: { type: template, template: u, input: a }\n",
            &["E0154 13 there is no template `u`", "E0157 8 nothing uses the template `t`"],
        ),
        (ONE, "  c: { type: template, template: t, with: { n: 1 } }\n", &["E0156 13 the instance `c` reads nothing"]),
        (
            ONE,
            "  c: { type: template, template: t, inputs: { row: a }, with: { n: 1 } }\n",
            &["E0156 13 the template `t` has no input `row`"],
        ),
        (
            ONE,
            "  c: { type: template, template: t, inputs: {}, with: { n: 1 } }\n",
            &["E0156 13 the input `rows` of the template `t` is not given"],
        ),
        (
            ONE,
            "  c: { type: template, template: t, input: a, inputs: { rows: a }, with: { n: 1 } }\n",
            &["E0156 13 an instance has `input` or `inputs`, not both"],
        ),
        (
            ONE,
            "  c: { type: template, template: \"${env:T:-t}\", input: a, with: { n: 1 } }\n",
            &["E0156 13 the name of a template is written out"],
        ),
        (ONE, "  c: { type: template, template: t, input: a, wiht: { n: 1 } }\n", &["E0117 13 unknown key `wiht`"]),
        (
            ONE,
            "  a: { type: template, template: t, input: a, with: { n: 1 } }\n",
            &["E0141 13 `a` is the name of a source already"],
        ),
        (
            "  t: { inputs: [rows, rows], operators: { errors: { type: f }, rows: { type: f } } }\n",
            "",
            &[
                "E0153 8 `rows` is the name of an input of the template already",
                "E0153 8 `rows` is an input of the template already",
                "E0153 8 a step of a template can't be named `errors`: the rows that fail in any of its steps are",
            ],
        ),
        (
            "  t: { inputs: [], operators: {} }\n",
            "",
            &["E0153 8 the template `t` has no inputs", "E0153 8 the template `t` has no steps"],
        ),
        (
            "  t: { inputs: [rows], operators: { s: { type: f } }, output: rows }\n",
            "",
            &["E0153 8 `rows` is an input of the template, and its output is the output of a step"],
        ),
        ("  t: { inputs: [rows], operatros: { s: { type: f } } }\n", "", &["E0117 8 unknown key `operatros`"]),
        (
            "  t: { parameters: { n: { type: json }, m: { type: int8, default: 300 } }, inputs: [rows], operators: { s: { type: f, a: \"${param:n}${param:m}\" } } }\n",
            "  c: { type: template, template: t, input: a }\n",
            &[
                "E0134 8 a parameter can't be of type `json`",
                "E0134 8 the number `300` is out of range for the parameter `m` of type `int8`",
            ],
        ),
        (
            "  t: { parameters: { n: { type: int8, default: 3 } }, inputs: [rows], operators: { s: { type: f } } }\n",
            "  c: { type: template, template: t, input: a }\n",
            &["E0312 8 no step of the template uses the parameter `n`"],
        ),
        (
            "  t: { inputs: [rows], operators: { s: { type: template, template: t, input: rows } } }\n",
            "",
            &["E0155 8 `t` uses itself"],
        ),
        (
            "  t: { inputs: [rows], operators: { s: { type: template, template: u, input: rows } } }\n  u: { inputs: [rows], operators: { s: { type: chain, input: rows, steps: [{ type: template, template: t }] } } }\n",
            "  c: { type: template, template: t, input: a }\n",
            &["E0155 8 templates use each other in a circle: t -> u -> t"],
        ),
        // The same in two instances: once, at the template.
        (
            "  t: { inputs: [rows], operators: { s: { typ: filter, p: \"${param:gone}\" } } }\n",
            "  c: { type: template, template: t, input: a }\n  d: { type: template, template: t, input: a }\n",
            &["E0132 8 there is no parameter `gone`", "E0118 8 the operator `s` has no `type`"],
        ),
        // Only what stands in the unused one's text.
        (
            "  t: { inputs: [rows], operators: { s: { typ: filter } } }\n",
            "",
            &["E0157 8 nothing uses the template `t`", "E0118 8 the operator `s` has no `type`"],
        ),
    ];
    let mut wrong = Vec::new();
    for (templates, operators, expected) in cases {
        let operators = if operators.is_empty() { "  o: { type: f }\n" } else { operators };
        let file = format!("{HEAD}templates:\n{templates}operators:\n{operators}");
        let (_, problems) = loaded(&[("dir/p.yaml", &file)], &LoadOptions::default());
        let problems: Vec<String> = problems.iter().map(|line| line.replace(" dir/p.yaml:", " ")).collect();
        if problems != *expected {
            wrong.push(format!("{file}{problems:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Templates that double at each level, and templates in one another without end.
#[test]
fn instances_are_bounded() {
    let level = |at: usize| {
        let uses = format!("{{ type: template, template: t{}, input: rows }}", at + 1);
        format!("  t{at}: {{ inputs: [rows], operators: {{ a: {uses}, b: {uses} }} }}\n")
    };
    for depth in [11, 14, 100] {
        let templates: String = (0..depth).map(level).collect();
        let last = format!("  t{depth}: {{ inputs: [rows], operators: {{ a: {{ type: f, input: rows }} }} }}\n");
        let use_it = "operators:\n  c: { type: template, template: t0, input: a }\n";
        let file = format!("{HEAD}templates:\n{templates}{last}{use_it}");
        let (_, problems) = loaded(&[("dir/p.yaml", &file)], &LoadOptions::default());
        match depth {
            11 => assert_eq!(problems, [""; 0]),
            _ => assert!(
                problems.len() == 1 && problems[0].contains("the instances of templates are too many"),
                "{problems:?}"
            ),
        }
    }
}
