//! One watch: a `kube::runtime::watcher` that fills a cache, over all API names of its kind.
//!
//! The watcher lists, watches, and resumes. Added here: a kind may have several API groups and versions, of which the
//! preferred one wins as soon as it is served; a kind may not be installed; failures of all watches together are
//! reported once ([`Outage`]).

use std::{convert::Infallible, error::Error as _, fmt::Write as _, pin::pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use kube::{
    Api, Client,
    api::ListParams,
    core::{ApiResource, GroupVersionKind},
    runtime::watcher::{self, Event, watcher},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    cache::{Cache, Contents, Received},
    outage::{Failure, Outage},
    selection::Selection,
};
use crate::kind::Object;

/// Objects per list request, as kubectl uses.
pub(super) const PAGE_SIZE: u32 = 500;
/// The API server ends a watch after this; it is resumed where it ended.
const WATCH_SECONDS: u32 = 240;
/// A watch without an error for this long works. Longer than connecting may take.
const WORKS_AFTER: Duration = Duration::from_secs(6);
/// Waits after failures: the first, and the longest.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Intervals between looks for a kind or API version that is not installed: the first, and the longest.
const MIN_ABSENT_INTERVAL: Duration = Duration::from_secs(5);
const MAX_ABSENT_INTERVAL: Duration = Duration::from_secs(60);
/// A kind that had objects is treated as removed only after this: an API server that has just started may not
/// serve all kinds yet.
const REMOVED_AFTER: Duration = Duration::from_secs(10);

/// Why a watch must be started again.
enum Stopped {
    /// The API server does not serve this API name.
    NotInstalled,
    /// The resource version is too old: list again.
    Expired,
    /// The preferred API name is served now.
    PreferredInstalled,
}

/// Why a request of a watch failed.
enum WatchFailure {
    NotInstalled,
    Expired,
    Failed(Failure),
}

pub(super) struct Watch<T> {
    pub(super) client: Client,
    pub(super) selection: Selection,
    pub(super) cache: Arc<Cache<T>>,
    pub(super) outage: Arc<Outage>,
}

impl<T: Object> Watch<T> {
    /// Runs until it is dropped.
    pub(super) async fn run(self) -> Infallible {
        let resources = resources::<T>();
        let mut backoff = Backoff::after_failures();
        let mut absent = Backoff::while_absent();
        let mut missing_since = None;
        let mut at = 0;
        loop {
            let preferred = (at > 0).then(|| self.api(&resources[0]));
            match self.follow(self.api(&resources[at]), preferred, &mut backoff, &mut missing_since).await {
                Stopped::NotInstalled if at + 1 < resources.len() => at += 1,
                Stopped::NotInstalled => {
                    at = 0;
                    self.outage.ended(&self.selection);
                    if missing_since.is_none() {
                        absent.reset();
                    }
                    self.not_installed(&mut missing_since);
                    sleep(absent.next()).await;
                }
                Stopped::Expired => {
                    at = 0;
                    sleep(backoff.next()).await;
                }
                Stopped::PreferredInstalled => at = 0,
            }
        }
    }

    fn api<K>(&self, resource: &ApiResource) -> Api<K>
    where
        K: kube::Resource<DynamicType = ApiResource, Scope = kube::core::DynamicResourceScope>,
    {
        match &self.selection.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// An optional selection that was never listed does not hold back the first snapshot.
    fn refused(&self) {
        if self.selection.is_optional && !self.cache.is_listed() {
            self.cache.listed(Contents::default());
        }
    }

    fn not_installed(&self, since: &mut Option<Instant>) {
        let kind = T::KIND.names().kind;
        if since.is_none() {
            tracing::info!(
                "{kind} is not installed in the cluster; looking for it every {MIN_ABSENT_INTERVAL:?}, later every \
                 {MAX_ABSENT_INTERVAL:?}"
            );
        }
        let is_new = since.get_or_insert_with(Instant::now).elapsed() < REMOVED_AFTER;
        if self.cache.is_empty() || !is_new {
            self.cache.listed(Contents::default());
        }
    }

    /// Keeps the cache up to date until the API name must change or be listed again.
    async fn follow(
        &self,
        api: Api<Received<T>>,
        preferred: Option<Api<Received<T>>>,
        backoff: &mut Backoff,
        missing_since: &mut Option<Instant>,
    ) -> Stopped {
        let mut preferred = pin!(installed(preferred));
        let mut events = pin!(watcher(api, self.config()));
        let mut list = Contents::default();
        let mut works = false;
        loop {
            let event = tokio::select! {
                event = self.next(&mut events, &mut works) => event,
                () = &mut preferred => return Stopped::PreferredInstalled,
            };
            match event.map_err(classify) {
                Ok(Event::Init) => list = Contents::default(),
                Ok(Event::InitApply(object)) => drop(list.put(object, self.cache.with_statuses())),
                Ok(Event::InitDone) => {
                    if missing_since.take().is_some() {
                        tracing::info!("{} is installed now", T::KIND.names().kind);
                    }
                    self.cache.listed(std::mem::take(&mut list));
                    self.works(&mut works, backoff);
                }
                Ok(Event::Apply(object)) => {
                    self.cache.applied(object);
                    self.works(&mut works, backoff);
                }
                Ok(Event::Delete(object)) => {
                    self.cache.deleted(&object);
                    self.works(&mut works, backoff);
                }
                Err(WatchFailure::NotInstalled) => return Stopped::NotInstalled,
                Err(WatchFailure::Expired) => return Stopped::Expired,
                Err(WatchFailure::Failed(failure)) => {
                    works = false;
                    if matches!(failure, Failure::Refused(_)) {
                        self.refused();
                    }
                    self.outage.failed(&self.selection, failure);
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// The next event. An idle watch works if it does not fail for [`WORKS_AFTER`].
    async fn next(
        &self,
        events: &mut (impl Stream<Item = watcher::Result<Event<Received<T>>>> + Unpin),
        works: &mut bool,
    ) -> watcher::Result<Event<Received<T>>> {
        loop {
            let next = events.next();
            let event = if *works { Ok(next.await) } else { timeout(WORKS_AFTER, next).await };
            match event {
                Ok(Some(event)) => return event,
                // A watcher does not end by itself.
                Ok(None) => return Err(watcher::Error::NoResourceVersion),
                Err(_idle) => {
                    *works = true;
                    self.outage.ended(&self.selection);
                }
            }
        }
    }

    fn works(&self, works: &mut bool, backoff: &mut Backoff) {
        if !std::mem::replace(works, true) {
            self.outage.ended(&self.selection);
        }
        backoff.reset();
    }

    fn config(&self) -> watcher::Config {
        watcher::Config {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            page_size: Some(PAGE_SIZE),
            ..watcher::Config::default()
        }
    }
}

/// Ends when the API name is served. Never without one.
async fn installed<T: Object>(api: Option<Api<Received<T>>>) {
    let Some(api) = api else { return std::future::pending().await };
    let mut absent = Backoff::while_absent();
    loop {
        sleep(absent.next()).await;
        if api.list(&ListParams::default().limit(1)).await.is_ok() {
            return;
        }
    }
}

/// API resources of the kind, the preferred name first.
pub(super) fn resources<T: Object>() -> Vec<ApiResource> {
    let names = T::KIND.names();
    let resource = |group: &str, version: &str| {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, names.kind), names.plural)
    };
    names
        .groups
        .iter()
        .flat_map(|group| names.versions.iter().map(move |version| (group, version)))
        .map(|(group, version)| resource(group, version))
        .collect()
}

fn classify(error: watcher::Error) -> WatchFailure {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        // The watcher lists again by itself after this one; without a resource version it cannot do anything else.
        WatchError(status) if status.code == 410 => WatchFailure::Expired,
        NoResourceVersion => WatchFailure::Expired,
        WatchError(status) => of_status(&status),
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => match &error {
            kube::Error::Api(status) => of_status(status),
            error => WatchFailure::Failed(Failure::Unreachable(describe(error))),
        },
    }
}

fn of_status(status: &kube::core::Status) -> WatchFailure {
    match status.code {
        404 => WatchFailure::NotInstalled,
        410 => WatchFailure::Expired,
        // These fail for every watch: the user is not known, or the API server does not serve now.
        401 | 429 | 500.. => {
            WatchFailure::Failed(Failure::Unreachable(format!("{} ({})", status.message, status.code)))
        }
        _ => WatchFailure::Failed(Failure::Refused(status.message.clone())),
    }
}

/// The error followed by its causes.
pub(super) fn describe(error: &kube::Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(reason, ": {cause}");
        source = cause.source();
    }
    reason
}

/// Growing waits of one watch.
struct Backoff {
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Backoff {
    fn after_failures() -> Self {
        Self { next: MIN_BACKOFF, min: MIN_BACKOFF, max: MAX_BACKOFF }
    }

    /// A cluster may never have the kind: hundreds of pickers must not ask for it every few seconds for ever.
    fn while_absent() -> Self {
        Self { next: MIN_ABSENT_INTERVAL, min: MIN_ABSENT_INTERVAL, max: MAX_ABSENT_INTERVAL }
    }

    fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        jittered(wait)
    }

    fn reset(&mut self) {
        self.next = self.min;
    }
}

/// 50 % to 100 % of `wait`: the watches of all nodes must not come back at the same time.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InferenceObjective, Pod};

    #[test]
    fn backoff_grows_to_limit_and_resets() {
        for mut backoff in [Backoff::after_failures(), Backoff::while_absent()] {
            let (min, max) = (backoff.min, backoff.max);
            let waits: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
            assert!(waits[0] <= min && waits[19] <= max, "{waits:?}");
            assert!(waits[19] >= max / 2, "{waits:?}");
            backoff.reset();
            assert!(backoff.next() <= min);
        }
    }

    #[test]
    fn lists_all_names_of_a_kind() {
        let names = |resources: Vec<ApiResource>| {
            resources.into_iter().map(|it| format!("{}/{}", it.api_version, it.plural)).collect::<Vec<_>>()
        };
        assert_eq!(names(resources::<Pod>()), ["v1/pods"]);
        assert_eq!(
            names(resources::<InferenceObjective>()),
            [
                "llm-d.ai/v1alpha2/inferenceobjectives",
                "inference.networking.x-k8s.io/v1alpha2/inferenceobjectives"
            ]
        );
    }
}
