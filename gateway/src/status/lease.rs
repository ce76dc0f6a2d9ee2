//! Leader election with a `coordination.k8s.io` Lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::owner;

const NAME: &str = "forebay-gateway";
/// A Lease that was not renewed for this time is free.
const DURATION: Duration = Duration::from_secs(10);
const RENEW: Duration = Duration::from_secs(2);
/// A holder that could not renew for this time stops writing, before another replica can take the Lease.
const RENEW_DEADLINE: Duration = Duration::from_secs(6);
/// Interval at which other replicas check whether the Lease is free.
const CHECK: Duration = Duration::from_secs(1);
/// Maximum time for one request.
const REQUEST: Duration = Duration::from_secs(3);

pub(super) struct Candidate {
    client: Client,
    api: Api<Lease>,
    namespace: String,
    identity: String,
    /// The Deployment of this pod. The Lease is deleted with it.
    owner: Option<OwnerReference>,
    is_holder: watch::Sender<bool>,
    renewed: Instant,
    /// The version last seen and when it was first seen, by the clock of this replica.
    seen: Option<(String, Instant)>,
}

impl Candidate {
    pub(super) fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
            client,
            namespace: namespace.to_owned(),
            identity,
            owner: None,
            is_holder: watch::Sender::new(false),
            renewed: Instant::now(),
            seen: None,
        }
    }

    /// Whether this replica holds the Lease.
    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.is_holder.subscribe()
    }

    /// Competes for the Lease until `stop` is cancelled, then releases it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let owner =
            tokio::time::timeout(REQUEST, owner::deployment(&self.client, &self.namespace, &self.identity));
        if let Some(Ok(Ok(owner))) = stop.run_until_cancelled(owner).await {
            self.owner = owner;
        }
        loop {
            let attempt = tokio::time::timeout(REQUEST, self.acquire_or_renew());
            let Some(result) = stop.run_until_cancelled(attempt).await else { break };
            match result {
                Ok(Ok(())) => {}
                // Another replica has changed the Lease.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => self.set(false),
                Ok(Err(error)) => tracing::debug!(%error, "cannot read or renew the Lease"),
                Err(_) => tracing::debug!("timeout while reading or renewing the Lease"),
            }
            if self.renewed.elapsed() > RENEW_DEADLINE {
                self.set(false);
            }
            let pause = if *self.is_holder.borrow() { RENEW } else { CHECK };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
        if self.is_holder.send_replace(false) {
            let released = tokio::time::timeout(REQUEST, self.release()).await;
            if !matches!(released, Ok(Ok(()))) {
                tracing::debug!("cannot release the Lease; another replica takes it when it expires");
            }
        }
    }

    fn set(&mut self, holds: bool) {
        let changed =
            self.is_holder.send_if_modified(|is_holder| std::mem::replace(is_holder, holds) != holds);
        if changed && holds {
            tracing::info!(identity = self.identity, "acquired the Lease: this replica writes statuses");
        } else if changed {
            tracing::info!(identity = self.identity, "lost the Lease: this replica stops writing statuses");
        }
    }

    async fn acquire_or_renew(&mut self) -> kube::Result<()> {
        let started = Instant::now();
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let owner_references = self.owner.clone().map(|owner| vec![owner]);
            let metadata = ObjectMeta { name: Some(NAME.into()), owner_references, ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            self.api.create(&PostParams::default(), &lease).await?;
            self.renewed = started;
            self.set(true);
            return Ok(());
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder != self.identity
            && !holder.is_empty()
            && !self.is_expired(&lease)
            && !self.is_gone(holder).await?
        {
            self.set(false);
            return Ok(());
        }
        let spec = self.spec(lease.spec.as_ref());
        // Fails if another replica has changed the Lease since it was read (optimistic locking).
        let mut lease = Lease { spec: Some(spec), ..lease };
        if let Some(owner) = &self.owner {
            lease.metadata.owner_references = Some(vec![owner.clone()]);
        }
        self.api.replace(NAME, &PostParams::default(), &lease).await?;
        self.renewed = started;
        self.set(true);
        Ok(())
    }

    /// Whether the holder was a pod that does not exist any more: its token is no longer accepted, so it writes nothing. It
    /// could not give the Lease back if it was uninstalled with its permissions. Not known outside of a Deployment.
    async fn is_gone(&self, holder: &str) -> kube::Result<bool> {
        if self.owner.is_none() {
            return Ok(false);
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        Ok(pods.get_metadata_opt(holder).await?.is_none())
    }

    /// Whether the Lease was not renewed for its duration, by the clock of this replica.
    fn is_expired(&mut self, lease: &Lease) -> bool {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let duration = seconds.and_then(|it| u64::try_from(it).ok()).map_or(DURATION, Duration::from_secs);
        match &self.seen {
            Some((seen, since)) if *seen == version => since.elapsed() > duration,
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let before = before.cloned().unwrap_or_default();
        let is_renewal = before.holder_identity.as_deref() == Some(self.identity.as_str());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: if is_renewal { before.acquire_time } else { Some(now.clone()) },
            lease_transitions: Some(
                before.lease_transitions.unwrap_or(0).saturating_add(i32::from(!is_renewal)),
            ),
            renew_time: Some(now),
            ..before
        }
    }

    async fn release(&self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else { return Ok(()) };
        match &mut lease.spec {
            Some(spec) if spec.holder_identity.as_ref() == Some(&self.identity) => {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
            }
            _ => return Ok(()),
        }
        self.api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::SignedDuration;
    use kube::client::Body;

    use super::*;

    fn candidate() -> Candidate {
        let service = tower::service_fn(|_: http::Request<Body>| async {
            Err::<http::Response<Body>, _>(std::io::Error::from(std::io::ErrorKind::NotConnected))
        });
        Candidate::new(Client::new(service, "default"), "forebay-system", "this".into())
    }

    /// A Lease of another replica whose clock differs by `skew_seconds`.
    fn lease(version: &str, skew_seconds: i64) -> Lease {
        let renewed = Timestamp::now() + SignedDuration::from_secs(skew_seconds);
        let spec = LeaseSpec {
            holder_identity: Some("other".into()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            renew_time: Some(MicroTime(renewed)),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(spec) }
    }

    #[tokio::test(start_paused = true)]
    async fn expires_by_own_clock_whatever_the_holders_clock_says() {
        for skew in [-86_400, 0, 86_400] {
            let mut candidate = candidate();
            assert!(!candidate.is_expired(&lease("1", skew)), "skew {skew}: first seen now");
            tokio::time::advance(DURATION).await;
            assert!(!candidate.is_expired(&lease("1", skew)), "skew {skew}: not longer than its duration");
            // A renewal starts the time again.
            assert!(!candidate.is_expired(&lease("2", skew)));
            tokio::time::advance(DURATION + Duration::from_millis(1)).await;
            assert!(candidate.is_expired(&lease("2", skew)), "skew {skew}");
        }
    }
}
