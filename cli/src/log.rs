//! Structured logs, on the standard error.

use clap::ValueEnum;
use sidestream_crds::{Diagnostic, Severity};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{files::Compiled, output::complain};

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Begins to log.
pub(crate) fn begin(format: LogFormat, verbose: bool) {
    let own = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let levels = Targets::new().with_target("sidestream", own).with_default(LevelFilter::WARN);
    // A standard error that is closed is no reason to panic, which is what reporting it there would do.
    let layer = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Human => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr())
                && std::env::var_os("NO_COLOR").is_none();
            let layer = layer.with_target(false).with_ansi(ansi).with_filter(levels);
            tracing_subscriber::registry().with(layer).init();
        }
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_current_span(false).with_span_list(false);
            tracing_subscriber::registry().with(layer.with_filter(levels)).init();
        }
    }
}

/// Says what is wrong with files: as a compiler does for people, as log lines for programs.
pub(crate) fn report(compiled: &Compiled, worth: Severity, format: LogFormat) {
    match format {
        LogFormat::Human => compiled.said(worth).for_each(|text| complain(format_args!("{text}\n"))),
        LogFormat::Json => {
            for trouble in &compiled.troubles {
                tracing::error!("{trouble}");
            }
            compiled.worth(worth).for_each(log_diagnostic);
        }
    }
}

fn log_diagnostic(own: &Diagnostic) {
    let file = own.file.as_deref().unwrap_or_default();
    let line = own.place.as_ref().map_or(0, |place| place.line);
    let resource = own.resource.as_deref().unwrap_or_default();
    let (code, cure) = (own.code.text(), &own.cure);
    match own.severity {
        Severity::Error => {
            tracing::error!(code, file, line, resource, path = %own.path, cure, "{}", own.reason)
        }
        Severity::Warning => {
            tracing::warn!(code, file, line, resource, path = %own.path, cure, "{}", own.reason)
        }
        Severity::Note => {
            tracing::info!(code, file, line, resource, path = %own.path, cure, "{}", own.reason)
        }
    }
}
