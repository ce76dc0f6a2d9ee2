//! Follows the requests of all agents until a limit is reached.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use forebay_telemetry::{client::Error, requests::ReceivedRequests};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::MissedTickBehavior,
};

use super::{
    agent::Agent,
    follow::{Event, RequestStreams},
    pod::{self, WantedPod},
    print::print,
    render::{Row, Table, document},
};
use crate::{
    DEGRADED,
    format::plural,
    later::{Change, Later},
    output::Output,
    scope::Scope,
};

/// Interval of the lines about lost requests.
const REPORT: Duration = Duration::from_secs(1);

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) requests: Option<u64>,
    pub(super) duration: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Session {
    agents: Vec<Agent>,
    scope: Scope,
    output: Output,
    table: Table,
    rate: u32,
    /// That of --pod.
    pod: Option<WantedPod>,
    shown: u64,
    /// All agents have responded or failed once.
    has_begun: bool,
}

impl Session {
    pub(super) fn new(
        names: Vec<String>,
        scope: Scope,
        output: Output,
        rate: u32,
        pod: Option<WantedPod>,
    ) -> Self {
        let agents = names.into_iter().map(Agent::new).collect();
        Self { agents, scope, output, table: Table::for_stdout(), rate, pod, shown: 0, has_begun: false }
    }

    pub(super) async fn run(
        mut self,
        mut streams: RequestStreams,
        mut later: Later,
        limits: Limits,
    ) -> anyhow::Result<ExitCode> {
        if self.output == Output::Table {
            print(self.table.header()).await?;
        }
        let mut report = tokio::time::interval(REPORT);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = async {
            match limits.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        let mut terminate = signal(SignalKind::terminate())?;
        while limits.requests.is_none_or(|limit| self.shown < limit) {
            tokio::select! {
                (agent, event) = streams.next() => {
                    let left = limits.requests.map_or(u64::MAX, |limit| limit - self.shown);
                    let text = self.take(agent, event, left)?;
                    print(text).await?;
                    if self.agents[agent].is_other_node {
                        streams.stop(agent);
                    }
                    if !self.has_begun && self.begin()? {
                        return Ok(ExitCode::FAILURE);
                    }
                }
                change = later.next() => self.change(change?, &mut streams)?,
                () = pod::news(&mut self.pod) => self.tell_of_pod()?,
                _ = report.tick() => {
                    self.scope.refresh();
                    print(self.report()?).await?;
                }
                () = &mut end => break,
                _ = tokio::signal::ctrl_c() => break,
                _ = terminate.recv() => break,
            }
        }
        print(self.report()?).await?;
        Ok(self.exit_code())
    }

    /// Takes an event. Returns the lines of at most `left` requests.
    fn take(&mut self, agent: usize, event: Event, left: u64) -> io::Result<String> {
        match event {
            Event::Frame(received) => Ok(self.take_frame(agent, &received, left)),
            Event::Down(error) => self.fail(agent, &error).map(|()| String::new()),
        }
    }

    fn take_frame(&mut self, agent: usize, received: &ReceivedRequests, left: u64) -> String {
        let agent = &mut self.agents[agent];
        if agent.take(received, &self.scope) {
            let _ = match &agent.problem {
                Some(problem) => writeln!(io::stderr(), "forebay: agent {}: {problem}", agent.name),
                None if self.has_begun && !agent.is_other_node => {
                    writeln!(io::stderr(), "forebay: following the requests of agent {}", agent.name)
                }
                None => Ok(()),
            };
        }
        if agent.is_other_node {
            return String::new();
        }
        let node = agent.node.as_deref().unwrap_or_default();
        let now = SystemTime::now();
        let mut text = String::new();
        let in_scope = received
            .frame
            .requests
            .iter()
            .filter(|request| request.key.as_ref().is_some_and(|key| self.scope.has_pod(node, key)));
        for request in in_scope.take(usize::try_from(left).unwrap_or(usize::MAX)) {
            let row = Row::new(node, received, request, now);
            text.push_str(&match self.output {
                Output::Table => self.table.row(&row),
                Output::Json => document(&row),
            });
            self.shown += 1;
        }
        text
    }

    /// An agent has appeared or is gone.
    fn change(&mut self, change: Change, streams: &mut RequestStreams) -> io::Result<()> {
        match change {
            Change::Appeared(target) => {
                streams.add(&target);
                if let Some(pod) = &mut self.pod {
                    pod.add_agent(&target);
                }
                writeln!(io::stderr(), "forebay: new agent {}", target.name)?;
                self.agents.push(Agent::new(target.name));
            }
            Change::Gone(name) => {
                let agents = self.agents.iter_mut().enumerate();
                for (at, agent) in agents.filter(|(_, agent)| agent.name == name && !agent.is_gone) {
                    agent.is_gone = true;
                    streams.stop(at);
                    if let Some(pod) = &mut self.pod {
                        pod.remove_agent(at);
                    }
                    writeln!(io::stderr(), "forebay: agent {name} is gone")?;
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// If no agent knows the pod of --pod, and none of them knew it before.
    fn tell_of_pod(&mut self) -> anyhow::Result<()> {
        if let Some(news) = self.pod.as_mut().map(WantedPod::judge).transpose()?.flatten() {
            writeln!(io::stderr(), "forebay: {news}")?;
        }
        Ok(())
    }

    fn fail(&mut self, agent: usize, error: &Error) -> io::Result<()> {
        let agent = &mut self.agents[agent];
        let problem = error.to_string();
        if agent.problem.as_ref() != Some(&problem) {
            writeln!(io::stderr(), "forebay: agent {}: {problem}; retrying", agent.name)?;
        }
        agent.problem = Some(problem);
        Ok(())
    }

    /// Called until all agents have responded or failed. Returns whether there is nothing to follow.
    fn begin(&mut self) -> io::Result<bool> {
        if self.agents.iter().any(|agent| agent.node.is_none() && agent.problem.is_none()) {
            return Ok(false);
        }
        self.has_begun = true;
        let followed =
            self.agents.iter().filter(|agent| agent.node.is_some() && !agent.is_other_node).count();
        if followed != 0 {
            writeln!(io::stderr(), "forebay: following the requests of {}", plural(followed, "agent"))?;
        } else if self.agents.iter().any(|agent| agent.is_other_node) {
            writeln!(io::stderr(), "forebay: no agent that responded runs on the node of --node")?;
        }
        Ok(followed == 0)
    }

    /// Tells what was lost since the last call. Returns the lines for standard output.
    fn report(&mut self) -> io::Result<String> {
        let mut text = String::new();
        for agent in &mut self.agents {
            if agent.lost.is_nothing() {
                continue;
            }
            let lost = std::mem::take(&mut agent.lost);
            writeln!(io::stderr(), "forebay: agent {}: {}", agent.name, lost.sentence(self.rate))?;
            if self.output == Output::Json {
                text.push_str(&lost.document(agent.node.as_deref().unwrap_or_default()));
            }
        }
        Ok(text)
    }

    fn exit_code(&self) -> ExitCode {
        let agents = self.agents.iter().filter(|agent| !agent.is_gone);
        match agents.clone().filter(|agent| agent.node.is_some() && agent.problem.is_none()).count() {
            0 => ExitCode::FAILURE,
            some if some < agents.count() => ExitCode::from(DEGRADED),
            _ => ExitCode::SUCCESS,
        }
    }
}
