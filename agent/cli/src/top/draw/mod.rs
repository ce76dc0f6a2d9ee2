//! Draws a fleet in a state. A view is lines of text: the title, the body, notices, and the keys.

mod distributions;
mod gpu;
mod help;
mod pod;
mod pods;
mod theme;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::Paragraph,
};

pub(super) use theme::Theme;

use super::state::{Screen, State};
use crate::{
    fleet::Fleet,
    format::{fit_start, plural},
};

/// Maximum lines of notices. The rest is counted.
const MAX_NOTICES: usize = 3;

/// Draws everything. Returns how far the view can scroll.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, fleet: &Fleet, theme: Theme) -> usize {
    let width = frame.area().width.into();
    let notices = notices(state, fleet, theme, width);
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(notices.len().try_into().unwrap_or(u16::MAX)),
        Constraint::Length(1),
    ]);
    let [title, body, below, keys] = rows.areas(frame.area());
    frame.render_widget(Paragraph::new(head(state, fleet, theme, width)), title);
    let max_scroll = draw_body(frame, body, state, fleet, theme);
    frame.render_widget(Paragraph::new(notices), below);
    frame.render_widget(Paragraph::new(foot(state, fleet, theme, width)), keys);
    max_scroll
}

fn draw_body(frame: &mut Frame<'_>, area: Rect, state: &State, fleet: &Fleet, theme: Theme) -> usize {
    let width = area.width.into();
    let height = area.height.into();
    let lines = if state.shows_help {
        help::lines(theme, width)
    } else {
        match &state.screen {
            Screen::Pods => {
                frame.render_widget(Paragraph::new(pods::lines(state, fleet, theme, width, height)), area);
                return 0;
            }
            Screen::Pod(key) => match fleet.row(key) {
                Some(row) => pod::lines(row, fleet, state, theme, width, height),
                None => vec![Line::from("The pod is gone. Press Esc.")],
            },
            Screen::Gpu(key, _) => match fleet.gpu(key) {
                Some(gpu) => gpu::lines(gpu, theme, width),
                None => vec![Line::from("The GPU is gone. Press Esc.")],
            },
        }
    };
    let max_scroll = lines.len().saturating_sub(height);
    let scroll = state.scroll.min(max_scroll);
    let shown: Vec<Line<'_>> = lines.into_iter().skip(scroll).take(height).collect();
    frame.render_widget(Paragraph::new(shown), area);
    max_scroll
}

fn head(state: &State, fleet: &Fleet, theme: Theme, width: usize) -> Line<'static> {
    // The last values of a lost agent are not part of a sum of current values.
    let counts = || fleet.rows.iter().map(|row| row.in_flight.filter(|_| !row.is_lost));
    let in_flight: u64 = counts().flatten().sum();
    let uncounted = counts().filter(Option::is_none).count();
    let (nodes, pods) = (plural(fleet.nodes, "node"), plural(fleet.rows.len(), "pod"));
    let mut left = format!("{nodes}, {pods}, {}, {in_flight} in flight", plural(fleet.gpus.len(), "GPU"));
    if uncounted != 0 {
        left.push_str(&format!(" ({} not counted)", plural(uncounted, "pod")));
    }
    let arrow = if state.is_descending { "desc" } else { "asc" };
    let mut right = format!("sort {} {arrow}", state.sort.column().header);
    if state.group.name() != "none" {
        right.push_str(&format!(", by {}", state.group.name()));
    }
    if !state.filter.is_empty() {
        right.push_str(&format!(", /{}", state.filter));
    }
    Line::styled(both_ends(&left, &right, width), theme.title())
}

/// The right text is left out where both do not fit.
fn both_ends(left: &str, right: &str, width: usize) -> String {
    let used = left.chars().count() + right.chars().count();
    if used + 2 > width {
        return format!("{:<width$}", fit_start(left, width));
    }
    format!("{left}{}{right}", " ".repeat(width - used))
}

/// What is wrong with the selected pod and with agents.
fn notices(state: &State, fleet: &Fleet, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if state.screen == Screen::Pods
        && !state.shows_help
        && let Some(row) = state.selected(fleet)
        && !row.verdict.explanation.is_empty()
    {
        let text = format!("{}: {}", row.pod, row.verdict.sentence());
        lines.push(Line::styled(fit_start(&text, width), theme.level(row.verdict.level)));
    }
    let shown = fleet.notices.iter().take(MAX_NOTICES);
    lines.extend(shown.map(|notice| Line::styled(fit_start(notice, width), theme.problem())));
    let more = fleet.notices.len().saturating_sub(MAX_NOTICES);
    if more != 0 {
        lines.push(Line::styled(format!("and {}", plural(more, "more problem")), theme.problem()));
    }
    lines
}

fn foot(state: &State, fleet: &Fleet, theme: Theme, width: usize) -> Line<'static> {
    if state.is_editing {
        return Line::from(vec![
            Span::styled("filter: ", theme.title()),
            Span::raw(format!("{}_", state.filter)),
            Span::styled("   Enter keeps it, Esc clears it", theme.faint()),
        ]);
    }
    let keys = match state.screen {
        _ if state.shows_help => "Esc back  up/down scroll",
        Screen::Pods => "Enter open  / filter  s sort  r reverse  g group  ? help  q quit",
        Screen::Pod(_) => "Esc back  Tab next GPU  Enter open GPU  up/down scroll  ? help  q quit",
        Screen::Gpu(..) => "Esc back  up/down scroll  ? help  q quit",
    };
    let right = fleet.replay.as_deref().unwrap_or_default();
    let keys = if fleet.replay.is_some() { "space pause  left/right seek  ? help  q quit" } else { keys };
    Line::styled(both_ends(keys, right, width), theme.faint())
}

/// A heading over a part of a view.
fn heading(text: &str, theme: Theme, width: usize) -> Line<'static> {
    Line::styled(fit_start(text, width), theme.title())
}

/// A value with its mark if it is old, aligned to the right or left.
fn cell(text: &str, width: usize, is_left: bool, is_stale: bool, theme: Theme) -> Span<'static> {
    let text = fit_start(text, width);
    let mark = if is_stale && text != "-" && !text.trim().is_empty() { theme.stale_mark() } else { "" };
    let text = format!("{mark}{text}");
    let width = width + 1;
    let padded = if is_left { format!("{text:<width$}") } else { format!("{text:>width$}") };
    if is_stale { Span::styled(padded, theme.stale()) } else { Span::raw(padded) }
}
