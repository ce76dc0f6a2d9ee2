//! Telemetry streams in a file: see `recording.proto` for the format.
//!
//! Messages are appended and never changed, so a file that was cut off is readable up to the cut. A reader keeps one
//! message in memory.

use std::io::{self, BufRead, Read as _, Write};

use prost::Message;

pub use crate::v1::{RecordingEntry, RecordingStart, recording_entry};

use crate::client::MAX_FRAME_BYTES;

/// Version of the format. Another version cannot be read.
pub const VERSION: u32 = 1;

/// Start of the first line.
const MAGIC: &str = "forebay recording ";
/// Longest first line.
const MAX_FIRST_LINE_BYTES: u64 = 64;
/// Longest message: a frame with its time and agent.
const MAX_MESSAGE_BYTES: u64 = MAX_FRAME_BYTES as u64 + 1024;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read at all.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The first line is another one.
    #[error("not a recording: the first line is not \"{MAGIC}{VERSION}\"; `forebay record FILE` makes one")]
    NotARecording,
    /// The file was written by another version.
    #[error(
        "recording of format version {found}, but this program reads version {VERSION}; use the forebay that recorded it"
    )]
    Version {
        /// The version in the file.
        found: String,
    },
    /// The file was cut off before its first message ended.
    #[error("the recording was cut off before its start was complete")]
    NoStart,
    /// A message is not valid.
    #[error("the recording is damaged at byte {at}: {reason}")]
    Damaged {
        /// Position of the message.
        at: u64,
        /// What is wrong.
        reason: String,
    },
}

