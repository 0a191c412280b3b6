//! A Dnpipe -> what its server keeps, and what is wrong with it beside its fields.
//!
//! Its fields hardly depend on each other: what is wrong by its schema is taken out, and the rest is looked at as it is.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use sidestream_plan::{
    Dnpipe as Kept, Size,
    dnpipe::{AccessRule, Participant, Permission},
};

use super::{
    Report,
    resource::{bad_metadata, read_resource},
    settings::takes_time,
};
use crate::{
    crd::DNPIPE_SCHEMA,
    diagnostic::{Code, Diagnostic},
    dnpipe::{Dnpipe, DnpipeSpec},
    path::{Path, Step},
    structure::{self, Origin},
    yaml::Document,
};

/// One dnpipe.
#[derive(Clone, Debug)]
pub struct CompiledDnpipe {
    /// As it was written.
    pub resource: Dnpipe,
    /// What a server keeps; none where there is an error.
    pub plan: Option<Kept>,
}

/// Compiles a resource as an API server holds it.
pub fn compile_dnpipe(dnpipe: &Dnpipe) -> (CompiledDnpipe, Vec<Diagnostic>) {
    let mut value = serde_json::to_value(dnpipe).unwrap_or_default();
    value.as_object_mut().map(|object| object.remove("status"));
    let mut found = structure::check(&value, &DNPIPE_SCHEMA, &[], Origin::Text);
    let more = look(&mut value, &found);
    found.extend(more);
    let runs = !found.iter().any(Diagnostic::is_error);
    for diagnostic in &mut found {
        diagnostic.resource = Some(dnpipe.full_name());
    }
    (CompiledDnpipe { resource: dnpipe.clone(), plan: runs.then(|| keep(dnpipe)) }, found)
}

/// A dnpipe as far as it can be read, with its plan where it `runs`.
pub(super) fn compile(
    document: Document<'_>,
    found: &mut Vec<Diagnostic>,
    runs: bool,
) -> Option<CompiledDnpipe> {
    let mut value = document.value;
    found.extend(structure::check(&value, &DNPIPE_SCHEMA, &document.refused, Origin::Text));
    let more = look(&mut value, found);
    found.extend(more);
    if found.iter().any(Diagnostic::is_error) {
        return None;
    }
    match read_resource::<Dnpipe>(value) {
        Ok(resource) => Some(CompiledDnpipe { plan: runs.then(|| keep(&resource)), resource }),
        Err(error) => {
            found.push(bad_metadata(&error));
            None
        }
    }
}

/// What is wrong beside the fields that `found` is about. Those are taken out of `value`.
fn look(value: &mut Value, found: &[Diagnostic]) -> Vec<Diagnostic> {
    let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return Vec::new() };
    for wrong in found.iter().filter(|found| found.is_error()) {
        if let [Step::Field(top), Step::Field(field), ..] = wrong.path.steps()
            && top == "spec"
        {
            spec.remove(field);
        }
    }
    let mut report = Report::default();
    if let Ok(spec) = serde_json::from_value::<DnpipeSpec>(Value::Object(Map::clone(spec))) {
        let own = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        check(own, &spec, &mut report);
    }
    report.diagnostics
}

fn check(own: &str, spec: &DnpipeSpec, report: &mut Report) {
    let top = Path::top().field("spec");
    let retention = spec.retention.clone().unwrap_or_default();
    takes_time(top.fields(&["retention", "time"]), retention.time, report);
    takes_time(top.fields(&["dedupe", "window"]), spec.dedupe.as_ref().map(|dedupe| dedupe.window), report);
    let size = spec.storage.as_ref().and_then(|storage| storage.size);
    let partitions = spec.partitions.and_then(|count| u64::try_from(count).ok()).unwrap_or(1).max(1);
    if let (Some(kept), Some(size)) = (retention.bytes, size)
        && kept.bytes().saturating_mul(partitions) > size.bytes()
    {
        let each =
            if partitions == 1 { String::new() } else { format!(" in each of {partitions} partitions") };
        let reason =
            format!("{kept}{each} are kept, and `storage.size` is {size}: it is full before any record goes");
        let share = Size::from_bytes(size.bytes() / partitions);
        let cure = format!("write `{share}` or less, or a larger `storage.size`");
        report.say(Code::LateRetention, top.fields(&["retention", "bytes"]), reason, cure);
    }
    check_groups(own, spec, &top.field("groups"), report);
    check_rules(spec.access.as_deref().unwrap_or_default(), &top.field("access"), report);
}

