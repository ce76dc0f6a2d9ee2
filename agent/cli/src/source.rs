//! Where the state of the agents comes from: their streams, or a recording.

use std::{
    convert::Infallible,
    future::pending,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    agents::{self, AgentStreams},
    fleet::{Fleet, History, INTERVAL, SAMPLES},
    forward::Access,
    recording::Player,
    scope::{self, Scope},
    view::View,
};

/// The state of the agents, with its history.
pub(crate) struct Source {
    kind: Kind,
    history: History,
    sampled: Option<Instant>,
}

enum Kind {
    Live { streams: Box<AgentStreams>, view: Box<View> },
    Recorded { player: Box<Player>, is_paused: bool },
}

impl Source {
    pub(crate) async fn live(
        agents: &agents::Options,
        scope: &scope::Options,
        access: &Access,
    ) -> anyhow::Result<Self> {
        let scope = agents.scope(scope, access).await?;
        let (streams, names) = agents::connect(agents, access).await?;
        let (streams, view) = (Box::new(streams), Box::new(View { scope, ..View::new(names) }));
        Ok(Self { kind: Kind::Live { streams, view }, history: History::default(), sampled: None })
    }

    pub(crate) fn recorded(file: &Path, scope: &scope::Options) -> anyhow::Result<Self> {
        let mut player = Box::new(Player::open(file)?);
        player.view_mut().scope = Scope::without_resources(scope)?;
        let kind = Kind::Recorded { player, is_paused: false };
        Ok(Self { kind, history: History::default(), sampled: None })
    }

    /// Takes events of the agents, until dropped.
    pub(crate) async fn follow(&mut self) -> Infallible {
        match &mut self.kind {
            Kind::Live { streams, view } => {
                while let Some((agent, event)) = streams.next().await {
                    view.apply(agent, event);
                }
            }
            Kind::Recorded { .. } => {}
        }
        // There is nothing more to take.
        pending().await
    }

    /// Time has passed.
    pub(crate) fn advance(&mut self, elapsed: Duration) -> anyhow::Result<()> {
        match &mut self.kind {
            Kind::Live { view, .. } => {
                view.scope.refresh();
                self.sample();
            }
            Kind::Recorded { player, is_paused: false } => {
                let to = player.position() + elapsed;
                self.play(to)?;
            }
            Kind::Recorded { .. } => {}
        }
        Ok(())
    }

    /// Plays up to a time, with a sample each interval.
    fn play(&mut self, to: Duration) -> anyhow::Result<()> {
        loop {
            let Kind::Recorded { player, .. } = &mut self.kind else { return Ok(()) };
            let to = to.min(player.length());
            let next = (player.position() + INTERVAL).min(to);
            player.seek(next)?;
            self.sample();
            if next >= to {
                return Ok(());
            }
        }
    }

    fn sample(&mut self) {
        let now = self.now();
        let is_due = self.sampled.is_none_or(|at| now.saturating_duration_since(at) >= INTERVAL);
        if is_due {
            self.sampled = Some(now);
            match &self.kind {
                Kind::Live { view, .. } => self.history.sample(view),
                Kind::Recorded { player, .. } => self.history.sample(player.view()),
            }
        }
    }

    pub(crate) fn pause(&mut self) {
        if let Kind::Recorded { is_paused, .. } = &mut self.kind {
            *is_paused = !*is_paused;
        }
    }

    /// Moves in a recording, with the history that was seen there.
    pub(crate) fn seek(&mut self, seconds: i64) -> anyhow::Result<()> {
        let Kind::Recorded { player, .. } = &mut self.kind else { return Ok(()) };
        let by = Duration::from_secs(seconds.unsigned_abs());
        let position = player.position();
        let to = if seconds < 0 { position.saturating_sub(by) } else { position + by };
        if to < position {
            let minute = INTERVAL * SAMPLES.try_into().unwrap_or(u32::MAX);
            player.seek(to.saturating_sub(minute))?;
            (self.history, self.sampled) = (History::default(), None);
        }
        self.play(to)
    }

    fn now(&self) -> Instant {
        match &self.kind {
            Kind::Live { .. } => Instant::now(),
            Kind::Recorded { player, .. } => player.now(),
        }
    }

    /// What is shown of the agents' state.
    pub(crate) fn scope(&self) -> &Scope {
        match &self.kind {
            Kind::Live { view, .. } => &view.scope,
            Kind::Recorded { player, .. } => &player.view().scope,
        }
    }

    pub(crate) fn fleet(&self) -> Fleet {
        match &self.kind {
            Kind::Live { view, .. } => Fleet::new(view, &self.history, self.now()),
            Kind::Recorded { player, is_paused } => {
                let mut fleet = Fleet::new(player.view(), &self.history, self.now());
                fleet.replay = Some(position(player, *is_paused));
                fleet
            }
        }
    }
}

fn position(player: &Player, is_paused: bool) -> String {
    let seconds = |duration: Duration| format!("{:.0}s", duration.as_secs_f64());
    let is_over = player.position() >= player.length();
    let state = match (is_over, player.is_cut_off(), is_paused) {
        (true, true, _) => "cut off here",
        (true, false, _) => "end",
        (_, _, true) => "paused",
        _ => "playing",
    };
    let (hour, minute, second) = (player.start() + player.position()).to_hms();
    let (position, length) = (seconds(player.position()), seconds(player.length()));
    format!("{state}  {hour:02}:{minute:02}:{second:02} UTC  {position} of {length}")
}
