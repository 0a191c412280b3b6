//! The table: the same cells on paper and on the screen.

use super::view::{PipelineView, StageView, View};

/// The names of the columns.
pub(super) const COLUMNS: [&str; 10] =
    ["STAGE", "KIND", "IN/S", "OUT/S", "BUSY", "P50", "P99", "WAITING", "ERRORS", "DROPPED"];

/// What they mean, for `sidestream top --help`.
pub(in crate::verb) const LEGEND: &str = "\
Columns:
  IN/S, OUT/S  events a second that came into the stage and left it, since the look before
  BUSY         share of one core spent working in it
  P50, P99     how long half, and 99 of 100, of its events took from their source to the end of this stage, since the
               process began: upper bounds of buckets that double
  WAITING      events in the queues in front of it, and how many these take; `-` where it is called by the stage before
  ERRORS       events it could not handle
  DROPPED      events dropped by it or by the queue in front of it; `/metrics` says why

The line of a pipeline has its books, which balance: accepted = completed + dead letters + expired + dropped + in flight.
`bottleneck` names the stage that the others wait for.";

/// One row, a text for each column.
pub(super) fn row(stage: &StageView) -> [String; 10] {
    [
        stage.name.clone(),
        stage.kind.clone(),
        stage.in_per_second.map(count).unwrap_or("-".into()),
        stage.out_per_second.map(count).unwrap_or("-".into()),
        stage.busy_share.map(percent).unwrap_or("-".into()),
        span(stage.p50_seconds),
        span(stage.p99_seconds),
        stage.waiting.map(|(depth, limit)| format!("{depth}/{limit}")).unwrap_or("-".into()),
        stage.errors.to_string(),
        stage.dropped.to_string(),
    ]
}

/// The line about the process.
pub(super) fn process_line(view: &View) -> String {
    let mut line =
        format!("sidestream {}  {:?}, up {}", view.version, view.state, uptime(view.uptime_seconds));
    if let Some(share) = view.cpu_share {
        line += &format!("  cpu {}", percent(share));
    }
    if let Some(process) = view.process {
        line += &format!(
            "  memory {:.1} MiB  threads {}",
            process.resident_bytes as f64 / 1_048_576.0,
            process.threads
        );
    }
    line
}

/// The line about a pipeline.
pub(super) fn pipeline_line(pipeline: &PipelineView) -> String {
    let books = &pipeline.ledger;
    let mut line = format!(
        "{}  accepted {} = completed {} + dead letters {} + expired {} + dropped {} + in flight {}",
        pipeline.name,
        books.accepted,
        books.completed,
        books.dead_lettered,
        books.expired,
        books.dropped,
        books.in_flight
    );
    if !books.balanced {
        line += "  OUT OF BALANCE";
    }
    if pipeline.ended {
        line += "  ended";
    }
    if let Some(stage) = &pipeline.bottleneck {
        line += &format!("  bottleneck {stage}");
    }
    line
}

/// Everything on paper.
pub(super) fn text(view: &View) -> String {
    let mut text = process_line(view) + "\n";
    for pipeline in &view.pipelines {
        text += &format!("\n{}\n", pipeline_line(pipeline));
        let rows: Vec<_> = pipeline.stages.iter().map(row).collect();
        let widths = widths(&rows);
        for row in std::iter::once(&COLUMNS.map(str::to_owned)).chain(&rows) {
            let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
                if is_number(column) { format!("{cell:>width$}") } else { format!("{cell:width$}") }
            });
            text += &format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        for stage in pipeline.stages.iter().filter(|stage| stage.last_error.is_some()) {
            text += &format!("{}: {}\n", stage.name, stage.last_error.as_deref().unwrap_or_default());
        }
    }
    text
}

/// Whether a column holds numbers, which stand on the right.
pub(super) fn is_number(column: usize) -> bool {
    column > 1
}

/// How wide each column has to be.
pub(super) fn widths(rows: &[[String; 10]]) -> [usize; 10] {
    std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([COLUMNS[column].len()]).max().unwrap_or(0)
    })
}

/// `7.5`, `950`, `12.3k`, `4.56M`: three or four figures.
fn count(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{:.2}M", number / 1e6),
        number if number >= 1e4 => format!("{:.1}k", number / 1e3),
        number if number >= 100.0 => format!("{number:.0}"),
        number => format!("{number:.1}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A latency: a bound of a bucket; `-` where nothing was measured.
fn span(seconds: Option<f64>) -> String {
    match seconds {
        None => ">67s".into(),
        Some(0.0) => "-".into(),
        Some(seconds) if seconds < 1e-3 => format!("{:.0}us", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1}ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1}s"),
    }
}

fn uptime(seconds: f64) -> String {
    let seconds = seconds as u64;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes}m"),
        (days, hours, ..) => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::snapshot, *};

    #[test]
    fn every_column_of_figures_is_explained() {
        for column in &COLUMNS[2..] {
            let mut lines = LEGEND.lines().filter_map(|line| line.strip_prefix("  "));
            assert!(
                lines.any(|line| line.split("  ").next().unwrap_or_default().contains(column)),
                "{column}"
            );
        }
    }

    #[test]
    fn a_table_says_how_much_goes_through_each_stage() {
        let text = text(&View::between(Some(&snapshot(10.0, 100)), &snapshot(12.0, 40_100)));
        let expected = "\
sidestream 0.1.0  Ready, up 12s  cpu 50.0%  memory 9.0 MiB  threads 0

default/hello  accepted 40100 = completed 0 + dead letters 0 + expired 0 + dropped 0 + in flight 0  bottleneck show
STAGE  KIND               IN/S  OUT/S   BUSY    P50      P99  WAITING  ERRORS  DROPPED
tick   source/generator  20.0k  20.0k  25.0%  256us  500.0ms        -       0        2
show   sink/console      20.0k  20.0k  25.0%  256us  500.0ms   95/100       0        2
";
        assert_eq!(text, expected);
    }
}
