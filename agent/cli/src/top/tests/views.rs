//! Each view as text, in `reference/`. `UPDATE_REFERENCE=1 cargo test -p forebay-cli reference` writes the files.

use std::path::Path;

use ratatui::{Terminal, backend::TestBackend, style::Color};

use crate::{
    fleet::{
        Fleet,
        scene::{Scene, scene},
    },
    top::{
        columns::Id,
        draw::{Theme, draw},
        state::{Action, State},
    },
};

const COLOUR: Theme = Theme { has_colour: true };
const PLAIN: Theme = Theme { has_colour: false };

fn render(state: &State, fleet: &Fleet, theme: Theme, (width, height): (u16, u16)) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            draw(frame, state, fleet, theme);
        })
        .unwrap();
    terminal
}

fn text(terminal: &Terminal<TestBackend>) -> String {
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width);
    let lines = buffer.content.chunks(width).map(|line| {
        let text: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", text.trim_end())
    });
    lines.collect()
}

fn check(name: &str, state: &State, fleet: &Fleet, size: (u16, u16)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/top/tests/reference");
    forebay_reference::check(&folder.join(format!("{name}.txt")), &text(&render(state, fleet, PLAIN, size)));
}

/// The agent of `gpu-b` is lost for 12 s.
fn lost() -> Scene {
    let mut scene = scene();
    scene.view.fail(1, "no frame for 3s".into());
    for _ in 0..12 {
        scene.pass_a_second();
    }
    scene
}

fn opened(pod: &str, fleet: &Fleet) -> State {
    let mut state = State { filter: pod.into(), ..State::default() };
    state.apply(Action::Open, fleet);
    state
}

#[test]
fn reference_of_pods() {
    let fleet = scene().fleet();
    let mut state = State::default();
    check("pods-80x24", &state, &fleet, (80, 24));
    state.apply(Action::SortBy(Id::Verdict), &fleet);
    check("pods-160x50", &state, &fleet, (160, 50));
    state.apply(Action::Group, &fleet);
    check("pods-by-model-120x24", &state, &fleet, (120, 24));
}

#[test]
fn reference_of_a_pod() {
    let fleet = scene().fleet();
    let mut state = opened("qwen-0", &fleet);
    check("pod-80x24", &state, &fleet, (80, 24));
    check("pod-120x50", &state, &fleet, (120, 50));
    check("pod-160x50", &state, &fleet, (160, 50));
    state.scroll = usize::MAX;
    check("pod-80x24-end", &state, &fleet, (80, 24));
}

#[test]
fn reference_of_a_pod_of_an_agent_without_distributions() {
    check("pod-of-old-agent-80x24", &opened("mistral", &scene().fleet()), &scene().fleet(), (80, 24));
}

#[test]
fn bars_of_a_lost_agent_are_grey_or_marked_by_their_values() {
    let mut scene = scene();
    scene.view.fail(0, "connection reset".into());
    let fleet = scene.fleet();
    let state = opened("qwen-0", &fleet);
    let plain = text(&render(&state, &fleet, PLAIN, (80, 24)));
    assert!(plain.contains("p50 ~140ms"), "{plain}");
    let colours = |fleet: &Fleet, theme| {
        let terminal = render(&opened("qwen-0", fleet), fleet, theme, (80, 24));
        let cells = terminal.backend().buffer().content.clone();
        let bars = cells.into_iter().skip(80 * 8).take(80 * 4).filter(|it| it.symbol() == "█");
        bars.map(|it| it.fg).collect::<std::collections::HashSet<_>>()
    };
    assert_eq!(colours(&fleet, COLOUR), [Color::DarkGray].into());
    assert_eq!(colours(&fleet, PLAIN), [Color::Reset].into());
    assert_eq!(colours(&crate::fleet::scene::scene().fleet(), COLOUR), [Color::Cyan].into());
}

#[test]
fn a_pod_that_is_not_measured_has_unknown_distributions() {
    let fleet = scene().fleet();
    let view = text(&render(&opened("qwen-2", &fleet), &fleet, PLAIN, (80, 24)));
    assert!(view.contains("TTFT: unknown") && view.contains("ITL: unknown"), "{view}");
    let view = text(&render(&opened("qwen-1", &fleet), &fleet, PLAIN, (80, 24)));
    assert!(view.contains("TTFT: unknown"), "the scene has no summary of a frozen pod: {view}");
}

