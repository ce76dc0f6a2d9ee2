//! Hostname patterns.

use std::cmp::Reverse;
use std::fmt;

/// A hostname pattern of a listener or an HTTPRoute, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hostname {
    Exact(String),
    /// `*.example.com`, stored as `.example.com`: any host with at least one more label in front.
    Suffix(String),
    Any,
}

impl Hostname {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        match text.map(str::to_ascii_lowercase) {
            None => Self::Any,
            Some(text) if text.is_empty() => Self::Any,
            Some(text) => match text.strip_prefix('*') {
                Some(suffix) => Self::Suffix(suffix.to_owned()),
                None => Self::Exact(text),
            },
        }
    }

    /// Whether `host` (without a port) matches, ignoring case.
    pub(crate) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => name.eq_ignore_ascii_case(host),
            Self::Suffix(suffix) => {
                let Some(start) = host.len().checked_sub(suffix.len()) else { return false };
                start > 0 && host.as_bytes()[start..].eq_ignore_ascii_case(suffix.as_bytes())
            }
        }
    }

    /// The hosts that both match; `None` if there are none.
    pub(crate) fn intersect(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, it) | (it, Self::Any) => Some(it.clone()),
            (Self::Exact(name), pattern) | (pattern, Self::Exact(name)) => {
                pattern.matches(name).then(|| Self::Exact(name.clone()))
            }
            (Self::Suffix(a), Self::Suffix(b)) if a.ends_with(b.as_str()) => Some(self.clone()),
            (Self::Suffix(a), Self::Suffix(b)) if b.ends_with(a.as_str()) => Some(other.clone()),
            _ => None,
        }
    }

    /// Sort key, more specific first: exact names, then suffixes from long to short, then any.
    pub(crate) fn rank(&self) -> (u8, Reverse<usize>) {
        match self {
            Self::Exact(name) => (0, Reverse(name.len())),
            Self::Suffix(suffix) => (1, Reverse(suffix.len())),
            Self::Any => (2, Reverse(0)),
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        Hostname::parse(Some(text))
    }

    #[test]
    fn patterns_match_whole_labels_ignoring_case() {
        assert!(host("Example.com").matches("example.COM"));
        assert!(!host("example.com").matches("a.example.com"));
        assert!(host("*.example.com").matches("a.b.Example.com"));
        assert!(!host("*.example.com").matches("example.com"));
        assert!(!host("*.example.com").matches(".example.com"));
        assert!(!host("*.example.com").matches("notexample.com"));
        assert!(Hostname::parse(None).matches("anything"));
    }

    #[test]
    fn intersection_is_the_more_specific_pattern() {
        assert_eq!(host("*.example.com").intersect(&host("a.example.com")), Some(host("a.example.com")));
        assert_eq!(host("*.example.com").intersect(&host("*.b.example.com")), Some(host("*.b.example.com")));
        assert_eq!(host("*.example.com").intersect(&host("example.org")), None);
        assert_eq!(host("a.com").intersect(&host("b.com")), None);
        assert_eq!(Hostname::Any.intersect(&host("a.com")), Some(host("a.com")));
        assert!(host("a.com").rank() < host("*.long.example.com").rank());
        assert!(host("*.b.example.com").rank() < host("*.example.com").rank());
    }
}
