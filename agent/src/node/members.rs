//! Follows the resources: which pods are here, which endpoints they make, and one
//! scraper for each.

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
    publish::Board,
};
use forebay_resources::Store;
use forebay_telemetry::v1::EndpointKey;

pub(super) async fn follow(
    store: Arc<Store>,
    node_name: String,
    options: ScrapeOptions,
    board: Arc<Board>,
    pods_sender: watch::Sender<Vec<LocalPod>>,
    shutdown: CancellationToken,
) {
    let mut changed = store.subscribe();
    let mut scrapers = JoinSet::new();
    // A pod that takes over an address is another engine, with other models.
    let mut by_endpoint = HashMap::<(SocketAddr, String), AbortHandle>::new();
    loop {
        changed.mark_unchanged();
        let pods = local_pods(&store.snapshot(), &node_name);
        let endpoints = endpoints(&pods);
        by_endpoint.retain(|(address, uid), scraper| {
            let stays = endpoints.get(address).is_some_and(|key| key.uid == *uid);
            if !stays {
                scraper.abort();
            }
            stays
        });
        let here: Vec<_> = endpoints.iter().map(|(address, key)| (*address, key.uid.clone())).collect();
        board.set_endpoints(endpoints);
        for (address, uid) in here {
            by_endpoint
                .entry((address, uid.clone()))
                .or_insert_with(|| scrapers.spawn(scrape(address, uid, Arc::clone(&board), options)));
        }
        pods_sender.send_if_modified(|before| {
            let differs = *before != pods;
            *before = pods;
            differs
        });
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = scrapers.join_next(), if !scrapers.is_empty() => {}
                result = changed.changed() => match result {
                    Ok(()) => break,
                    Err(_store_gone) => return,
                },
            }
        }
    }
}

/// Every address that pods of this node serve on.
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
            endpoints.insert(SocketAddr::new(ip, port), key);
        }
    }
    endpoints
}
