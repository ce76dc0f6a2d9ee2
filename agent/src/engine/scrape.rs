//! One engine, read again and again.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use super::{client::EngineClient, metrics, models};
use crate::{
    kernel::boottime_ns,
    publish::{Board, Reading},
};
use forebay_telemetry::v1::{EngineLoad, Model};

/// How often an engine is asked.
#[derive(Clone, Copy, Debug)]
pub struct ScrapeOptions {
    /// Between two scrapes, and the time that one may take. Below uvicorn's 5 s, so
    /// that the connection stays open.
    pub interval: Duration,
    /// Between two looks at the models served.
    pub models_interval: Duration,
}

/// Reads one engine, of the pod with this uid, until it is dropped, and keeps the board up to date. One scrape
/// at a time: a slow engine is asked less often, not more.
pub async fn scrape(address: SocketAddr, uid: String, board: Arc<Board>, options: ScrapeOptions) {
    let mut client = EngineClient::new(address);
    let mut models = Vec::new();
    let mut models_due = Instant::now();
    let mut ticks = tokio::time::interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        if Instant::now() >= models_due
            && let Ok(Ok(served)) = tokio::time::timeout(options.interval, read_models(&mut client)).await
        {
            models = served;
            models_due = Instant::now() + options.models_interval;
        }
        let reading = match tokio::time::timeout(options.interval, read_load(&mut client)).await {
            Ok(Ok(load)) => Reading::On(EngineLoad { models: models.clone(), ..load }),
            Ok(Err(reason)) => Reading::Off(reason),
            Err(_elapsed) => Reading::Off(format!("/metrics took longer than {:?}", options.interval)),
        };
        match &reading {
            Reading::Off(reason) if !failing => tracing::warn!(%address, %reason, "cannot read the engine"),
            Reading::On(_) if failing => tracing::info!(%address, "the engine can be read again"),
            _ => {}
        }
        failing = matches!(reading, Reading::Off(_));
        board.set_engine(address, &uid, reading);
    }
}

async fn read_load(client: &mut EngineClient) -> Result<EngineLoad, String> {
    let measured_ns = boottime_ns();
    let body = client.get("/metrics").await.map_err(|error| error.to_string())?;
    metrics::parse(&String::from_utf8_lossy(&body), measured_ns).map_err(|error| error.to_string())
}

async fn read_models(client: &mut EngineClient) -> Result<Vec<Model>, String> {
    let body = client.get("/v1/models").await.map_err(|error| error.to_string())?;
    models::parse(&body).map_err(|error| format!("/v1/models: {error}"))
}
