//! Every diagnostic code has a case: a file of `cases/` named after it, and beside it what is said of that file.
//! `UPDATE_CASES=1 cargo test -p sidestream-crds --test cases` writes down what is said now.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde::Serialize;
use sidestream_crds::{Code, Compiled, CompiledPipeline, Diagnostic, SidecarPlan, compile};
use sidestream_plan::{Dnpipe, Plan};

#[test]
fn every_case_says_what_is_written_beside_it() {
    let mut wrong = Vec::new();
    for (name, text) in cases() {
        let compiled = compile(&text, &format!("{name}.yaml"));
        let others: Vec<_> =
            compiled.diagnostics.iter().filter(|found| found.code != code_of(&name)).collect();
        // Only that many problems make too many.
        let has_others = !others.is_empty() && code_of(&name) != Code::TooManyProblems;
        if compiled.diagnostics.is_empty() || has_others {
            wrong.push(format!("{name} says something else:\n{}", listed(&others)));
        }
        wrong.extend(differs(&format!("{name}.txt"), &said(&compiled)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_code_has_a_case() {
    let shown: BTreeSet<Code> = cases().iter().map(|(name, _)| code_of(name)).collect();
    let missing: Vec<&Code> = Code::ALL.iter().filter(|code| !shown.contains(code)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

/// Mistakes in fields, names, settings and expressions of one file.
#[test]
fn mistakes_of_several_kinds_are_told_at_once_and_none_that_only_follows_from_another() {
    let mut wrong = Vec::new();
    for (name, text) in files("several") {
        let compiled = compile(&text, &format!("{name}.yaml"));
        let all: Vec<&Diagnostic> = compiled.diagnostics.iter().collect();
        wrong.extend(differs(&format!("several/{name}.txt"), &listed(&all)));
        let codes: BTreeSet<Code> = all.iter().map(|found| found.code).collect();
        let of_fields =
            [Code::MissingField, Code::UnknownField, Code::WrongType, Code::BadDuration, Code::NoKind];
        match name.as_str() {
            "nothing-that-follows" => assert!(codes.iter().all(|code| of_fields.contains(code)), "{codes:?}"),
            "fields-and-groups-of-a-dnpipe" => assert!(codes.contains(&Code::BadGroup), "{codes:?}"),
            _ => assert!(codes.len() > 8, "{codes:?}"),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_good_file_compiles_to_the_plans_beside_it() {
    let mut wrong = Vec::new();
    for (name, text) in files("ok") {
        let compiled = compile(&text, &name);
        assert!(compiled.is_ok(), "{name}:\n{}", said(&compiled));
        let dnpipes = compiled.dnpipes.iter().map(|dnpipe| Plans::Kept(&dnpipe.plan));
        let plans: Vec<_> = compiled.pipelines.iter().map(plans).chain(dnpipes).collect();
        let json = serde_json::to_string_pretty(&plans).unwrap();
        wrong.extend(differs(&format!("ok/{name}.json"), &format!("{json}\n")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The plan, and where sidecars are written, theirs; of a dnpipe what a server keeps.
#[derive(Serialize)]
#[serde(untagged)]
enum Plans<'a> {
    Kept(&'a Option<Dnpipe>),
    Whole(&'a Option<Plan>),
    Cut { plan: &'a Option<Plan>, sidecars: &'a [SidecarPlan] },
}

fn plans(pipeline: &CompiledPipeline) -> Plans<'_> {
    match pipeline.resource.spec.sidecars.is_empty() {
        true => Plans::Whole(&pipeline.plan),
        false => Plans::Cut { plan: &pipeline.plan, sidecars: &pipeline.sidecars },
    }
}

#[test]
fn a_mistake_in_one_document_leaves_the_others_their_plans() {
    let (_, text) = cases().into_iter().find(|(name, _)| name == "yaml-syntax-one-of-two").unwrap();
    let compiled = compile(&text, "two.yaml");
    assert_eq!(compiled.pipelines.len(), 1);
    assert!(compiled.pipelines[0].plan.is_some() && !compiled.is_ok());
}

/// Files, and what is too large or too ugly to be one.
fn cases() -> Vec<(String, Vec<u8>)> {
    let mut cases = files("");
    let header = "kind: Pipeline\nmetadata: {name: case}\nspec:\n  stages:\n  - {name: tick, source: {generator: {}}}\n";
    let deep = format!("metadata: {{name: deep, managedFields: {}1{}}}\n", "[".repeat(100), "]".repeat(100));
    let deep = header.replace("metadata: {name: case}\n", &deep) + "  - {name: show, sink: {console: {}}}\n";
    let deeper = format!("{header}  - {}\n", "[".repeat(100_000));
    let many: String =
        (0..10_000).map(|n| format!("  - {{name: s{n}, sink: {{console: {{}}}}}}\n")).collect();
    let wrong: String = (0..60)
        .map(|n| format!("  - {{name: s{n}, a: 1, b: 1, c: 1, d: 1, e: 1, f: 1, g: 1, h: 1, i: 1, j: 1}}\n"))
        .collect();
    let garbage: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    cases.extend([
        ("file-too-large".into(), vec![b'x'; 50 << 20]),
        ("file-too-large-documents".into(), "---\na: 1\n".repeat(10_000).into()),
        ("not-text".into(), [b"kind: Pipeline\n# \xff\xfe", garbage.as_slice()].concat()),
        ("too-deep".into(), deep.into()),
        ("too-deep-at-once".into(), deeper.into()),
        ("too-many-stages".into(), format!("{header}{many}").into()),
        ("too-many-problems".into(), format!("{header}{wrong}").into()),
    ]);
    cases
}

/// The `.yaml` files of a folder of `cases/`, by name, without that ending.
fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(case(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<(String, Vec<u8>)> = entries
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// The longest code a case's name begins with.
fn code_of(name: &str) -> Code {
    let begins = |code: &&Code| {
        name.strip_prefix(code.text()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    *Code::ALL
        .iter()
        .filter(begins)
        .max_by_key(|code| code.text().len())
        .unwrap_or_else(|| panic!("{name} is no code"))
}

fn said(compiled: &Compiled) -> String {
    let shown = 8;
    let mut text = listed(&compiled.diagnostics.iter().take(shown).collect::<Vec<_>>());
    if compiled.diagnostics.len() > shown {
        let last = compiled.diagnostics.last().unwrap();
        text.push_str(&format!("\n... {} in all, and the last:\n\n{last}\n", compiled.diagnostics.len()));
    }
    text
}

fn listed(diagnostics: &[&Diagnostic]) -> String {
    diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect::<Vec<_>>().join("\n")
}

fn differs(file: &str, text: &str) -> Option<String> {
    let path = case(file);
    if std::env::var_os("UPDATE_CASES").is_some() {
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    (expected != text).then(|| format!("{file} is\n{expected}\nand now would be\n{text}"))
}

fn case(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cases").join(path)
}
