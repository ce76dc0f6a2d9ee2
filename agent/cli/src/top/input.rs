//! Keys.

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    columns::Id,
    state::{Action, State},
};

/// Keys that sort, with their columns.
pub(super) const SORT_KEYS: &[(char, Id)] = &[
    ('N', Id::Pod),
    ('I', Id::InFlight),
    ('W', Id::Waiting),
    ('O', Id::Oldest),
    ('F', Id::TtftP99),
    ('L', Id::Itl),
    ('T', Id::Tokens),
    ('Q', Id::Queue),
    ('K', Id::Kv),
    ('U', Id::Gpu),
    ('V', Id::Verdict),
    ('A', Id::Age),
];

/// Other keys, for the help.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("up, down, j, k, PgUp, PgDn, Home, End", "select a pod; scroll a view"),
    ("Enter", "open the pod; in a pod, open the selected GPU"),
    ("Tab", "in a pod: select the next GPU"),
    ("Esc, Backspace", "back; in the table, clear the filter"),
    ("/", "filter by pod, namespace, node, address, model, pool or verdict"),
    ("g", "group by model, node, pool, or not at all"),
    ("s, r", "sort by the next column; reverse the order"),
    ("space", "in a recording: pause and continue"),
    ("left, right", "in a recording: 10 s back, 10 s on"),
    ("?, q, Ctrl-C", "this help; quit"),
];

/// What an event means. `None`: nothing.
pub(super) fn action(event: &Event, state: &State) -> Option<Action> {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press | KeyEventKind::Repeat, .. }) =
        event
    else {
        return None;
    };
    if modifiers.contains(KeyModifiers::CONTROL) {
        return (*code == KeyCode::Char('c')).then_some(Action::Quit);
    }
    if state.is_editing { filter_key(*code) } else { command_key(*code) }
}

fn filter_key(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Enter => Action::AcceptFilter,
        KeyCode::Esc => Action::ClearFilter,
        KeyCode::Backspace => Action::Erase,
        KeyCode::Char(character) if !character.is_control() => Action::Type(character),
        _ => return None,
    })
}

fn command_key(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Up | KeyCode::Char('k') => Action::Up,
        KeyCode::Down | KeyCode::Char('j') => Action::Down,
        KeyCode::PageUp => Action::PageUp,
        KeyCode::PageDown => Action::PageDown,
        KeyCode::Home => Action::First,
        KeyCode::End => Action::Last,
        KeyCode::Enter => Action::Open,
        KeyCode::Esc | KeyCode::Backspace => Action::Back,
        KeyCode::Tab => Action::NextGpu,
        KeyCode::Left => Action::Earlier,
        KeyCode::Right => Action::Later,
        KeyCode::Char('?') => Action::Help,
        KeyCode::Char('/') => Action::EditFilter,
        KeyCode::Char('g') => Action::Group,
        KeyCode::Char('s') => Action::SortNext,
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Char(' ') => Action::Pause,
        KeyCode::Char('q') => Action::Quit,
        KeyCode::Char(key) => {
            let (_, id) = SORT_KEYS.iter().find(|(known, _)| *known == key)?;
            Action::SortBy(*id)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(code: KeyCode, modifiers: KeyModifiers) -> Event {
        Event::Key(KeyEvent::new(code, modifiers))
    }

    #[test]
    fn letters_are_text_while_the_filter_is_edited() {
        let mut state = State::default();
        let of = |state: &State, code| action(&press(code, KeyModifiers::NONE), state);
        assert_eq!(of(&state, KeyCode::Char('q')), Some(Action::Quit));
        assert_eq!(of(&state, KeyCode::Char('V')), Some(Action::SortBy(Id::Verdict)));
        assert_eq!(of(&state, KeyCode::Char('y')), None);
        state.is_editing = true;
        assert_eq!(of(&state, KeyCode::Char('q')), Some(Action::Type('q')));
        assert_eq!(of(&state, KeyCode::Esc), Some(Action::ClearFilter));
        assert_eq!(of(&state, KeyCode::Up), None);
        let interrupt = press(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(action(&interrupt, &state), Some(Action::Quit), "always");
    }
}
