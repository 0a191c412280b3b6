//! Files of pipelines and dnpipes, read and compiled together.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Serialize;
use sidestream_crds::{Diagnostic, FileCode, Severity, SidecarPlan, compile};
use sidestream_plan::{Dnpipe, Plan};

/// What became of some files.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    /// What may run: a plan for every pipeline without an error.
    pub(crate) plans: Vec<Plan>,
    /// The same cut into its sidecars, for each.
    pub(crate) sidecars: Vec<Vec<SidecarPlan>>,
    /// What may be served: every dnpipe without an error.
    pub(crate) dnpipes: Vec<Dnpipe>,
    /// What the compiler says.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// What is wrong with the files as such.
    pub(crate) troubles: Vec<Trouble>,
}

/// What is wrong with a file as such.
#[derive(Debug, Serialize)]
pub(crate) struct Trouble {
    code: FileCode,
    severity: Severity,
    file: String,
    reason: String,
    cure: &'static str,
}

/// Reads and compiles `files`, all of them, whatever is wrong with some.
pub(crate) fn compile_all(files: &[PathBuf]) -> Compiled {
    let mut all = Compiled::default();
    let mut kept_by = Vec::new();
    for path in files {
        let file = path.display().to_string();
        let text = match read(path) {
            Ok(text) => text,
            Err(error) => {
                let reason = format!("cannot read the file: {error}");
                all.trouble(FileCode::Unreadable, file, reason, "name a file that exists and may be read");
                continue;
            }
        };
        let compiled = compile(&text, &file);
        all.diagnostics.extend(compiled.diagnostics);
        let plans = compiled.pipelines.into_iter().filter_map(|own| Some((own.plan?, own.sidecars)));
        for (plan, sidecars) in plans {
            if all.plans.iter().any(|other| other.pipeline == plan.pipeline) {
                let reason = format!("pipeline `{}` is in another file too", plan.pipeline);
                all.trouble(
                    FileCode::PipelineInTwoFiles,
                    file.clone(),
                    reason,
                    "give one of them another name",
                );
            } else {
                all.plans.push(plan);
                all.sidecars.push(sidecars);
            }
        }
        for dnpipe in compiled.dnpipes.into_iter().filter_map(|own| own.plan) {
            if all.dnpipes.iter().any(|other| other.full_name() == dnpipe.full_name()) {
                let reason = format!("dnpipe `{}` is in another file too", dnpipe.full_name());
                all.trouble(
                    FileCode::DnpipeInTwoFiles,
                    file.clone(),
                    reason,
                    "give one of them another name",
                );
            } else {
                all.dnpipes.push(dnpipe);
                kept_by.push(file.clone());
            }
        }
    }
    all.look_for_dead_letters(&kept_by);
    all
}

/// The text of a file, or a little more of it than the compiler takes.
pub(crate) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(READ_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

impl Compiled {
    /// Whether everything in the files may run.
    pub(crate) fn is_ok(&self) -> bool {
        self.troubles.is_empty() && !self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// What is said about the files, a text each; of the compiler's, those at least as bad as `worth`.
    pub(crate) fn said(&self, worth: Severity) -> impl Iterator<Item = String> + '_ {
        let troubles = self.troubles.iter().map(ToString::to_string);
        troubles.chain(self.worth(worth).map(ToString::to_string))
    }

    /// The compiler's diagnostics that are at least as bad as `worth`.
    pub(crate) fn worth(&self, worth: Severity) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(move |diagnostic| diagnostic.severity <= worth)
    }

    /// How many errors and warnings there are, in words: `2 errors, 1 warning`; empty without any.
    pub(crate) fn summary(&self) -> String {
        let count = |severity| self.diagnostics.iter().filter(|own| own.severity == severity).count();
        let counts =
            [(count(Severity::Error) + self.troubles.len(), "error"), (count(Severity::Warning), "warning")];
        let words = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| plural(*count, what));
        words.collect::<Vec<_>>().join(", ")
    }

    /// Dead letters go to a dnpipe that is there. `files` says which file each dnpipe is from.
    fn look_for_dead_letters(&mut self, files: &[String]) {
        let mut missing = Vec::new();
        for (dnpipe, file) in self.dnpipes.iter().zip(files) {
            for group in &dnpipe.groups {
                let Some(name) = &group.dead_letter else { continue };
                let is_there = |other: &Dnpipe| other.namespace == dnpipe.namespace && other.name == *name;
                if !self.dnpipes.iter().any(is_there) {
                    let whose = format!("the group `{}` of `{}`", group.name, dnpipe.full_name());
                    missing.push((
                        file.clone(),
                        format!("the dead letters of {whose} go to `{name}`, which no file has"),
                    ));
                }
            }
        }
        for (file, reason) in missing {
            let cure = "add a Dnpipe of this name in the same namespace, to this file or another";
            self.trouble(FileCode::UnknownDeadLetter, file, reason, cure);
        }
    }

    fn trouble(&mut self, code: FileCode, file: String, reason: String, cure: &'static str) {
        self.troubles.push(Trouble { code, severity: Severity::Error, file, reason, cure });
    }
}

/// `1 stage`, `2 stages`.
pub(crate) fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// As the compiler's diagnostics look.
impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "error[{}]: {}\n --> {}\n  = cure: {}",
            self.code.text(),
            self.reason,
            self.file,
            self.cure
        )
    }
}

/// The compiler refuses a file of more than 1 MiB, and says so; to see that, it needs no more than this.
pub(crate) const READ_BYTES_MAX: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "kind: Pipeline\nmetadata: {name: hello}\nspec:\n  stages:\n  \
        - {name: tick, source: {generator: {}}}\n  - {name: out, sink: {blackhole: {}}}\n";

    const ORDERS: &str = "kind: Dnpipe\nmetadata: {name: orders}\nspec:\n  groups:\n  \
        - {name: billing, maxDeliveries: 3, deadLetter: lost}\n";

    #[test]
    fn every_file_is_read_whatever_is_wrong_with_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("bad.yaml"), "kind: Pipelin").unwrap();
        std::fs::write(path("a.yaml"), HELLO).unwrap();
        std::fs::write(path("b.yaml"), HELLO).unwrap();
        std::fs::write(path("c.yaml"), ORDERS).unwrap();
        std::fs::write(path("d.yaml"), ORDERS).unwrap();
        let names = ["none.yaml", "bad.yaml", "a.yaml", "b.yaml", "c.yaml", "d.yaml"];
        let all = compile_all(&names.map(path));
        let codes: Vec<_> = all.troubles.iter().map(|trouble| trouble.code).collect();
        assert_eq!(codes, FileCode::ALL);
        assert_eq!((all.plans.len(), all.dnpipes.len(), all.is_ok()), (1, 1, false));
        assert!(all.diagnostics.iter().any(Diagnostic::is_error));
        assert!(all.summary().contains("errors"), "{}", all.summary());
    }
}
