//! Keys and columns.

use ratatui::text::{Line, Span};

use super::{Theme, heading};
use crate::{
    format::fit_start,
    top::{
        columns::COLUMNS,
        input::{KEYS, SORT_KEYS},
    },
};

/// Columns of the names.
const KEY: usize = 16;

pub(super) fn lines(theme: Theme, width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![heading("keys", theme, width)];
    for (keys, meaning) in KEYS {
        if keys.len() > KEY {
            lines.push(Line::styled(fit_start(&format!("  {keys}"), width), theme.title()));
            lines.push(entry("", meaning, theme, width));
        } else {
            lines.push(entry(keys, meaning, theme, width));
        }
    }
    lines.extend([Line::default(), heading("columns, with the key that sorts by them", theme, width)]);
    for column in COLUMNS {
        let key = SORT_KEYS.iter().find(|(_, id)| *id == column.id);
        let key = key.map_or_else(|| " ".into(), |(key, _)| key.to_string());
        lines.push(entry(&format!("{key} {}", column.header), column.help, theme, width));
    }
    lines.push(Line::default());
    let mark = if theme.has_colour { "Grey values" } else { "Values with ~" };
    lines.push(Line::raw(fit_start(
        &format!("{mark} are old: their source was silent, or the agent is lost."),
        width,
    )));
    lines.push(Line::raw(fit_start("- is unknown, which is not 0.", width)));
    lines
}

fn entry(name: &str, meaning: &str, theme: Theme, width: usize) -> Line<'static> {
    let name = format!("  {name:<KEY$} ");
    let left = width.saturating_sub(name.chars().count());
    Line::from(vec![Span::styled(name, theme.title()), Span::raw(fit_start(meaning, left))])
}
