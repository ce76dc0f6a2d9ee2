//! `forebay top`: pods and GPUs in the terminal.
//!
//! [`crate::fleet`] is computed from the agents' state, [`state`] is what the user chose, [`draw`] shows both. All three are pure.

mod columns;
mod draw;
mod input;
mod state;
mod terminal;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use draw::Theme;
use ratatui::crossterm::event::Event;
use state::{Effect, State};
use tokio::time::MissedTickBehavior;

use crate::{agents, forward::Access, scope, signals::Signals, source::Source};

/// Time between two frames without a key. Only what changed is sent to the terminal.
const REDRAW: Duration = Duration::from_millis(500);

#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct Options {
    #[command(flatten)]
    agents: agents::Options,
    #[command(flatten)]
    scope: scope::Options,
    /// File of `forebay record` to show instead of agents.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

pub(crate) async fn run(options: &Options, access: &Access) -> anyhow::Result<ExitCode> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("top needs a terminal; `forebay pods` prints the same values (-o json, --watch)");
    }
    // Before the terminal is taken, so that errors are ordinary lines.
    let source = match &options.replay {
        Some(file) => Source::recorded(file, &options.scope)?,
        None => Source::live(&options.agents, &options.scope, access).await?,
    };
    let signals = Signals::new()?;
    show(source, signals).await?;
    Ok(ExitCode::SUCCESS)
}

async fn show(mut source: Source, mut signals: Signals) -> anyhow::Result<()> {
    let theme = Theme::from_environment();
    let mut screen = terminal::Screen::take().context("cannot use the terminal")?;
    let mut events = terminal::events();
    let mut state = State::default();
    let mut redraw = tokio::time::interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut advanced = Instant::now();
    loop {
        let fleet = source.fleet();
        let mut max_scroll = 0;
        screen
            .terminal
            .draw(|frame| max_scroll = draw::draw(frame, &state, &fleet, theme))
            .context("cannot draw")?;
        state.scroll = state.scroll.min(max_scroll);
        tokio::select! {
            // Events do not draw: a busy fleet would draw all the time.
            never = source.follow() => match never {},
            _ = redraw.tick() => {
                source.advance(advanced.elapsed())?;
                advanced = Instant::now();
            }
            event = events.recv() => match event {
                Some(Ok(event)) => match handle(&event, &mut state, &mut source)? {
                    Effect::Quit => return Ok(()),
                    _ => continue,
                },
                Some(Err(error)) => return Err(error).context("cannot read the terminal"),
                None => return Ok(()),
            },
            () = signals.any() => return Ok(()),
        }
    }
}

fn handle(event: &Event, state: &mut State, source: &mut Source) -> anyhow::Result<Effect> {
    let Some(action) = input::action(event, state) else { return Ok(Effect::Nothing) };
    let effect = state.apply(action, &source.fleet());
    match effect {
        Effect::Pause => source.pause(),
        Effect::Seek(seconds) => source.seek(seconds)?,
        Effect::Nothing | Effect::Quit => {}
    }
    Ok(effect)
}
