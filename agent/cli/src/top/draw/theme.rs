//! Styles. Without colour nothing is lost: old values have a mark, verdicts are words.

use ratatui::style::{Color, Modifier, Style};

use crate::fleet::Level;

/// Whether colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Theme {
    pub(crate) has_colour: bool,
}

impl Theme {
    /// <https://no-color.org>: any value but the empty one.
    pub(crate) fn from_environment() -> Self {
        Self { has_colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn colour(self, colour: Color) -> Style {
        if self.has_colour { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) fn faint(self) -> Style {
        self.colour(Color::DarkGray)
    }

    pub(super) fn bar(self) -> Style {
        self.colour(Color::Cyan)
    }

    pub(super) fn stale(self) -> Style {
        self.colour(Color::DarkGray)
    }

    /// Before an old value, where grey cannot be seen.
    pub(super) fn stale_mark(self) -> &'static str {
        if self.has_colour { "" } else { "~" }
    }

    pub(super) fn problem(self) -> Style {
        self.colour(Color::Yellow)
    }

    pub(super) fn level(self, level: Level) -> Style {
        match level {
            Level::Ok => self.colour(Color::Green),
            Level::Unknown => self.faint(),
            Level::Suspect => self.colour(Color::Yellow),
            Level::Failed => self.colour(Color::Red).add_modifier(Modifier::BOLD),
        }
    }
}
