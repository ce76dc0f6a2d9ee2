//! Follows the pods of the node: publishes their endpoints and runs one scraper per endpoint.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    discover::{LocalPod, local_pods},
    engine::{ScrapeOptions, scrape},
    publish::Publisher,
};
use forebay_resources::Store;
use forebay_telemetry::v1::EndpointKey;

/// Runs until `shutdown`, or until the store is gone.
pub(super) async fn follow_members(
    store: Arc<Store>,
    node_name: String,
    options: ScrapeOptions,
    publisher: Arc<Publisher>,
    pods_sender: watch::Sender<Vec<LocalPod>>,
    shutdown: CancellationToken,
) {
    let mut changed = store.subscribe();
    let mut scrapers = Scrapers::new(options, publisher);
    loop {
        changed.mark_unchanged();
        let pods = local_pods(&store.snapshot(), &node_name);
        scrapers.reconcile(endpoints(&pods));
        pods_sender.send_if_modified(|before| {
            let differs = *before != pods;
            *before = pods;
            differs
        });
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = scrapers.tasks.join_next(), if !scrapers.tasks.is_empty() => {}
                result = changed.changed() => match result {
                    Ok(()) => break,
                    Err(_store_gone) => return,
                },
            }
        }
    }
}

/// The scrapers, by address and pod uid: a new pod at an old address is another engine with other models.
struct Scrapers {
    options: ScrapeOptions,
    publisher: Arc<Publisher>,
    tasks: JoinSet<()>,
    by_endpoint: HashMap<(SocketAddr, String), AbortHandle>,
}

impl Scrapers {
    fn new(options: ScrapeOptions, publisher: Arc<Publisher>) -> Self {
        Self { options, publisher, tasks: JoinSet::new(), by_endpoint: HashMap::new() }
    }

    /// Publishes the endpoints, stops scrapers of removed ones, and starts scrapers for new ones.
    #[tracing::instrument(level = "debug", skip_all, fields(endpoints = endpoints.len()))]
    fn reconcile(&mut self, endpoints: BTreeMap<SocketAddr, EndpointKey>) {
        self.by_endpoint.retain(|(address, uid), scraper| {
            let stays = endpoints.get(address).is_some_and(|key| key.uid == *uid);
            if !stays {
                scraper.abort();
            }
            stays
        });
        let keys: Vec<_> = endpoints.iter().map(|(address, key)| (*address, key.uid.clone())).collect();
        self.publisher.set_endpoints(endpoints);
        for (address, uid) in keys {
            self.by_endpoint.entry((address, uid.clone())).or_insert_with(|| {
                self.tasks.spawn(scrape(address, uid, Arc::clone(&self.publisher), self.options))
            });
        }
    }
}

/// The endpoints of pods: one per pod with an address and target port. Of several pods with one address the first is taken.
pub(super) fn endpoints(pods: &[LocalPod]) -> BTreeMap<SocketAddr, EndpointKey> {
    let mut endpoints = BTreeMap::new();
    for pod in pods {
        let Some(ip) = pod.ip else { continue };
        for &port in &pod.ports {
            let key = EndpointKey {
                namespace: pod.key.namespace.clone(),
                pod: pod.key.name.clone(),
                uid: pod.uid.clone(),
                ip: ip.to_string(),
                port: port.into(),
            };
            endpoints.entry(SocketAddr::new(ip, port)).or_insert(key);
        }
    }
    endpoints
}
