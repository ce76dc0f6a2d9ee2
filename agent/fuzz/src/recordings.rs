//! Recordings: a file is an error, or entries that are written again as they were.

use forebay_telemetry::recording::{Reader, RecordingEntry, RecordingStart, Writer};

type Recording = (RecordingStart, Vec<RecordingEntry>);

/// Writes what was read, and reads it again. Half of a file has fewer entries, never others.
pub fn recordings(data: &[u8]) {
    let Some(recording) = read(data) else { return };
    // Files are compared, not entries: NaN differs from itself.
    let file = write(&recording);
    let again = read(&file).expect("what was written can be read");
    assert_eq!(write(&again), file);
    if let Some(half) = read(&file[..file.len() / 2]) {
        assert!(file.starts_with(&write(&half)));
    }
}

fn write((start, entries): &Recording) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, start, u64::MAX).unwrap();
    for entry in entries {
        assert!(writer.write(entry).unwrap(), "there is no maximum");
    }
    file
}

/// The entries before the end, the cut or the damage. `None` if it has no valid start.
fn read(data: &[u8]) -> Option<Recording> {
    let mut reader = Reader::new(data).ok()?;
    let mut entries = Vec::new();
    while let Ok(Some(entry)) = reader.next_entry() {
        entries.push(entry);
    }
    Some((reader.start().clone(), entries))
}
