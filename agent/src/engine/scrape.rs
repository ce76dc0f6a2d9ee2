//! Scrapes one engine periodically.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use super::{
    client::EngineClient,
    metrics,
    models::{self, Models},
};
use crate::{
    kernel::boottime_ns,
    publish::{LoadReport, Publisher},
};
use forebay_telemetry::v1::EngineLoad;

/// Intervals of the scrapes.
#[derive(Clone, Copy, Debug)]
pub struct ScrapeOptions {
    /// Interval of scrapes, and the timeout of one. Below uvicorn's keep-alive timeout (5 s), so that the connection
    /// stays open.
    pub interval: Duration,
    /// Interval of requests for the served models.
    pub models_interval: Duration,
}

/// Scrapes the engine of the pod with this uid and publishes the result, until the future is dropped. One scrape at a
/// time: a slow engine is scraped less often.
pub async fn scrape(address: SocketAddr, uid: String, publisher: Arc<Publisher>, options: ScrapeOptions) {
    let mut client = EngineClient::new(address);
    let mut models = Models::default();
    let mut models_error = None;
    let mut models_due = Instant::now();
    let mut ticks = tokio::time::interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        if Instant::now() >= models_due {
            let reading = tokio::time::timeout(options.interval, read_models(&mut client)).await;
            let error = match reading {
                Ok(Ok(served)) => {
                    log_omitted(address, &models, &served);
                    models = served;
                    models_due = Instant::now() + options.models_interval;
                    None
                }
                Ok(Err(reason)) => Some(reason),
                Err(_elapsed) => Some(format!("/v1/models took longer than {:?}", options.interval)),
            };
            if let Some(reason) = &error
                && models_error.is_none()
            {
                let retry_in = options.interval;
                tracing::warn!(%address, %reason, ?retry_in, "cannot read the models of the engine; using the last known list");
            }
            models_error = error;
        }
        let report = match tokio::time::timeout(options.interval, read_load(&mut client)).await {
            Ok(Ok(load)) => LoadReport::Measured(EngineLoad {
                models: models.list.clone(),
                models_omitted: models.omitted,
                ..load
            }),
            Ok(Err(reason)) => LoadReport::Off(reason),
            Err(_elapsed) => LoadReport::Off(format!("/metrics took longer than {:?}", options.interval)),
        };
        match &report {
            LoadReport::Off(reason) if !failing => {
                tracing::warn!(%address, %reason, retry_in = ?options.interval, "cannot scrape the engine");
            }
            LoadReport::Measured(_) if failing => tracing::info!(%address, "scraping the engine works again"),
            _ => {}
        }
        failing = matches!(report, LoadReport::Off(_));
        publisher.set_engine(address, &uid, report);
    }
}

#[tracing::instrument(level = "debug", skip_all)]
async fn read_load(client: &mut EngineClient) -> Result<EngineLoad, String> {
    let measured_ns = boottime_ns();
    let body = client.get("/metrics").await.map_err(|error| error.to_string())?;
    metrics::parse(&String::from_utf8_lossy(&body), measured_ns).map_err(|error| error.to_string())
}

async fn read_models(client: &mut EngineClient) -> Result<Models, String> {
    let body = client.get("/v1/models").await.map_err(|error| error.to_string())?;
    models::parse(&body).map_err(|error| format!("/v1/models: {error}"))
}

fn log_omitted(address: SocketAddr, before: &Models, now: &Models) {
    if now.omitted > 0 && before.omitted == 0 {
        let (reported, omitted) = (now.list.len(), now.omitted);
        tracing::warn!(%address, reported, omitted, "the engine lists more models than are reported");
    }
}
