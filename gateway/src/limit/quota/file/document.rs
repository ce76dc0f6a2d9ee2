//! The content of the file: a line with the version and a checksum, and a JSON document.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use forebay_resources::ObjectKey;
use sha2::{Digest as _, Sha256};

use super::QuotaFileError;
use crate::limit::quota::stored::StoredQuota;

const MAGIC: &str = "forebay-quotas 1";
/// Of a file that is read. More than the counters of a process that would fit into its memory.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) quotas: BTreeMap<ObjectKey, StoredQuota>,
}

#[derive(Debug)]
pub(super) enum ReadError {
    Missing,
    Invalid(String),
}

/// Locks `PATH.lock`: the file itself is replaced.
pub(super) fn lock(path: &Path) -> Result<File, QuotaFileError> {
    let failed = |source| QuotaFileError::Open { path: path.to_owned(), source };
    let file = create(&beside(path, "lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(QuotaFileError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Values of `per` may be names of persons, so only the user of the process reads them.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// `PATH.suffix`
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Renames a file that cannot be used. `None` if that failed.
pub(super) fn set_aside(path: &Path) -> Option<PathBuf> {
    let aside = beside(path, "invalid");
    std::fs::rename(path, &aside).ok().map(|()| aside)
}

pub(super) fn read(path: &Path) -> Result<Document, ReadError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => ReadError::Missing,
        _ => ReadError::Invalid(error.to_string()),
    })?;
    let mut content = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(|error| ReadError::Invalid(error.to_string()))?;
    parse(&content).map_err(ReadError::Invalid)
}

fn parse(content: &[u8]) -> Result<Document, String> {
    if content.len() as u64 > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes"));
    }
    let end = content.iter().position(|byte| *byte == b'\n').ok_or("it has no header")?;
    let (header, rest) = content.split_at(end);
    let body = rest.get(1..).unwrap_or_default();
    let checksum = header.strip_prefix(MAGIC.as_bytes()).ok_or("it is of another program or version")?;
    if checksum.trim_ascii() != checksum_of(body).as_bytes() {
        return Err("its checksum is wrong".to_owned());
    }
    let quotas: Vec<(String, String, StoredQuota)> =
        serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let quotas = quotas.into_iter().map(|(namespace, name, quota)| (ObjectKey::new(namespace, name), quota));
    Ok(Document { quotas: quotas.collect() })
}

/// The file is replaced when the new content is on the disk.
pub(super) fn write(path: &Path, document: &Document) -> io::Result<()> {
    let quotas: Vec<(&str, &str, &StoredQuota)> =
        document.quotas.iter().map(|(key, quota)| (&*key.namespace, &*key.name, quota)).collect();
    let body = serde_json::to_vec(&quotas)?;
    let staged = beside(path, "new");
    let mut file = create(&staged)?;
    file.write_all(format!("{MAGIC} {}\n", checksum_of(&body)).as_bytes())?;
    file.write_all(&body)?;
    file.sync_all()?;
    std::fs::rename(&staged, path)?;
    // The new name is on the disk, too.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn checksum_of(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::quota::stored::{StoredCounter, StoredCounters};

    fn document() -> Document {
        let counters = vec![
            StoredCounters {
                value: None,
                counters: vec![StoredCounter { used: u128::MAX, window: (60, 120) }],
            },
            StoredCounters {
                value: Some("a\n\"b\u{1f600}".into()),
                counters: vec![StoredCounter { used: 7, window: (0, u64::MAX) }],
            },
        ];
        let quota = StoredQuota { latest: 61, limits: vec!["requests minute".into()], counters };
        Document { quotas: BTreeMap::from([(ObjectKey::new("ns", "q"), quota)]) }
    }

    #[test]
    fn what_is_written_is_read_by_its_user_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas");
        assert!(matches!(read(&path), Err(ReadError::Missing)));
        for _ in 0..2 {
            write(&path, &document()).unwrap();
            assert_eq!(read(&path).unwrap(), document());
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!beside(&path, "new").exists());
    }

    #[test]
    fn no_changed_byte_and_no_part_is_taken_for_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas");
        write(&path, &document()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert!(parse(&whole).is_ok());
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(parse(&changed).is_err(), "byte {at}");
            assert!(parse(&whole[..at]).is_err(), "{at} bytes");
        }
        assert!(parse(&[&whole[..], b" "].concat()).is_err());
        assert_eq!(parse(b"forebay-quotas 2 x\n[]").unwrap_err(), "it is of another program or version");
    }

    #[test]
    fn a_second_process_cannot_use_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quotas");
        let first = lock(&path).unwrap();
        let error = lock(&path).unwrap_err().to_string();
        assert!(error.contains("is in use by another process"), "{error}");
        drop(first);
        lock(&path).unwrap();
        let missing = lock(&folder.path().join("missing/quotas")).unwrap_err().to_string();
        assert!(missing.contains("cannot be opened"), "{missing}");
    }
}
