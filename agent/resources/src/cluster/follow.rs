//! One watch: lists, then follows, for as long as it is wanted.

use std::{error::Error as _, fmt::Write as _, pin::pin, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use kube::{
    Api, Client,
    api::{ListParams, WatchEvent, WatchParams},
    core::{ApiResource, GroupVersionKind},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Selection,
    cache::{Cache, Contents, Received},
    outage::{Failure, Outage},
};
use crate::kind::Object;

/// Objects asked for at once, as kubectl does.
pub(super) const PAGE_SIZE: u32 = 500;
/// The API server ends a watch after this, and it is taken up where it was.
const WATCH_SECONDS: u32 = 240;
/// How much later than that a watch is given up from this side.
const WATCH_GRACE: Duration = Duration::from_secs(15);
/// A watch that did not hold this long has not worked, whatever the server said.
const HELD: Duration = Duration::from_secs(1);
/// The waits after failures: the first, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// How often a kind that is not installed is looked for.
const ABSENT_RETRY: Duration = Duration::from_secs(5);
/// A kind with objects is gone for good only after this: an API server that has
/// just started may not know all kinds yet.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// Why a watch ends before its time.
enum Broken {
    /// The history is too short to go on: it must be listed again.
    Expired,
    /// The API server does not know the kind.
    NotInstalled,
    Failed(Failure),
}

pub(super) struct Follow<T> {
    pub(super) client: Client,
    pub(super) selection: Selection,
    pub(super) cache: Arc<Cache<T>>,
    pub(super) outage: Arc<Outage>,
}

impl<T: Object> Follow<T> {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let resources = resources::<T>();
        let mut retry = Retry::default();
        let mut missing_since = None;
        let mut at = 0;
        loop {
            let api = self.api(&resources[at]);
            match self.list(&api).await {
                Ok(resource_version) => {
                    if missing_since.take().is_some() {
                        tracing::info!("{} is installed now", T::KIND.names().kind);
                    }
                    self.works();
                    let preferred = (at > 0).then(|| self.api(&resources[0]));
                    self.watch_all(&api, resource_version, &mut retry, preferred).await;
                    at = 0;
                }
                Err(Broken::NotInstalled) if at + 1 < resources.len() => at += 1,
                Err(Broken::NotInstalled) => {
                    at = 0;
                    self.works();
                    self.not_installed(&mut missing_since);
                    sleep(jittered(ABSENT_RETRY)).await;
                }
                Err(Broken::Expired) => sleep(retry.next()).await,
                Err(Broken::Failed(failure)) => {
                    self.outage.failed(&self.selection, failure);
                    sleep(retry.next()).await;
                }
            }
        }
    }

    fn api(&self, resource: &ApiResource) -> Api<Received<T>> {
        match &self.selection.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    fn works(&self) {
        self.outage.ended(&self.selection);
    }

    fn not_installed(&self, since: &mut Option<Instant>) {
        let kind = T::KIND.names().kind;
        if since.is_none() {
            tracing::info!("{kind} is not installed in the cluster; it is looked for every {ABSENT_RETRY:?}");
        }
        let is_new = since.get_or_insert_with(Instant::now).elapsed() < GONE_AFTER;
        if self.cache.is_empty() || !is_new {
            self.cache.listed(Contents::default());
        }
    }

    /// Takes over all that there is, and says from where on to follow.
    async fn list(&self, api: &Api<Received<T>>) -> Result<String, Broken> {
        let mut contents = Contents::default();
        let mut params = ListParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            limit: Some(PAGE_SIZE),
            ..ListParams::default()
        };
        loop {
            let page = api.list(&params).await.map_err(broken)?;
            for received in page.items {
                contents.put(received, self.cache.with_statuses());
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.cache.listed(contents);
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }

    /// Returns when it must be listed again, or when `preferred` is there.
    async fn watch_all(
        &self,
        api: &Api<Received<T>>,
        mut resource_version: String,
        retry: &mut Retry,
        preferred: Option<Api<Received<T>>>,
    ) {
        let mut preferred = pin!(async {
            let Some(preferred) = preferred else { return std::future::pending().await };
            loop {
                sleep(jittered(ABSENT_RETRY)).await;
                if preferred.list(&ListParams::default().limit(1)).await.is_ok() {
                    return;
                }
            }
        });
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                ended = self.watch(api, &mut resource_version) => ended,
                () = &mut preferred => return,
            };
            if began.elapsed() >= HELD {
                retry.reset();
            }
            match ended {
                Ok(()) if began.elapsed() >= HELD => {}
                Ok(()) => sleep(retry.next()).await,
                Err(Broken::Expired | Broken::NotInstalled) => return sleep(retry.next()).await,
                Err(Broken::Failed(failure)) => {
                    self.outage.failed(&self.selection, failure);
                    sleep(retry.next()).await;
                }
            }
        }
    }

    /// One watch, until the API server ends it.
    async fn watch(&self, api: &Api<Received<T>>, resource_version: &mut String) -> Result<(), Broken> {
        let params = WatchParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: false,
        };
        let mut events = pin!(api.watch(&params, resource_version).await.map_err(broken)?.into_stream());
        let longest = Duration::from_secs(WATCH_SECONDS.into()) + WATCH_GRACE;
        // A refusal comes as the first event, and at once.
        let mut works = false;
        loop {
            let event = match timeout(if works { longest } else { HELD }, events.next()).await {
                Ok(Some(event)) => event.map_err(broken)?,
                Ok(None) => return Ok(()),
                // Nothing at all within the whole time: the other side is not there.
                Err(_) if works => return Ok(()),
                Err(_) => {
                    works = true;
                    self.works();
                    continue;
                }
            };
            match &event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                    if let Some(version) = object.resource_version() {
                        version.clone_into(resource_version);
                    }
                }
                WatchEvent::Bookmark(bookmark) => {
                    bookmark.metadata.resource_version.clone_into(resource_version);
                }
                WatchEvent::Error(_) => {}
            }
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => self.cache.applied(object),
                WatchEvent::Deleted(object) => self.cache.deleted(&object),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => return Err(broken(kube::Error::Api(status))),
            }
            if !works {
                works = true;
                self.works();
            }
        }
    }
}

