//! `forebay record`: the telemetry streams of the agents, into a file.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use forebay_telemetry::{
    client::Event,
    recording::{RecordingEntry, RecordingStart, Writer, recording_entry},
};
use tokio::time::MissedTickBehavior;

use super::amount;
use crate::{
    agents::{self, AgentStreams},
    format,
    forward::Access,
};

/// Everything that was received is in the file after this time, even if this program is killed.
const FLUSH: Duration = Duration::from_secs(1);

#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct Options {
    #[command(flatten)]
    agents: agents::Options,
    /// File to write. It must not exist.
    file: PathBuf,
    /// Stop after this time.
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = amount::duration)]
    duration: Duration,
    /// Stop before the file exceeds this size.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = amount::size)]
    max_size: u64,
}

pub(crate) async fn run(options: &Options, access: &Access) -> anyhow::Result<ExitCode> {
    let (streams, names) = agents::connect(&options.agents, access).await?;
    let out = create(&options.file)?;
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let start = RecordingStart {
        unix_ns: nanoseconds(unix),
        recorder_version: env!("CARGO_PKG_VERSION").into(),
        agents: names,
    };
    writeln!(
        io::stderr(),
        "forebay: recording {} for {}; Ctrl-C ends it earlier",
        format::plural(start.agents.len(), "agent"),
        format::short(options.duration)
    )?;
    let mut recorder =
        Recorder { started: Instant::now(), frames: 0, agents: vec![None; start.agents.len()] };
    let file = || format!("cannot write {}", options.file.display());
    let mut writer = Writer::new(BufWriter::new(out), &start, options.max_size).with_context(file)?;
    let reason = recorder.record(streams, &mut writer, options.duration).await.with_context(file)?;
    let took = recorder.started.elapsed();
    let bytes = writer.end(nanoseconds(took), reason).with_context(file)?;
    writeln!(
        io::stderr(),
        "forebay: {} frames, {bytes} bytes, {} in {}: {reason}",
        recorder.frames,
        format::short(took),
        options.file.display()
    )?;
    for (name, problem) in start.agents.iter().zip(&recorder.agents) {
        if let Some(problem) = problem {
            writeln!(io::stderr(), "forebay: agent {name}: {problem}")?;
        }
    }
    Ok(if recorder.frames == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn create(file: &Path) -> anyhow::Result<File> {
    match File::create_new(file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            anyhow::bail!("{} exists: remove it, or choose another name", file.display())
        }
        result => result.with_context(|| format!("cannot create {}", file.display())),
    }
}

struct Recorder {
    started: Instant,
    frames: u64,
    /// Why the last stream of each agent ended.
    agents: Vec<Option<String>>,
}

impl Recorder {
    /// Returns why it stopped.
    async fn record(
        &mut self,
        mut streams: AgentStreams,
        writer: &mut Writer<BufWriter<File>>,
        duration: Duration,
    ) -> io::Result<&'static str> {
        let mut flush = tokio::time::interval(FLUSH);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = tokio::time::sleep(duration);
        tokio::pin!(end);
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        loop {
            tokio::select! {
                Some((agent, event)) = streams.next() => {
                    if !writer.write(&self.entry(agent, event))? {
                        return Ok("--max-size was reached");
                    }
                }
                _ = flush.tick() => writer.flush()?,
                () = &mut end => return Ok("--for is over"),
                _ = tokio::signal::ctrl_c() => return Ok("interrupted"),
                _ = terminate.recv() => return Ok("terminated"),
            }
        }
    }

    fn entry(&mut self, agent: usize, event: Event) -> RecordingEntry {
        let (at, event) = match event {
            Event::Frame(received) => {
                self.frames += 1;
                self.agents[agent] = None;
                (received.at, recording_entry::Event::Frame(received.frame))
            }
            Event::Down { reason, .. } => {
                self.agents[agent] = Some(reason.to_string());
                (Instant::now(), recording_entry::Event::Down(reason.to_string()))
            }
        };
        let offset_ns = nanoseconds(at.saturating_duration_since(self.started));
        RecordingEntry { offset_ns, agent: agent.try_into().unwrap_or(u32::MAX), event: Some(event) }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}