/// Writes a recording of a bounded size.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    bytes: u64,
    max_bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the first line and the start.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn new(mut out: W, start: &RecordingStart, max_bytes: u64) -> io::Result<Self> {
        let mut head = format!("{MAGIC}{VERSION}\n").into_bytes();
        head.extend(start.encode_length_delimited_to_vec());
        out.write_all(&head)?;
        Ok(Self { out, bytes: head.len() as u64, max_bytes })
    }

    /// Appends an entry. Returns `false`, and writes nothing, if the file would exceed its maximum.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, entry: &RecordingEntry) -> io::Result<bool> {
        let message = entry.encode_length_delimited_to_vec();
        if self.bytes + message.len() as u64 > self.max_bytes {
            return Ok(false);
        }
        self.out.write_all(&message)?;
        self.bytes += message.len() as u64;
        Ok(true)
    }

    /// Appends the end. It may exceed the maximum by its own few bytes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn end(mut self, offset_ns: u64, reason: &str) -> io::Result<u64> {
        let end = recording_entry::Event::End(reason.to_owned());
        self.max_bytes = u64::MAX;
        self.write(&RecordingEntry { offset_ns, agent: 0, event: Some(end) })?;
        self.flush()?;
        Ok(self.bytes)
    }

    /// Gives everything to the operating system.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Reads a recording.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    start: RecordingStart,
    at: u64,
    is_over: bool,
    is_cut_off: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line and the start.
    ///
    /// # Errors
    /// If it is not a recording, or one of another version.
    pub fn new(mut input: R) -> Result<Self, Error> {
        let mut line = Vec::new();
        (&mut input).take(MAX_FIRST_LINE_BYTES).read_until(b'\n', &mut line)?;
        let version = line.strip_prefix(MAGIC.as_bytes()).and_then(|rest| rest.strip_suffix(b"\n"));
        let version = version.ok_or(Error::NotARecording)?;
        if version != VERSION.to_string().as_bytes() {
            return Err(Error::Version {
                found: String::from_utf8_lossy(version).escape_debug().to_string(),
            });
        }
        let at = line.len() as u64;
        let start = RecordingStart::default();
        let mut reader = Self { input, start, at, is_over: false, is_cut_off: false };
        reader.start = reader.message()?.ok_or(Error::NoStart)?;
        Ok(reader)
    }

    /// What was recorded, and when.
    pub fn start(&self) -> &RecordingStart {
        &self.start
    }

    /// Whether the file ended without saying so. Known after [`Self::next_entry`] has returned `None`.
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// The next entry. `None` at the end, or where the file was cut off.
    ///
    /// # Errors
    /// If the message is not valid, or of an agent that the recording does not have.
    pub fn next_entry(&mut self) -> Result<Option<RecordingEntry>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let at = self.at;
        let Some(entry) = self.message::<RecordingEntry>()? else {
            (self.is_over, self.is_cut_off) = (true, true);
            return Ok(None);
        };
        if matches!(entry.event, Some(recording_entry::Event::End(_))) {
            self.is_over = true;
        } else if entry.agent as usize >= self.start.agents.len() {
            return Err(Error::Damaged { at, reason: format!("there is no agent {}", entry.agent) });
        }
        Ok(Some(entry))
    }

    /// A message with its length before it. `None` if the input ends before it does.
    fn message<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        let at = self.at;
        let Some(length) = self.length()? else { return Ok(None) };
        let damaged = |reason: String| Error::Damaged { at, reason };
        if length > MAX_MESSAGE_BYTES {
            return Err(damaged(format!("a message of {length} bytes; the maximum is {MAX_MESSAGE_BYTES}")));
        }
        let mut bytes = Vec::new();
        (&mut self.input).take(length).read_to_end(&mut bytes)?;
        self.at += bytes.len() as u64;
        if (bytes.len() as u64) < length {
            return Ok(None);
        }
        M::decode(bytes.as_slice()).map(Some).map_err(|error| damaged(error.to_string()))
    }

    /// A varint. `None` if the input ends before it does.
    fn length(&mut self) -> Result<Option<u64>, Error> {
        let mut length = 0;
        for shift in (0..63).step_by(7) {
            let mut byte = [0];
            if self.input.read(&mut byte)? == 0 {
                return Ok(None);
            }
            self.at += 1;
            length |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(Some(length));
            }
        }
        Err(Error::Damaged { at: self.at, reason: "a length of more than 9 bytes".into() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::v1::{Frame, Heartbeat, frame::Body, recording_entry::Event};

    fn entry(offset_ns: u64) -> RecordingEntry {
        let body = Some(Body::Heartbeat(Heartbeat::default()));
        let frame = Frame { seq: offset_ns, body, ..Frame::default() };
        RecordingEntry { offset_ns, agent: 0, event: Some(Event::Frame(frame)) }
    }

    fn start() -> RecordingStart {
        RecordingStart { unix_ns: 1, recorder_version: "0".into(), agents: vec!["a".into()] }
    }

    fn recording() -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, &start(), 1 << 20).unwrap();
        assert!(writer.write(&entry(1)).unwrap() && writer.write(&entry(2)).unwrap());
        let bytes = writer.end(3, "test").unwrap();
        assert_eq!(bytes, file.len() as u64);
        file
    }

    fn read(file: &[u8]) -> Result<(Vec<u64>, bool), Error> {
        let mut reader = Reader::new(file)?;
        assert_eq!(reader.start(), &start());
        let mut offsets = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            offsets.push(entry.offset_ns);
        }
        Ok((offsets, reader.is_cut_off()))
    }

    #[test]
    fn a_file_is_readable_up_to_where_it_was_cut_off() {
        let file = recording();
        assert_eq!(read(&file).unwrap(), (vec![1, 2, 3], false));
        let mut complete = Vec::new();
        for length in 0..file.len() {
            match read(&file[..length]) {
                Ok((offsets, is_cut_off)) => {
                    assert!(is_cut_off, "{length}");
                    complete.push(offsets.len());
                }
                Err(Error::NotARecording | Error::NoStart) => assert!(complete.is_empty(), "{length}"),
                Err(error) => panic!("{length}: {error}"),
            }
        }
        assert!(complete.is_sorted() && complete.first() == Some(&0) && complete.last() == Some(&2));
    }

    #[test]
    fn other_files_and_versions_are_refused() {
        let text = |file: &[u8]| read(file).unwrap_err().to_string();
        assert!(text(b"apiVersion: v1\n").contains("not a recording"));
        assert!(text(&[0; 4096]).contains("not a recording"));
        assert!(text(b"forebay recording 27\n").contains("version 27, but this program reads version 1"));
        let mut damaged = recording();
        damaged.extend(recording());
        let at = damaged.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        damaged[at..].fill(0xff);
        assert!(text(&damaged).contains("damaged at byte"), "{}", text(&damaged));
    }

    #[test]
    fn an_entry_of_an_unknown_agent_is_damage() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, &start(), 1 << 20).unwrap();
        writer.write(&RecordingEntry { agent: 1, ..entry(1) }).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("there is no agent 1"));
    }

    #[test]
    fn a_recording_does_not_exceed_its_maximum() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, &start(), 200).unwrap();
        let written = (1..1000).take_while(|offset| writer.write(&entry(*offset)).unwrap()).count();
        assert!(written > 1 && writer.bytes() <= 200);
        writer.end(1000, "full").unwrap();
        assert_eq!(read(&file).unwrap().0.len(), written + 1);
    }
}
