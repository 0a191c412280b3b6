//! What the stage kinds ask for that a schema can't say: one bound of two, a multiple, a pattern that compiles.

mod names;

use sidestream_plan::{
    Duration, Kind, Process, Sink, Source,
    stage::{Encode, Parse, Quantile, Threshold, Throttle, ThrottleMode, Window},
};

use super::{Report, shape::text_field};
use crate::{
    diagnostic::Code,
    path::{Path, quoted},
};

/// Windows of a sliding window that an event is in.
const SLIDES_MAX: u128 = 1000;

/// Checks the settings of every stage.
pub(super) fn check(kinds: &[Kind], report: &mut Report) {
    for (index, kind) in kinds.iter().enumerate() {
        let path = Path::stage(index).fields(&[kind.role(), kind.name()]);
        let mut settings = Settings { path, report };
        match kind {
            Kind::Source(source) => settings.source(source),
            Kind::Process(process) => settings.process(process),
            Kind::Sink(sink) => settings.sink(sink),
        }
    }
}

/// A duration that must not be 0.
pub(super) fn takes_time(path: Path, duration: Option<Duration>, report: &mut Report) {
    if duration.is_some_and(|duration| duration.get().is_zero()) {
        report.say(
            Code::ZeroDuration,
            path,
            "this is 0, and time must pass",
            "write a longer one, such as `1s`",
        );
    }
}

struct Settings<'a> {
    path: Path,
    report: &'a mut Report,
}

