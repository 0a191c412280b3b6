//! Whatever a file holds, the compiler answers: it never panics, and never takes a file for good that it can't run.

use proptest::prelude::*;
use sidestream_crds::compile;

const GOOD: &str = include_str!("../cases/ok/every-kind.yaml");

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        check(&bytes)?;
    }

    #[test]
    fn any_text_gets_an_answer(text in "[ -~\n\t]{0,512}") {
        check(text.as_bytes())?;
    }

    #[test]
    fn any_yaml_like_text_gets_an_answer(tokens in proptest::collection::vec(prop::sample::select(TOKENS), 0..64)) {
        check(format!("kind: Pipeline\nmetadata: {{name: a}}\nspec:\n{}", tokens.concat()).as_bytes())?;
    }

    #[test]
    fn a_good_file_with_a_slip_gets_an_answer(at in 0..GOOD.len(), length in 0..24usize, insert in "[ -~\n]{0,4}") {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes.splice(at..(at + length).min(GOOD.len()), insert.bytes());
        check(&bytes)?;
    }

    #[test]
    fn a_good_file_with_lines_moved_gets_an_answer(from in 0..40usize, to in 0..40usize) {
        let mut lines: Vec<&str> = GOOD.lines().collect();
        let line = lines.remove(from % lines.len());
        lines.insert(to % lines.len(), line);
        check(lines.join("\n").as_bytes())?;
    }
}

/// An answer is a plan for every pipeline, or an error that says why not; every diagnostic has words and a cure.
fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let compiled = compile(bytes, "any.yaml");
    let has_all_plans = compiled.pipelines.iter().all(|pipeline| pipeline.plan.is_some());
    prop_assert!(!compiled.is_ok() || (has_all_plans && !compiled.pipelines.is_empty()));
    for diagnostic in &compiled.diagnostics {
        prop_assert!(!diagnostic.reason.is_empty() && !diagnostic.cure.is_empty(), "{diagnostic}");
        prop_assert!(!diagnostic.reason.contains('\n') && !diagnostic.cure.contains('\n'), "{diagnostic}");
    }
    // What a plan says, it says in a form that reads back as itself.
    for plan in compiled.pipelines.iter().filter_map(|pipeline| pipeline.plan.as_ref()) {
        let json = serde_json::to_string(plan).unwrap();
        prop_assert_eq!(&serde_json::from_str::<sidestream_plan::Plan>(&json).unwrap(), plan);
        let stages: usize = plan.runs.iter().map(|run| run.stages.len()).sum();
        prop_assert_eq!(stages, plan.stages.len());
    }
    Ok(())
}

const TOKENS: &[&str] = &[
    "  stages:\n",
    "  - ",
    "name: ",
    "a",
    "b, ",
    "source: ",
    "process: ",
    "sink: ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    ": ",
    "\n",
    "    ",
    "generator",
    "filter",
    "keep",
    "console",
    "window",
    "tumbling",
    "1m",
    "emit",
    "from",
    "event.value",
    "\"",
    "'",
    "&x ",
    "*x ",
    "!t ",
    "| ",
    "> ",
    "# ",
    "---\n",
    "...\n",
    "? ",
    "null",
    "true",
    "-1",
    ".nan",
    "1e999",
    "\t",
    "%",
    "<<: ",
];
