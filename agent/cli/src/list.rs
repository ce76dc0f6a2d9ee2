//! `forebay nodes`, `pods` and `gpus`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::MissedTickBehavior;

use crate::{
    DEGRADED, Subject, agents,
    forward::Access,
    json,
    output::ListOutput,
    recording::{At, Player},
    scope::{self, Scope},
    table,
    view::View,
};

#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct Options {
    #[command(flatten)]
    agents: agents::Options,
    /// File of `forebay record` to read instead of agents.
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    replay: Option<PathBuf>,
    /// Time in the recording: since its start, such as 90s, or such as 2026-01-31T12:00:00Z [default: its end].
    #[arg(long, value_name = "TIME", requires = "replay")]
    at: Option<At>,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t = ListOutput::Table)]
    output: ListOutput,
    /// Sort by this field of -o json, smallest first, such as kernel.inFlight.
    #[arg(long, value_name = "FIELD")]
    sort: Option<String>,
    /// Refresh every second until interrupted.
    #[arg(short, long)]
    watch: bool,
}

/// Of pods and GPUs.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct ScopedOptions {
    #[command(flatten)]
    list: Options,
    #[command(flatten)]
    scope: scope::Options,
}

const REDRAW: Duration = Duration::from_secs(1);

pub(crate) async fn show_scoped(
    subject: Subject,
    options: &ScopedOptions,
    access: &Access,
) -> anyhow::Result<ExitCode> {
    show(subject, &options.list, Some(&options.scope), access).await
}

pub(crate) async fn show(
    subject: Subject,
    options: &Options,
    scope: Option<&scope::Options>,
    access: &Access,
) -> anyhow::Result<ExitCode> {
    let scope = scope.cloned().unwrap_or_default();
    if let Some(file) = &options.replay {
        let mut player = Player::open(file)?;
        player.view_mut().scope = Scope::without_resources(&scope)?;
        player.seek(options.at.map_or(Ok(player.length()), |at| player.offset(at))?)?;
        if player.is_cut_off() {
            writeln!(io::stderr(), "forebay: {} was cut off; this is up to the cut", file.display())?;
        }
        print(subject, options, player.view())?;
        return Ok(exit_code(player.view()));
    }
    let resources = if scope.selector.is_some() {
        options.agents.scope(&scope, access).await?
    } else {
        Scope::without_resources(&scope)?
    };
    let (mut streams, mut view) = agents::ask(&options.agents, access).await?;
    view.scope = resources;
    print(subject, options, &view)?;
    if options.watch {
        let mut redraw = tokio::time::interval(REDRAW);
        redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        redraw.reset();
        loop {
            tokio::select! {
                Some((agent, event)) = streams.next() => view.apply(agent, event),
                _ = redraw.tick() => {
                    view.scope.refresh();
                    print(subject, options, &view)?;
                }
                _ = tokio::signal::ctrl_c() => break,
            }
        }
    }
    Ok(exit_code(&view))
}

fn exit_code(view: &View) -> ExitCode {
    match view.answered() {
        0 => ExitCode::FAILURE,
        some if some < view.agents.len() => ExitCode::from(DEGRADED),
        _ => ExitCode::SUCCESS,
    }
}

fn print(subject: Subject, options: &Options, view: &View) -> anyhow::Result<()> {
    let sort = options.sort.as_deref();
    let text = match options.output {
        ListOutput::Table => table::render(subject, view, false, sort)?,
        ListOutput::Wide => table::render(subject, view, true, sort)?,
        ListOutput::Json if options.watch => format!("{}\n", json::render(subject, view, sort)?),
        ListOutput::Json => format!("{:#}\n", json::render(subject, view, sort)?),
        ListOutput::Yaml => {
            let document = serde_yaml_ng::to_string(&json::render(subject, view, sort)?);
            format!("---\n{}", document.context("cannot write YAML")?)
        }
    };
    let mut out = io::stdout().lock();
    let is_table = matches!(options.output, ListOutput::Table | ListOutput::Wide);
    if options.watch && is_table && out.is_terminal() {
        // Cursor home, erase the screen.
        write!(out, "\x1b[H\x1b[2J")?;
    }
    write!(out, "{text}")?;
    out.flush()?;
    for (agent, problem) in view.problems() {
        writeln!(io::stderr(), "forebay: agent {agent}: {problem}")?;
    }
    Ok(())
}
