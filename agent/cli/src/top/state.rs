//! What the user has chosen: view, order, filter, groups, selection. Pure: keys become actions elsewhere.

use std::collections::BTreeMap;

use crate::{
    fleet::{Fleet, GpuKey, Row, RowKey},
    top::columns::Id,
};

/// Longest filter.
const MAX_FILTER: usize = 64;
/// Rows that a page key moves.
const PAGE: isize = 10;
/// Seconds that an arrow key moves in a recording.
const SEEK_SECONDS: i64 = 10;

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Open,
    Back,
    NextGpu,
    Help,
    SortBy(Id),
    SortNext,
    Reverse,
    Group,
    EditFilter,
    Type(char),
    Erase,
    AcceptFilter,
    ClearFilter,
    Pause,
    Earlier,
    Later,
    Quit,
}

/// What the loop must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Quit,
    Pause,
    /// Seconds, in a recording.
    Seek(i64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Screen {
    #[default]
    Pods,
    Pod(RowKey),
    /// And the pod from which it was opened.
    Gpu(GpuKey, RowKey),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Group {
    #[default]
    None,
    Model,
    Node,
    Pool,
}

impl Group {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Model => "model",
            Self::Node => "node",
            Self::Pool => "pool",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::None => Self::Model,
            Self::Model => Self::Node,
            Self::Node => Self::Pool,
            Self::Pool => Self::None,
        }
    }

    /// A pod in several pools is listed in each.
    fn of(self, row: &Row) -> Vec<String> {
        let unknown = || format!("no {} known", self.name());
        match self {
            Self::None => vec![String::new()],
            Self::Model => vec![row.model.clone().unwrap_or_else(unknown)],
            Self::Node => vec![row.node.clone()],
            Self::Pool if row.pools.is_empty() => vec![unknown()],
            Self::Pool => row.pools.clone(),
        }
    }
}

/// A line of the table.
#[derive(Debug)]
pub(super) enum Line<'a> {
    Group { name: String, rows: Vec<&'a Row> },
    Pod(&'a Row),
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) screen: Screen,
    pub(super) shows_help: bool,
    pub(super) sort: Id,
    pub(super) is_descending: bool,
    pub(super) group: Group,
    pub(super) filter: String,
    pub(super) is_editing: bool,
    pub(super) selected: Option<RowKey>,
    /// Of the GPUs of the open pod.
    pub(super) selected_gpu: usize,
    /// First line of a view that is longer than the terminal.
    pub(super) scroll: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            screen: Screen::Pods,
            shows_help: false,
            sort: Id::Pod,
            is_descending: false,
            group: Group::None,
            filter: String::new(),
            is_editing: false,
            selected: None,
            selected_gpu: 0,
            scroll: 0,
        }
    }
}

