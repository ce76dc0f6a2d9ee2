//! Finds the first entry that matches a request without trying all of them: by hostname, by the
//! header that tells most routes apart (the model's), by path.

use foldhash::HashMap;
use http::{HeaderName, HeaderValue, request};
use std::borrow::Cow;

use super::hostname::Hostname;
use super::matching::{ModelHeaders, Path};
use super::table::Entry;

/// Places in the list of entries, rising.
type Places = Vec<u32>;

/// An index over entries that are sorted by precedence.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<String, OfHost>,
    /// The longer first, so the more specific.
    suffixes: Vec<(String, OfHost)>,
    any: Option<OfHost>,
}

#[derive(Debug, Default)]
struct OfHost {
    by_header: Vec<(HeaderName, HashMap<HeaderValue, Paths>)>,
    /// Entries without a header to find them by.
    others: Paths,
    /// Once more, all that match on the model's headers, by path only.
    of_models: Paths,
    /// All that do not.
    of_no_model: Vec<u32>,
}

#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Places>,
    prefixes: HashMap<String, Places>,
    longest_prefix_bytes: usize,
    regexes: Places,
}

impl Index {
    pub(super) fn new(entries: &[Entry]) -> Self {
        let mut index = Self::default();
        for (place, entry) in entries.iter().enumerate() {
            // No cluster has as many.
            let Ok(place) = u32::try_from(place) else { break };
            index.of_host_mut(&entry.hostname).add(place, entry);
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

    /// What is there for `host`, the most specific hostname first.
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

    /// The first entry that matches a request without the model's headers, and whether for some model another
    /// one would come before it.
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

    /// The first entry that matches on the model's headers and would match for some model.
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
    fn add(&mut self, place: u32, entry: &Entry) {
        let matching = &entry.matching;
        match matching.key_header() {
            None => self.others.add(place, &matching.path),
            Some((name, value)) => {
                let known = self.by_header.iter().position(|(known, _)| known == name);
                let at = known.unwrap_or_else(|| {
                    self.by_header.push((name.clone(), HashMap::default()));
                    self.by_header.len() - 1
                });
                self.by_header[at].1.entry(value.clone()).or_default().add(place, &matching.path);
            }
        }
        if matching.depends_on_model() {
            self.of_models.add(place, &matching.path);
        } else {
            self.of_no_model.push(place);
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
    fn add(&mut self, place: u32, path: &Path) {
        match path {
            Path::Exact(path) => self.exact.entry(path.clone()).or_default().push(place),
            Path::Regex(_) => self.regexes.push(place),
            Path::Prefix(prefix) => {
                self.longest_prefix_bytes = self.longest_prefix_bytes.max(prefix.len());
                self.prefixes.entry(prefix.clone()).or_default().push(place);
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
        let mut consider = |places: &Places, path_is_known: bool| {
            let better = places.iter().take_while(|place| best.is_none_or(|best| **place < best));
            let found = better.copied().find(|place| {
                let matching = &entries[*place as usize].matching;
                let path_matches =
                    path_is_known || matches!(&matching.path, Path::Regex(regex) if regex.is_match(path));
                path_matches && matching.matches_beside_path(head, models)
            });
            best = found.or(best);
        };
        if let Some(places) = self.exact.get(path) {
            consider(places, true);
        }
        // Element by element: `/v1` matches `/v1` and `/v1/models`, not `/v12`.
        let ends = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]).take_while(|end| *end <= self.longest_prefix_bytes) {
            if let Some(places) = self.prefixes.get(&path[..end]) {
                consider(places, true);
            }
        }
        consider(&self.regexes, false);
        best
    }
}
