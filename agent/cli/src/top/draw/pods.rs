//! The table of pods.

use ratatui::{
    style::{Modifier, Style},
    text::{Line, Span},
};

use super::{Theme, cell};
use crate::{
    fleet::{Fleet, Level, Row},
    format::{fit_end, fit_start, plural},
    top::{
        columns::{Column, Id, fit},
        state::{Line as Entry, State},
    },
};

pub(super) fn lines(
    state: &State,
    fleet: &Fleet,
    theme: Theme,
    width: usize,
    height: usize,
) -> Vec<Line<'static>> {
    let columns = fit(width, &fleet.rows);
    let entries = state.lines(fleet);
    let selected = state.selected(fleet).map(|row| &row.key);
    let is_selected = |entry: &Entry<'_>| matches!(entry, Entry::Pod(row) if Some(&row.key) == selected);
    let room = height.saturating_sub(1);
    // The selected line is in the middle of a table that is longer than the terminal.
    let at = entries.iter().position(is_selected).unwrap_or_default();
    let first = at.saturating_sub(room / 2).min(entries.len().saturating_sub(room));
    let mut lines = vec![header(&columns, state, theme)];
    if entries.is_empty() {
        lines.push(Line::styled(empty(state, fleet), theme.faint()));
    }
    for entry in entries.iter().skip(first).take(room) {
        let line = match entry {
            Entry::Group { name, rows } => group(name, rows, theme, width),
            Entry::Pod(row) => pod(row, &columns, theme),
        };
        lines.push(if is_selected(entry) { line.patch_style(theme.selected()) } else { line });
    }
    lines
}

fn empty(state: &State, fleet: &Fleet) -> String {
    match (fleet.rows.len(), state.filter.as_str()) {
        (0, _) => "No pods. An agent reports pods of InferencePools on its node; `forebay check` says what is missing.".into(),
        (hidden, filter) => format!("None of {hidden} pods has /{filter} in a name. Press Esc to clear the filter."),
    }
}

fn header(columns: &[(&Column, usize)], state: &State, theme: Theme) -> Line<'static> {
    let spans = columns.iter().enumerate().flat_map(|(at, (column, width))| {
        let title = cell(column.header, *width, column.is_text(), false, theme);
        let style = if column.id == state.sort {
            theme.title().add_modifier(Modifier::UNDERLINED)
        } else {
            theme.title()
        };
        [gap(at), title.style(style)]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn gap(column: usize) -> Span<'static> {
    Span::raw(if column == 0 { "" } else { " " })
}

fn group(name: &str, rows: &[&Row], theme: Theme, width: usize) -> Line<'static> {
    // A sum of which a part is unknown is unknown.
    let in_flight: Option<u64> = rows.iter().map(|row| row.in_flight).sum();
    let in_flight = in_flight.map_or_else(|| "-".into(), |sum| sum.to_string());
    let worst = rows.iter().map(|row| row.verdict.level).max().unwrap_or_default();
    let failing = rows.iter().filter(|row| row.verdict.level > Level::Unknown).count();
    let mut text = format!("{name}: {}, {in_flight} in flight", plural(rows.len(), "pod"));
    if failing != 0 {
        text.push_str(&format!(", {failing} with problems"));
    }
    Line::styled(fit_start(&text, width), theme.level(worst).add_modifier(Modifier::BOLD))
}

fn pod(row: &Row, columns: &[(&Column, usize)], theme: Theme) -> Line<'static> {
    let spans = columns.iter().enumerate().flat_map(|(at, (column, width))| {
        let text = column.text(row);
        let text = if column.id == Id::Pod { fit_end(&text, *width) } else { text };
        let is_stale = column.is_stale(row);
        let value = cell(&text, *width, column.is_text(), is_stale, theme);
        let style = match column.id {
            Id::Verdict if !is_stale => theme.level(row.verdict.level),
            _ if is_stale => theme.stale(),
            _ => Style::new(),
        };
        [gap(at), value.style(style)]
    });
    Line::from(spans.collect::<Vec<_>>())
}
