//! Severity.

/// In the order of severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Ok,
    #[default]
    Unknown,
    Suspect,
    Failed,
}
