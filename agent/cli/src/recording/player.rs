//! Plays a recording into a [`View`]. The file stays on disk: going back reads it again from the start.

use std::{
    fs::File,
    io::{BufReader, Seek as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use forebay_telemetry::{
    client::Received,
    recording::{Reader, RecordingEntry, recording_entry::Event},
};
use time::OffsetDateTime;

use super::amount::At;
use crate::view::View;

type Entries = Reader<BufReader<File>>;

/// A recording at one of its times.
#[derive(Debug)]
pub(crate) struct Player {
    path: PathBuf,
    entries: Entries,
    /// The first entry after the current time.
    next: Option<RecordingEntry>,
    view: View,
    /// What the start of the recording is on this machine's clock, for ages.
    base: Instant,
    position: Duration,
    length: Duration,
    is_cut_off: bool,
}

impl Player {
    /// Reads the file once, to know its length.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let mut entries = open(path)?;
        let mut last = None;
        while let Some(entry) = entries.next_entry().with_context(|| path.display().to_string())? {
            last = Some(entry.offset_ns);
        }
        let Some(last) = last else { bail!("{}: the recording has no entries", path.display()) };
        let is_cut_off = entries.is_cut_off();
        let mut player = Self {
            path: path.to_owned(),
            view: View::default(),
            next: None,
            base: Instant::now(),
            position: Duration::ZERO,
            length: Duration::from_nanos(last),
            is_cut_off,
            entries,
        };
        player.rewind()?;
        Ok(player)
    }

    fn rewind(&mut self) -> anyhow::Result<()> {
        self.entries = open(&self.path)?;
        let scope = std::mem::take(&mut self.view.scope);
        self.view = View::new(self.entries.start().agents.clone());
        self.view.scope = scope;
        self.position = Duration::ZERO;
        self.next = self.entries.next_entry()?;
        self.play(Duration::ZERO)
    }

    /// Goes to a time, forwards or back. Times after the end are the end.
    pub(crate) fn seek(&mut self, to: Duration) -> anyhow::Result<()> {
        if to < self.position {
            self.rewind()?;
        }
        self.play(to.min(self.length))
    }

    /// The time since the start that `at` is.
    pub(crate) fn offset(&self, at: At) -> anyhow::Result<Duration> {
        let start = self.start();
        let offset = match at {
            At::Offset(offset) => offset,
            At::Clock(time) => Duration::try_from(time - start)
                .map_err(|_| anyhow::anyhow!("--at {time} is before the start of the recording, {start}"))?,
        };
        if offset > self.length {
            bail!(
                "--at is after the end of the recording: it started at {start} and is {:.3} s long",
                self.length.as_secs_f64()
            );
        }
        Ok(offset)
    }

    fn play(&mut self, to: Duration) -> anyhow::Result<()> {
        while let Some(entry) = self.next.take_if(|entry| Duration::from_nanos(entry.offset_ns) <= to) {
            let at = self.instant(Duration::from_nanos(entry.offset_ns));
            let agent = entry.agent as usize;
            match entry.event {
                Some(Event::Frame(frame)) => self.view.take(agent, &Received { frame, at }),
                Some(Event::Down(reason)) => self.view.fail(agent, reason),
                Some(Event::End(_)) | None => {}
            }
            self.next = self.entries.next_entry()?;
        }
        self.position = to;
        let now = self.now();
        self.view.set_now(now);
        Ok(())
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn view_mut(&mut self) -> &mut View {
        &mut self.view
    }

    /// The current time on this machine's clock.
    pub(crate) fn now(&self) -> Instant {
        self.instant(self.position)
    }

    fn instant(&self, offset: Duration) -> Instant {
        self.base.checked_add(offset).unwrap_or(self.base)
    }

    pub(crate) fn position(&self) -> Duration {
        self.position
    }

    pub(crate) fn length(&self) -> Duration {
        self.length
    }

    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// When the recording started, on the clock of the recording machine.
    pub(crate) fn start(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(self.entries.start().unix_ns.into())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

fn open(path: &Path) -> anyhow::Result<Entries> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.rewind()
        .with_context(|| format!("cannot replay {}: it must be a file, not a pipe", path.display()))?;
    Reader::new(BufReader::new(file)).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use forebay_telemetry::{
        recording::{RecordingStart, Writer},
        v1::{Endpoint, EndpointKey, Frame, KernelLoad, Node, Snapshot, frame::Body},
    };

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// One pod with as many requests in flight as the offset in seconds, measured 100 ms before.
    fn entry(second: u64) -> RecordingEntry {
        let sent_boottime_ns = 100 * SECOND_NS;
        let kernel = KernelLoad {
            in_flight: second,
            measured_boottime_ns: sent_boottime_ns - SECOND_NS / 10,
            ..KernelLoad::default()
        };
        let key = EndpointKey { pod: "a".into(), ..EndpointKey::default() };
        let endpoint = Endpoint { key: Some(key), kernel: Some(kernel), ..Endpoint::default() };
        let snapshot =
            Snapshot { node: Some(Node::default()), endpoints: vec![endpoint], ..Snapshot::default() };
        let frame = Frame { sent_boottime_ns, body: Some(Body::Snapshot(snapshot)), ..Frame::default() };
        RecordingEntry { offset_ns: second * SECOND_NS, agent: 0, event: Some(Event::Frame(frame)) }
    }

    fn recorded(folder: &Path) -> PathBuf {
        let path = folder.join("file");
        let start =
            RecordingStart { unix_ns: 5 * SECOND_NS, agents: vec!["n".into()], ..RecordingStart::default() };
        let mut writer = Writer::new(File::create(&path).unwrap(), &start, 1 << 20).unwrap();
        for second in 1..=9 {
            writer.write(&entry(second)).unwrap();
        }
        let down = Event::Down("gone".into());
        writer.write(&RecordingEntry { event: Some(down), ..entry(10) }).unwrap();
        writer.end(12 * SECOND_NS, "test").unwrap();
        path
    }

    fn in_flight(player: &Player) -> Option<u64> {
        player.view().agents[0].in_flight()
    }

    #[test]
    fn seeks_forwards_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut player = Player::open(&recorded(folder.path())).unwrap();
        assert_eq!((player.length(), player.is_cut_off()), (Duration::from_secs(12), false));
        assert!(!player.view().agents[0].has_answered());
        for (second, expected, failed) in [(3, 3, false), (9, 9, false), (99, 9, true), (5, 5, false)] {
            player.seek(Duration::from_secs(second)).unwrap();
            assert_eq!((in_flight(&player), player.view().answered() == 0), (Some(expected), failed));
        }
        player.seek(Duration::from_millis(5_500)).unwrap();
        let (agent, endpoint) = player.view().pods().next().unwrap();
        assert_eq!(agent.kernel_age(endpoint), Some(Duration::from_millis(600)), "ages are of the recording");
    }

    #[test]
    fn times_are_checked_against_the_recording() {
        let folder = tempfile::tempdir().unwrap();
        let player = Player::open(&recorded(folder.path())).unwrap();
        let offset = |text: &str| player.offset(text.parse().unwrap());
        assert_eq!(offset("1970-01-01T00:00:07Z").unwrap(), Duration::from_secs(2));
        assert_eq!(offset("12s").unwrap(), Duration::from_secs(12));
        assert!(offset("13s").unwrap_err().to_string().contains("12.000 s long"));
        assert!(offset("1970-01-01T00:00:01Z").unwrap_err().to_string().contains("before the start"));
    }

    #[test]
    fn a_file_that_was_cut_off_ends_at_the_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = recorded(folder.path());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let mut player = Player::open(&path).unwrap();
        let end = player.length();
        player.seek(end).unwrap();
        assert!(player.is_cut_off() && in_flight(&player) == Some(end.as_secs()));
        std::fs::write(&path, "kind: Pod\n").unwrap();
        let error = format!("{:#}", Player::open(&path).unwrap_err());
        assert!(error.contains("not a recording") && error.contains("file"), "{error}");
    }
}
