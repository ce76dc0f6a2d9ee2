//! Finds the first entry that matches a request without trying all of them: by hostname, then by the header
//! that most routes differ in (the model), then by path.

use std::borrow::Cow;

use foldhash::HashMap;
use http::{HeaderName, HeaderValue, request};

use super::entry::Entry;
use super::hostname::Hostname;
use super::matching::{ModelHeaders, Path};

/// Positions in the list of entries, ascending.
type Positions = Vec<u32>;

/// An index over entries that are sorted by precedence.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<String, OfHost>,
    /// The longer, more specific suffix first.
    suffixes: Vec<(String, OfHost)>,
    any: Option<OfHost>,
}

#[derive(Debug, Default)]
struct OfHost {
    by_header: Vec<(HeaderName, HashMap<HeaderValue, Paths>)>,
    /// Entries without an exactly matched header.
    others: Paths,
    /// All entries that match on the model's headers, by path only.
    of_models: Paths,
    /// All other entries.
    of_no_model: Vec<u32>,
}

#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Positions>,
    prefixes: HashMap<String, Positions>,
    longest_prefix_bytes: usize,
    regexes: Positions,
}

impl Index {
    pub(super) fn new(entries: &[Entry]) -> Self {
        let mut index = Self::default();
        for (position, entry) in entries.iter().enumerate() {
            // More than 2^32 entries do not fit in memory.
            let Ok(position) = u32::try_from(position) else { break };
            index.of_host_mut(&entry.hostname).add(position, entry);
        }
        index.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        index
    }

    fn of_host_mut(&mut self, hostname: &Hostname) -> &mut OfHost {
        match hostname {
            Hostname::Any => self.any.get_or_insert_default(),
            Hostname::Exact(name) => self.exact.entry(name.clone()).or_default(),
            Hostname::Suffix(suffix) => {
                let known = self.suffixes.iter().position(|(known, _)| known == suffix);
                let at = known.unwrap_or_else(|| {
                    self.suffixes.push((suffix.clone(), OfHost::default()));
                    self.suffixes.len() - 1
                });
                &mut self.suffixes[at].1
            }
        }
    }

    /// Entries for `host`, the most specific hostname first.
    fn of_hosts(&self, host: &str) -> impl Iterator<Item = &OfHost> {
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        let exact = if self.exact.is_empty() { None } else { self.exact.get(&*host) };
        let suffixes = self
            .suffixes
            .iter()
            .filter(move |(suffix, _)| host.len() > suffix.len() && host.ends_with(suffix.as_str()))
            .map(|(_, of_host)| of_host);
        exact.into_iter().chain(suffixes).chain(self.any.as_ref())
    }

    /// The first entry that matches.
    pub(super) fn first<'a>(
        &self,
        entries: &'a [Entry],
        host: &str,
        head: &request::Parts,
    ) -> Option<&'a Entry> {
        self.of_hosts(host).find_map(|of_host| of_host.first(entries, head)).map(|at| &entries[at as usize])
    }

    /// The first entry that matches a request without the model's headers, and whether another entry would come
    /// first for some model.
    pub(super) fn before_body<'a>(
        &self,
        entries: &'a [Entry],
        host: &str,
        head: &request::Parts,
    ) -> (Option<&'a Entry>, bool) {
        let mut model_decides = false;
        for of_host in self.of_hosts(host) {
            let plain = of_host.first(entries, head);
            if !model_decides {
                let of_model = of_host.of_models.first(entries, head, ModelHeaders::Ignored);
                model_decides = of_model.is_some_and(|of_model| plain.is_none_or(|plain| of_model < plain));
            }
            if let Some(plain) = plain {
                return (Some(&entries[plain as usize]), model_decides);
            }
        }
        (None, model_decides)
    }

    /// The first entry that matches on the model's headers and applies for some model.
    pub(super) fn first_of_models<'a>(
        &self,
        entries: &'a [Entry],
        host: &str,
        head: &request::Parts,
    ) -> Option<&'a Entry> {
        self.of_hosts(host)
            .find_map(|of_host| of_host.of_models.first(entries, head, ModelHeaders::Ignored))
            .map(|at| &entries[at as usize])
    }

    /// All entries that may match requests to `host`.
    pub(super) fn of_host<'a>(&self, entries: &'a [Entry], host: &str) -> impl Iterator<Item = &'a Entry> {
        self.of_hosts(host)
            .flat_map(|of_host| of_host.of_models.all().chain(of_host.of_no_model.iter().copied()))
            .map(|at| &entries[at as usize])
    }
}

impl OfHost {
    fn add(&mut self, position: u32, entry: &Entry) {
        let matching = &entry.matching;
        match matching.key_header() {
            None => self.others.add(position, &matching.path),
            Some((name, value)) => {
                let known = self.by_header.iter().position(|(known, _)| known == name);
                let at = known.unwrap_or_else(|| {
                    self.by_header.push((name.clone(), HashMap::default()));
                    self.by_header.len() - 1
                });
                self.by_header[at].1.entry(value.clone()).or_default().add(position, &matching.path);
            }
        }
        if matching.depends_on_model() {
            self.of_models.add(position, &matching.path);
        } else {
            self.of_no_model.push(position);
        }
    }

    fn first(&self, entries: &[Entry], head: &request::Parts) -> Option<u32> {
        let by_header = self
            .by_header
            .iter()
            .filter_map(|(name, by_value)| by_value.get(head.headers.get(name)?))
            .filter_map(|paths| paths.first(entries, head, ModelHeaders::Compared));
        by_header.chain(self.others.first(entries, head, ModelHeaders::Compared)).min()
    }
}

impl Paths {
    fn add(&mut self, position: u32, path: &Path) {
        match path {
            Path::Exact(path) => self.exact.entry(path.clone()).or_default().push(position),
            Path::Regex(_) => self.regexes.push(position),
            Path::Prefix(prefix) => {
                self.longest_prefix_bytes = self.longest_prefix_bytes.max(prefix.len());
                self.prefixes.entry(prefix.clone()).or_default().push(position);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = u32> {
        let lists = self.exact.values().chain(self.prefixes.values()).chain([&self.regexes]);
        lists.flatten().copied()
    }

    fn first(&self, entries: &[Entry], head: &request::Parts, models: ModelHeaders) -> Option<u32> {
        let path = head.uri.path();
        let mut best: Option<u32> = None;
        let mut consider = |positions: &Positions, path_is_known: bool| {
            let better = positions.iter().take_while(|position| best.is_none_or(|best| **position < best));
            let found = better.copied().find(|position| {
                let matching = &entries[*position as usize].matching;
                let path_matches =
                    path_is_known || matches!(&matching.path, Path::Regex(regex) if regex.is_match(path));
                path_matches && matching.matches_except_path(head, models)
            });
            best = found.or(best);
        };
        if let Some(positions) = self.exact.get(path) {
            consider(positions, true);
        }
        // Prefixes match whole path elements: `/v1` matches `/v1` and `/v1/models`, not `/v12`.
        let ends = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]).take_while(|end| *end <= self.longest_prefix_bytes) {
            if let Some(positions) = self.prefixes.get(&path[..end]) {
                consider(positions, true);
            }
        }
        consider(&self.regexes, false);
        best
    }
}