impl Settings<'_> {
    fn say(&mut self, code: Code, fields: &[&str], reason: impl Into<String>, cure: impl Into<String>) {
        self.report.say(code, self.path.fields(fields), reason, cure);
    }

    fn source(&mut self, source: &Source) {
        match source {
            Source::Prometheus(prometheus) => {
                self.takes_time("interval", prometheus.interval);
                self.takes_time("timeout", prometheus.timeout);
            }
            Source::HostMetrics(host) => self.takes_time("interval", host.interval),
            Source::Http(http) => {
                let port = http.listen.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
                if port.is_none() {
                    let reason = format!("{} has no port from 0 to 65535", quoted(&http.listen));
                    self.say(
                        Code::BadAddress,
                        &["listen"],
                        reason,
                        "write an address and a port, such as `127.0.0.1:8080`",
                    );
                }
            }
            Source::File(file) => {
                for (index, path) in file.paths.iter().enumerate() {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    if folder.contains('*') {
                        let path = self.path.field("paths").element(index);
                        let reason =
                            "`*` stands in the name of a folder, and only the last part may have one";
                        self.report.say(
                            Code::BadText,
                            path,
                            reason,
                            "write the folders out, each with a path of its own",
                        );
                    }
                }
            }
            Source::Generator(_) | Source::Stdin(_) | Source::Dnpipe(_) => {}
            Source::Push(_) | Source::Edge(_) | Source::Spill(_) => {}
        }
    }

    fn process(&mut self, process: &Process) {
        match process {
            Process::Set(set) => {
                let fields = self.path.field("fields");
                self.fields(set.fields.keys().map(|name| (fields.field(name), name)));
            }
            Process::Unset(unset) => {
                let fields = self.path.field("fields");
                self.fields(
                    unset.fields.iter().enumerate().map(|(index, name)| (fields.element(index), name)),
                );
            }
            Process::Rename(rename) => {
                let fields = self.path.field("fields");
                self.fields(rename.fields.keys().map(|old| (fields.field(old), old)));
                self.fields(rename.fields.iter().map(|(old, new)| (fields.field(old), new)));
            }
            Process::Dedupe(dedupe) => self.takes_time("window", Some(dedupe.window)),
            Process::Throttle(throttle) => self.throttle(throttle),
            Process::Batch(batch) => self.takes_time("linger", batch.linger),
            Process::Window(window) => self.window(window),
            Process::Threshold(threshold) => self.threshold(threshold),
            Process::Parse(parse) => self.parse(parse),
            Process::Encode(Encode::Csv(csv)) => {
                self.path = self.path.field("csv");
                self.separator(csv.separator.as_deref());
            }
            Process::Filter(_)
            | Process::Map(_)
            | Process::Split(_)
            | Process::Merge(_)
            | Process::Sample(_) => {}
            Process::Encode(_) | Process::Custom(_) => {}
        }
    }

    fn sink(&mut self, sink: &Sink) {
        match sink {
            Sink::Webhook(webhook) => {
                self.takes_time("timeout", webhook.timeout);
                for (name, value) in webhook.headers.iter().flatten() {
                    self.header(name, value);
                }
            }
            Sink::Alertmanager(alertmanager) => {
                self.takes_time("resend", alertmanager.resend);
                self.takes_time("timeout", alertmanager.timeout);
                self.label_names("labels", alertmanager.labels.iter().flat_map(|labels| labels.keys()));
                self.label_names(
                    "annotations",
                    alertmanager.annotations.iter().flat_map(|texts| texts.keys()),
                );
            }
            Sink::Console(_) | Sink::File(_) | Sink::Dnpipe(_) | Sink::Blackhole(_) => {}
            Sink::Edge(_) | Sink::Spill(_) => {}
        }
    }

    fn takes_time(&mut self, field: &str, duration: Option<Duration>) {
        takes_time(self.path.field(field), duration, self.report);
    }

    fn throttle(&mut self, throttle: &Throttle) {
        if throttle.by.is_some() && throttle.mode == Some(ThrottleMode::Block) {
            let reason = "`mode: Block` with `by` would hold up every key for the one that is too fast";
            self.say(Code::BadThrottle, &["mode"], reason, "write `Drop`, or leave `by` out");
        }
    }

    fn window(&mut self, window: &Window) {
        match (window.tumbling, &window.sliding) {
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) => {
                let cure = "add `tumbling: 1m`, or `sliding: {size: 5m, every: 1m}`";
                self.say(Code::BadWindow, &[], "the window has no length", cure);
            }
            (Some(_), Some(_)) => {
                self.say(Code::BadWindow, &[], "`tumbling` and `sliding` are both here", "keep one of them");
            }
        }
        self.takes_time("tumbling", window.tumbling);
        if let Some(sliding) = &window.sliding {
            let (size, every) = (sliding.size.get().as_nanos(), sliding.every.get().as_nanos());
            if size == 0 || every == 0 {
                let path = self.path.field("sliding");
                takes_time(path.field("size"), Some(sliding.size), self.report);
                takes_time(path.field("every"), Some(sliding.every), self.report);
            } else if size % every != 0 {
                let reason = format!("`size` {} is no multiple of `every` {}", sliding.size, sliding.every);
                let multiple = u64::try_from(every * (size / every + 1)).map(std::time::Duration::from_nanos);
                let cure = match multiple {
                    Ok(multiple) => format!("write `size: {}`", Duration::from(multiple)),
                    Err(_) => "write a multiple of it".into(),
                };
                self.say(Code::BadWindow, &["sliding", "size"], reason, cure);
            } else if size / every > SLIDES_MAX {
                let reason = format!(
                    "every event would be in {} windows, and {SLIDES_MAX} are the most",
                    size / every
                );
                self.say(Code::BadWindow, &["sliding", "every"], reason, "make `every` longer");
            }
        }
        if let Some(quantile) = &window.emit.quantile {
            self.quantile(quantile);
        }
    }

    fn quantile(&mut self, quantile: &Quantile) {
        for (index, share) in quantile.at.iter().enumerate() {
            let path = self.path.fields(&["emit", "quantile", "at"]).element(index);
            if !(0.0..=1.0).contains(share) {
                let cure = match (1.0..=100.0).contains(share) {
                    true => format!("write `{}`", share / 100.0),
                    false => "write a number from 0 to 1".into(),
                };
                self.report.say(Code::BadQuantile, path, format!("{share} is no share from 0 to 1"), cure);
            } else if quantile.at[..index]
                .iter()
                .any(|other| Quantile::field(*other) == Quantile::field(*share))
            {
                let reason = format!("there would be two fields `{}`", Quantile::field(*share));
                self.report.say(Code::BadQuantile, path, reason, "take one of them out");
            }
        }
    }

    fn threshold(&mut self, threshold: &Threshold) {
        let bounds = [
            ("above", threshold.above, "clearBelow", threshold.clear_below),
            ("below", threshold.below, "clearAbove", threshold.clear_above),
        ];
        match (threshold.above, threshold.below) {
            (None, None) => {
                let cure = "add `above: 0.9`, or `below: 10`";
                self.say(Code::BadThreshold, &[], "there is no bound to go beyond", cure);
            }
            (Some(_), Some(_)) => {
                let cure = "keep one of them; the other is a stage of its own";
                self.say(Code::BadThreshold, &[], "`above` and `below` are both here", cure);
            }
            _ => {}
        }
        for (name, bound, clear_name, clear) in bounds {
            for (field, value) in [(name, bound), (clear_name, clear)] {
                if value.is_some_and(|value| !value.is_finite()) {
                    self.say(
                        Code::BadThreshold,
                        &[field],
                        "this is no number to compare with",
                        "write a finite number",
                    );
                }
            }
            match (bound, clear) {
                (None, Some(_)) => {
                    let reason = format!("`{clear_name}` goes with `{name}`, which is not here");
                    self.say(
                        Code::BadThreshold,
                        &[clear_name],
                        reason,
                        format!("add `{name}`, or leave `{clear_name}` out"),
                    );
                }
                (Some(bound), Some(clear))
                    if (name == "above" && clear > bound) || (name == "below" && clear < bound) =>
                {
                    let side = if name == "above" { "at most" } else { "at least" };
                    let reason =
                        format!("it would fire {name} {bound} and be back while it is still {name} it");
                    self.say(Code::BadThreshold, &[clear_name], reason, format!("write {side} {bound}"));
                }
                _ => {}
            }
        }
    }

    fn parse(&mut self, parse: &Parse) {
        self.path = self.path.field(parse.kind());
        match parse {
            Parse::Json(_) | Parse::Logfmt(_) | Parse::Prometheus(_) => {}
            Parse::Csv(csv) => {
                self.separator(csv.separator.as_deref());
                self.unique("columns", &csv.columns);
            }
            Parse::Regex(regex) => self.regex(&regex.pattern),
        }
        if let Some(name) = text_field(parse) {
            self.field_path(self.path.field("field"), name);
        }
    }

    fn regex(&mut self, pattern: &str) {
        match regex::Regex::new(pattern) {
            Err(error) => {
                // The library draws the pattern over several lines; its last line says what is wrong.
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                let cure = "mend the pattern; look-around and back-references are not in RE2 syntax";
                self.say(
                    Code::BadRegex,
                    &["pattern"],
                    format!("this is no regular expression: {}", last),
                    cure,
                );
            }
            Ok(regex) if regex.capture_names().flatten().next().is_none() => {
                let cure = "name what to keep: `(?<path>\\S+)`";
                self.say(
                    Code::BadRegex,
                    &["pattern"],
                    "the pattern names no group, so there would be no fields",
                    cure,
                );
            }
            Ok(_) => {}
        }
    }

    fn separator(&mut self, separator: Option<&str>) {
        let Some(separator) = separator else { return };
        if separator.len() != 1 || matches!(separator, "\"" | "\n" | "\r") {
            let reason = format!("{} can't separate values", quoted(separator));
            self.say(
                Code::BadSeparator,
                &["separator"],
                reason,
                "write one ASCII character, such as `;` or `\"\\t\"`",
            );
        }
    }
}