impl State {
    /// The lines of the table: filtered, in groups, sorted.
    pub(super) fn lines<'a>(&self, fleet: &'a Fleet) -> Vec<Line<'a>> {
        let mut groups: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
        for row in fleet.rows.iter().filter(|row| self.has(row)) {
            for name in self.group.of(row) {
                groups.entry(name).or_default().push(row);
            }
        }
        let mut lines = Vec::new();
        for (name, mut rows) in groups {
            // Stable: rows that are equal stay in the order of their names.
            rows.sort_by(|one, other| self.sort.column().compare(one, other, self.is_descending));
            let pods: Vec<Line<'_>> = rows.iter().map(|row| Line::Pod(row)).collect();
            if self.group != Group::None {
                lines.push(Line::Group { name, rows });
            }
            lines.extend(pods);
        }
        lines
    }

    fn has(&self, row: &Row) -> bool {
        let wanted = self.filter.to_lowercase();
        let model = row.model.as_deref().unwrap_or_default();
        let verdict = row.verdict.text.as_str();
        let names = [row.pod.as_str(), &row.namespace, &row.node, &row.address, model, verdict];
        let mut all = names.into_iter().chain(row.pools.iter().map(String::as_str));
        wanted.is_empty() || all.any(|name| name.to_lowercase().contains(&wanted))
    }

    /// The selected row, or the first one.
    pub(super) fn selected<'a>(&self, fleet: &'a Fleet) -> Option<&'a Row> {
        let pods = self.pods(fleet);
        let selected = pods.iter().find(|row| Some(&row.key) == self.selected.as_ref());
        selected.or(pods.first()).copied()
    }

    fn pods<'a>(&self, fleet: &'a Fleet) -> Vec<&'a Row> {
        let lines = self.lines(fleet).into_iter();
        lines.filter_map(|line| if let Line::Pod(row) = line { Some(row) } else { None }).collect()
    }

    pub(super) fn apply(&mut self, action: Action, fleet: &Fleet) -> Effect {
        match action {
            Action::Quit => return Effect::Quit,
            Action::Pause => return Effect::Pause,
            Action::Earlier => return Effect::Seek(-SEEK_SECONDS),
            Action::Later => return Effect::Seek(SEEK_SECONDS),
            Action::Up => self.step(-1, fleet),
            Action::Down => self.step(1, fleet),
            Action::PageUp => self.step(-PAGE, fleet),
            Action::PageDown => self.step(PAGE, fleet),
            Action::First => self.step(isize::MIN, fleet),
            Action::Last => self.step(isize::MAX, fleet),
            Action::Open => self.open(fleet),
            Action::Back => self.back(),
            Action::NextGpu => self.next_gpu(fleet),
            Action::Help => (self.shows_help, self.scroll) = (!self.shows_help, 0),
            Action::SortBy(id) => self.sort_by(id),
            Action::SortNext => self.sort_next(),
            Action::Reverse => self.is_descending = !self.is_descending,
            Action::Group => self.group = self.group.next(),
            Action::EditFilter => self.is_editing = true,
            Action::Type(character) => {
                if self.filter.chars().count() < MAX_FILTER {
                    self.filter.push(character);
                }
            }
            Action::Erase => {
                self.filter.pop();
            }
            Action::AcceptFilter => self.is_editing = false,
            Action::ClearFilter => {
                self.filter.clear();
                self.is_editing = false;
            }
        }
        Effect::Nothing
    }

    /// Moves the selection, or scrolls a view without one. The drawing limits the scroll.
    fn step(&mut self, by: isize, fleet: &Fleet) {
        if self.shows_help || self.screen != Screen::Pods {
            self.scroll = self.scroll.saturating_add_signed(by);
            return;
        }
        let pods = self.pods(fleet);
        let at = pods.iter().position(|row| Some(&row.key) == self.selected.as_ref()).unwrap_or_default();
        let to = at.saturating_add_signed(by).min(pods.len().saturating_sub(1));
        self.selected = pods.get(to).map(|row| row.key.clone());
    }

    fn open(&mut self, fleet: &Fleet) {
        let next = match &self.screen {
            Screen::Pods => self.selected(fleet).map(|row| Screen::Pod(row.key.clone())),
            Screen::Pod(key) => fleet.row(key).and_then(|row| {
                let gpu = fleet.gpus_of(row).nth(self.selected_gpu)?;
                Some(Screen::Gpu(gpu.key.clone(), key.clone()))
            }),
            Screen::Gpu(..) => None,
        };
        let Some(next) = next else { return };
        if let Screen::Pod(key) = &next {
            (self.selected, self.selected_gpu) = (Some(key.clone()), 0);
        }
        (self.screen, self.scroll) = (next, 0);
    }

    /// Closes the help, then the view, then the filter.
    fn back(&mut self) {
        self.scroll = 0;
        if self.shows_help {
            self.shows_help = false;
            return;
        }
        match std::mem::take(&mut self.screen) {
            Screen::Gpu(_, pod) => self.screen = Screen::Pod(pod),
            Screen::Pod(_) => {}
            Screen::Pods => self.filter.clear(),
        }
    }

    fn next_gpu(&mut self, fleet: &Fleet) {
        if let Screen::Pod(key) = &self.screen
            && let Some(row) = fleet.row(key)
        {
            self.selected_gpu = (self.selected_gpu + 1) % fleet.gpus_of(row).count().max(1);
        }
    }

    /// Numbers start with the largest. The same column again reverses the order.
    fn sort_by(&mut self, id: Id) {
        self.is_descending =
            if self.sort == id { !self.is_descending } else { !id.column().is_text() || id == Id::Verdict };
        self.sort = id;
    }

    fn sort_next(&mut self) {
        let columns = super::columns::COLUMNS;
        let at = columns.iter().position(|column| column.id == self.sort).unwrap_or_default();
        self.sort_by(columns[(at + 1) % columns.len()].id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::fleet::scene::scene;

    fn names(state: &State, fleet: &Fleet) -> Vec<String> {
        let line = |line: Line<'_>| match line {
            Line::Group { name, rows } => format!("[{name} {}]", rows.len()),
            Line::Pod(row) => row.key_name().to_owned(),
        };
        state.lines(fleet).into_iter().map(line).collect()
    }

    #[test]
    fn sorts_by_a_column_with_unknown_last() {
        let fleet = scene().fleet();
        let mut state = State::default();
        assert_eq!(names(&state, &fleet), ["mistral-0", "qwen-0", "qwen-1", "qwen-2"]);
        state.apply(Action::SortBy(Id::InFlight), &fleet);
        assert_eq!(names(&state, &fleet), ["qwen-0", "qwen-1", "mistral-0", "qwen-2"]);
        state.apply(Action::Reverse, &fleet);
        assert_eq!(names(&state, &fleet), ["mistral-0", "qwen-1", "qwen-0", "qwen-2"]);
        state.apply(Action::SortBy(Id::Verdict), &fleet);
        assert_eq!(names(&state, &fleet)[0], "qwen-1", "the worst is first");
    }

    #[test]
    fn filters_by_any_name() {
        let fleet = scene().fleet();
        let mut state = State::default();
        for (filter, expected) in [
            ("MISTRAL", vec!["mistral-0"]),
            ("no_progress", vec!["qwen-1"]),
            ("gpu-b", vec!["mistral-0", "qwen-2"]),
            ("x", vec![]),
        ] {
            state.filter = filter.into();
            assert_eq!(names(&state, &fleet), expected, "{filter}");
        }
        for _ in 0..200 {
            state.apply(Action::Type('a'), &fleet);
        }
        assert_eq!(state.filter.len(), MAX_FILTER);
        state.apply(Action::Back, &fleet);
        assert_eq!(state.filter, "");
    }

    #[test]
    fn groups_by_model_node_and_pool() {
        let fleet = scene().fleet();
        let mut state = State::default();
        let groups: Vec<Vec<String>> = (0..3)
            .map(|_| {
                state.apply(Action::Group, &fleet);
                names(&state, &fleet).into_iter().filter(|name| name.starts_with('[')).collect()
            })
            .collect();
        assert_eq!(groups[0], ["[Qwen/Qwen3-0.6B 2]", "[mistralai/Mistral-7B 1]", "[no model known 1]"]);
        assert_eq!(groups[1], ["[gpu-a 2]", "[gpu-b 2]"]);
        assert_eq!(groups[2], ["[no pool known 1]", "[qwen 3]", "[spare 1]"], "qwen-1 is in two pools");
        state.apply(Action::Group, &fleet);
        assert_eq!(state.group, Group::None);
    }

    #[test]
    fn the_selection_follows_the_pod_and_not_the_line() {
        let fleet = scene().fleet();
        let mut state = State::default();
        let selected = |state: &State| state.selected(&fleet).unwrap().key_name().to_owned();
        assert_eq!(selected(&state), "mistral-0");
        state.apply(Action::Down, &fleet);
        assert_eq!(selected(&state), "qwen-0");
        state.apply(Action::SortBy(Id::InFlight), &fleet);
        assert_eq!(selected(&state), "qwen-0");
        for (action, expected) in [
            (Action::Last, "qwen-2"),
            (Action::Down, "qwen-2"),
            (Action::First, "qwen-0"),
            (Action::PageDown, "qwen-2"),
        ] {
            state.apply(action, &fleet);
            assert_eq!(selected(&state), expected, "{action:?}");
        }
        state.filter = "nothing".into();
        state.apply(Action::Up, &fleet);
        state.apply(Action::Open, &fleet);
        assert_eq!(state.screen, Screen::Pods, "there is nothing to open");
    }

    #[test]
    fn opens_a_pod_then_a_gpu_and_goes_back() {
        let fleet = scene().fleet();
        let mut state = State { filter: "qwen-0".into(), ..State::default() };
        state.apply(Action::Open, &fleet);
        assert!(matches!(state.screen, Screen::Pod(_)));
        state.apply(Action::NextGpu, &fleet);
        state.apply(Action::Open, &fleet);
        let Screen::Gpu((_, uuid), _) = &state.screen else { panic!("a GPU") };
        assert_eq!(uuid, "GPU-a1");
        state.apply(Action::Help, &fleet);
        for expected in [true, true, false] {
            state.apply(Action::Back, &fleet);
            assert_eq!(state.screen != Screen::Pods, expected);
        }
        assert_eq!(state.filter, "qwen-0", "the filter is cleared last");
    }
}