/// What the kind is called in requests, the preferred name first.
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

fn broken(error: kube::Error) -> Broken {
    match &error {
        kube::Error::Api(status) => match status.code {
            404 => Broken::NotInstalled,
            410 => Broken::Expired,
            // The same for everything that is asked for: nobody may ask, or nobody answers now.
            401 | 429 | 500.. => {
                Broken::Failed(Failure::Unreachable(format!("{} ({})", status.message, status.code)))
            }
            _ => Broken::Failed(Failure::Refused(status.message.clone())),
        },
        error => Broken::Failed(Failure::Unreachable(describe(error))),
    }
}

/// The error with its causes.
pub(super) fn describe(error: &kube::Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(reason, ": {cause}");
        source = cause.source();
    }
    reason
}

/// The waits of one watch.
struct Retry(Duration);

impl Default for Retry {
    fn default() -> Self {
        Self(FIRST_RETRY)
    }
}

impl Retry {
    fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST_RETRY);
        jittered(wait)
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Half of it to all of it: the watches of all nodes must not come back as one.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InferenceObjective, Pod};

    #[test]
    fn waits_grow_to_a_limit_and_begin_again() {
        let mut retry = Retry::default();
        let waits: Vec<Duration> = (0..20).map(|_| retry.next()).collect();
        assert!(waits[0] <= FIRST_RETRY && waits[19] <= LONGEST_RETRY, "{waits:?}");
        assert!(waits[19] >= LONGEST_RETRY / 2, "{waits:?}");
        retry.reset();
        assert!(retry.next() <= FIRST_RETRY);
    }

    #[test]
    fn a_kind_may_have_more_than_one_name() {
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
