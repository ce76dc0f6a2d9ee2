use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Longest time for one input of a corpus.
const MAX_INPUT_TIME: Duration = Duration::from_secs(10);

/// Calls the target with every file of `folder`. The panic message of a fault follows the name of the file.
///
/// # Panics
/// If the target panics or is slow, or the folder cannot be read or has no file.
pub fn replay(folder: &Path, target: fn(&[u8])) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut count = 0;
    for entry in entries {
        let path =
            entry.and_then(|entry| entry.path().canonicalize()).unwrap_or_else(|error| panic!("{error}"));
        let data = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let begun = Instant::now();
        assert!(thread::spawn(move || target(&data)).join().is_ok(), "{} fails", path.display());
        assert!(begun.elapsed() < MAX_INPUT_TIME, "{} is slow", path.display());
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}