fn check_groups(own: &str, spec: &DnpipeSpec, path: &Path, report: &mut Report) {
    for (index, group) in spec.groups.iter().enumerate() {
        let path = path.element(index);
        if let Some(first) = spec.groups[..index].iter().position(|other| other.name == group.name) {
            let reason = format!("`{}` is already the name of group {}", group.name, first + 1);
            let cure = "give every group a name of its own";
            report.say(Code::DuplicateGroup, path.field("name"), reason, cure);
        }
        match (group.max_deliveries, &group.dead_letter) {
            (Some(_), None) => {
                let cure = "add `deadLetter` with the name of a dnpipe, or take `maxDeliveries` out";
                let reason = "nothing says where a record goes that was delivered that often";
                report.say(Code::BadGroup, path.field("maxDeliveries"), reason, cure);
            }
            (None, Some(_)) => {
                let reason = "nothing says how often a record is delivered before it goes there";
                let cure = "add `maxDeliveries`, such as `maxDeliveries: 5`";
                report.say(Code::BadGroup, path.field("deadLetter"), reason, cure);
            }
            _ => {}
        }
        if group.dead_letter.as_deref() == Some(own) {
            let reason = "dead letters would come back to the dnpipe they are from";
            report.say(Code::BadGroup, path.field("deadLetter"), reason, "name another dnpipe");
        }
    }
}

fn check_rules(rules: &[AccessRule], path: &Path, report: &mut Report) {
    for (index, rule) in rules.iter().enumerate() {
        let new: BTreeSet<Permission> = rule.allow.iter().copied().collect();
        let said = |other: &AccessRule| includes(&other.from, &rule.from);
        let known: BTreeSet<Permission> =
            rules[..index].iter().filter(|other| said(other)).flat_map(|other| other.allow.clone()).collect();
        if new.is_subset(&known) {
            let reason = "the rules above allow all of this already";
            report.say(Code::RepeatedRule, path.element(index), reason, "take it out");
        }
    }
}

/// Whether `wide` means everybody that `narrow` means.
fn includes(wide: &Participant, narrow: &Participant) -> bool {
    wide.namespace == narrow.namespace
        && (wide.service_account.is_none() || wide.service_account == narrow.service_account)
}

/// What a server keeps of a resource that is in order.
fn keep(dnpipe: &Dnpipe) -> Kept {
    let spec = &dnpipe.spec;
    let everybody = || vec![AccessRule { allow: Permission::ALL.to_vec(), from: Participant::default() }];
    Kept {
        namespace: dnpipe.namespace_or_default().into(),
        name: dnpipe.metadata.name.clone().unwrap_or_default(),
        pool: dnpipe.pool().into(),
        partitions: spec.partitions.and_then(|count| u32::try_from(count).ok()).unwrap_or(1),
        durability: spec.durability.unwrap_or_default(),
        retention: spec.retention.clone().unwrap_or_default(),
        quota: spec.storage.as_ref().and_then(|storage| storage.size),
        dedupe: spec.dedupe.as_ref().map(|dedupe| dedupe.window),
        encryption: spec.encryption.as_ref().map(|own| own.key_ref.clone()),
        groups: spec.groups.clone(),
        access: spec.access.clone().unwrap_or_else(everybody),
    }
}
