//! The live screen: drawn again at every look, until `q`.

use std::{process::ExitCode, time::Duration};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Alignment, Constraint, Layout},
    style::{Color, Modifier, Style},
    text::{Line, Text},
    widgets::{Cell, Paragraph, Row, Table},
};
use sidestream_sidecar::observe::Snapshot;

use super::{
    table::{COLUMNS, is_number, pipeline_line, process_line, row, widths},
    view::{PipelineView, StageView, View},
};
use crate::verb::DONE;

/// Shows what `look` sees, again every `interval`. The terminal is put back however it ends.
pub(super) fn run(
    address: &str,
    interval: Duration,
    look: impl FnMut() -> Result<Snapshot, String>,
) -> Result<ExitCode, String> {
    let mut terminal = ratatui::try_init().map_err(|error| format!("cannot use this terminal: {error}"))?;
    let ended = watch(&mut terminal, address, interval, look);
    ratatui::restore();
    ended.map(|()| DONE)
}

fn watch(
    terminal: &mut DefaultTerminal,
    address: &str,
    interval: Duration,
    mut look: impl FnMut() -> Result<Snapshot, String>,
) -> Result<(), String> {
    let mut before: Option<Snapshot> = None;
    // Whoever starts to watch nothing at all is told at once; a process that goes away may come back.
    let mut now = Ok(look()?);
    loop {
        let shown = now.as_ref().map(|now| View::between(before.as_ref(), now)).map_err(String::as_str);
        terminal.draw(|frame| draw(frame, address, shown.as_ref())).map_err(|error| error.to_string())?;
        if wants_to_end(interval)? {
            return Ok(());
        }
        before = now.ok();
        now = look();
    }
}

/// Waits for `interval`, or for the key that ends it.
fn wants_to_end(interval: Duration) -> Result<bool, String> {
    let asked =
        event::poll(interval).and_then(|is_there| if is_there { event::read().map(Some) } else { Ok(None) });
    let asked = asked.map_err(|error| format!("cannot read the keys: {error}"))?;
    let Some(Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. })) = asked else {
        return Ok(false);
    };
    let is_ctrl_c = code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
    Ok(is_ctrl_c || matches!(code, KeyCode::Char('q') | KeyCode::Esc))
}

fn draw(frame: &mut Frame<'_>, address: &str, view: Result<&View, &&str>) {
    let whole = frame.area();
    let (lines, pipelines) = match view {
        Ok(view) => (vec![Line::from(process_line(view))], view.pipelines.as_slice()),
        Err(reason) => (vec![Line::styled((*reason).to_owned(), Style::new().fg(Color::Red))], [].as_slice()),
    };
    // Two lines above each table, one empty line below it.
    let heights = pipelines.iter().map(|own| Constraint::Length(own.stages.len() as u16 + 3));
    let areas = Layout::vertical(
        [Constraint::Length(2)].into_iter().chain(heights).chain([Constraint::Min(0), Constraint::Length(1)]),
    )
    .split(whole);
    frame.render_widget(Paragraph::new(Text::from(lines)), areas[0]);
    for (pipeline, area) in pipelines.iter().zip(areas.iter().skip(1)) {
        let [head, rows] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(*area);
        let colour = if pipeline.ledger.balanced { Color::Cyan } else { Color::Red };
        frame.render_widget(Paragraph::new(pipeline_line(pipeline)).style(Style::new().fg(colour)), head);
        frame.render_widget(table_of(pipeline), rows);
    }
    let foot = Paragraph::new(format!("{address}   q: quit")).style(Style::new().add_modifier(Modifier::DIM));
    frame.render_widget(foot, areas[areas.len() - 1]);
}

fn table_of(pipeline: &PipelineView) -> Table<'static> {
    let texts: Vec<_> = pipeline.stages.iter().map(row).collect();
    let widths = widths(&texts).map(|width| Constraint::Length(width as u16));
    let rows = texts.into_iter().zip(&pipeline.stages).map(|(cells, stage)| {
        Row::new(cells_of(cells)).style(style_of(stage, pipeline.bottleneck.as_deref()))
    });
    let head =
        Row::new(cells_of(COLUMNS.map(str::to_owned))).style(Style::new().add_modifier(Modifier::BOLD));
    Table::new(rows, widths).header(head).column_spacing(2)
}

fn cells_of(texts: [String; 10]) -> impl Iterator<Item = Cell<'static>> {
    texts.into_iter().enumerate().map(|(column, text)| {
        let side = if is_number(column) { Alignment::Right } else { Alignment::Left };
        Cell::from(Text::from(text).alignment(side))
    })
}

fn style_of(stage: &StageView, bottleneck: Option<&str>) -> Style {
    if bottleneck == Some(stage.name.as_str()) {
        Style::new().fg(Color::Yellow)
    } else if stage.errors > 0 {
        Style::new().fg(Color::Red)
    } else {
        Style::new()
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::view::tests::snapshot, *};

    #[test]
    fn the_screen_shows_every_stage_and_how_to_leave() {
        let view = View::between(Some(&snapshot(1.0, 10)), &snapshot(3.0, 50));
        let mut terminal = Terminal::new(TestBackend::new(100, 12)).unwrap();
        terminal.draw(|frame| draw(frame, "127.0.0.1:9464", Ok(&view))).unwrap();
        let shown = terminal.backend().to_string();
        for text in ["default/hello", "tick", "sink/console", "50/100", "q: quit"] {
            assert!(shown.contains(text), "{text} in:\n{shown}");
        }
    }

    #[test]
    fn a_process_that_went_away_is_said_so_on_the_screen() {
        let mut terminal = Terminal::new(TestBackend::new(60, 6)).unwrap();
        terminal.draw(|frame| draw(frame, "127.0.0.1:9464", Err(&"cannot ask"))).unwrap();
        assert!(terminal.backend().to_string().contains("cannot ask"));
    }
}