#[test]
fn reference_of_a_gpu() {
    let fleet = scene().fleet();
    let mut state = opened("mistral", &fleet);
    state.apply(Action::Open, &fleet);
    check("gpu-80x24", &state, &fleet, (80, 24));
}

#[test]
fn reference_of_the_help() {
    let state = State { shows_help: true, ..State::default() };
    check("help-80x50", &state, &Fleet::default(), (80, 50));
}

#[test]
fn reference_of_a_lost_agent() {
    check("lost-agent-80x24", &State::default(), &lost().fleet(), (80, 24));
}

#[test]
fn reference_of_a_recording() {
    let mut fleet = scene().fleet();
    fleet.replay = Some("paused  12:00:30 UTC  30s of 600s".into());
    let state = State { filter: "qwen".into(), ..State::default() };
    check("replay-80x24", &state, &fleet, (80, 24));
}

#[test]
fn old_values_are_grey_or_marked() {
    let fleet = lost().fleet();
    let line = |theme| {
        let terminal = render(&State::default(), &fleet, theme, (80, 24));
        let lines = text(&terminal);
        let at = lines.lines().position(|line| line.contains("mistral-0")).unwrap();
        let of_pod = lines.lines().nth(at).unwrap().to_owned();
        let buffer = terminal.backend().buffer();
        let colours: Vec<Color> = (0..80)
            .map(|x| &buffer[(x, at.try_into().unwrap())])
            .filter(|cell| !cell.symbol().trim().is_empty())
            .map(|cell| cell.fg)
            .collect();
        (of_pod, colours)
    };
    let (plain, colours) = line(PLAIN);
    assert!(plain.contains("~2 ") && plain.contains("~12s"), "{plain}");
    assert!(colours.iter().all(|colour| *colour == Color::Reset), "no colour: {colours:?}");
    let (grey, colours) = line(COLOUR);
    assert!(
        !grey.contains('~') && colours.iter().all(|colour| *colour == Color::DarkGray),
        "{grey} {colours:?}"
    );
}

#[test]
fn values_of_a_lost_agent_are_old_at_once() {
    let mut scene = scene();
    scene.view.fail(1, "connection reset".into());
    let text = text(&render(&State::default(), &scene.fleet(), PLAIN, (80, 24)));
    assert!(text.contains("~mistral-0         ~2 ") && text.contains("qwen-0              8 "), "{text}");
}

#[test]
fn every_size_can_be_drawn() {
    let fleet = lost().fleet();
    for (width, height) in [(1, 1), (2, 3), (10, 4), (40, 10), (79, 23), (300, 100)] {
        for (pod, help) in [(None, false), (Some("qwen-0"), false), (None, true)] {
            let mut state = pod.map_or_else(State::default, |pod| opened(pod, &fleet));
            state.shows_help = help;
            render(&state, &fleet, COLOUR, (width, height));
        }
    }
}

#[test]
fn the_selected_line_is_visible_in_a_long_table() {
    let mut fleet = scene().fleet();
    let row = fleet.rows[0].clone();
    fleet.rows.extend((0..100).map(|at| {
        let mut row = row.clone();
        row.pod = format!("pod-{at:03}");
        row.key = row.key.renamed(&row.pod);
        row
    }));
    let mut state = State::default();
    for (action, visible) in [
        (Action::First, "mistral-0"),
        (Action::Last, "qwen-2"),
        (Action::PageUp, "pod-092"),
        (Action::PageUp, "pod-082"),
    ] {
        state.apply(action, &fleet);
        assert_eq!(state.selected(&fleet).unwrap().pod, visible, "{action:?}");
        let text = text(&render(&state, &fleet, PLAIN, (80, 24)));
        assert!(text.contains(visible), "{action:?}: {text}");
    }
}

/// The picture in the README is a view of the tests.
#[test]
fn reference_of_the_readme() {
    const START: &str =
        "<!-- a view of the tests: UPDATE_REFERENCE=1 cargo test -p forebay-cli reference -->\n```text\n";
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let known = std::fs::read_to_string(&readme).unwrap();
    let (before, rest) = known.split_once(START).expect("README.md has the place for the picture");
    let (_, after) = rest.split_once("```").unwrap();
    let fleet = lost().fleet();
    let mut state = State::default();
    state.apply(Action::SortBy(Id::Verdict), &fleet);
    state.apply(Action::Group, &fleet);
    let view = text(&render(&state, &fleet, PLAIN, (110, 24)));
    let lines = view.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n"));
    let picture: String = lines.collect();
    forebay_reference::check(&readme, &format!("{before}{START}{picture}```{after}"));
}
