//! Single requests with times and headers of their responses.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

const TIME_LIMIT: Duration = Duration::from_secs(30);

/// A client with a keep-alive connection.
#[derive(Clone, Debug)]
pub struct Probe {
    gateway: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A response and the times of request and response.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
    /// Before the request was sent.
    pub sent: Instant,
    /// After the response was received.
    pub at: Instant,
}

impl Probe {
    pub fn new(gateway: SocketAddr) -> Self {
        Self { gateway, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Sends a chat request with one token and an optional additional header.
    ///
    /// # Errors
    /// When the response is not complete within the time limit.
    pub async fn chat(&self, model: &str, header: Option<(&str, &str)>) -> Result<Response> {
        let body = serde_json::json!({
            "model": model, "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 1,
        });
        let mut request = Request::post(format!("http://{}/v1/chat/completions", self.gateway))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Full::from(body.to_string()))?;
        let sent = Instant::now();
        let exchange = async {
            let (head, body) = self.client.request(request).await?.into_parts();
            anyhow::Ok((head, body.collect().await?.to_bytes()))
        };
        let (head, body) = tokio::time::timeout(TIME_LIMIT, exchange).await.context("timeout")??;
        Ok(Response {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            sent,
            at: Instant::now(),
        })
    }

    /// Checks where a request for the model is sent.
    ///
    /// # Errors
    /// When the response is neither from a model server nor the gateway error for a model without a route.
    pub async fn reached(&self, model: &str) -> Result<Reached, String> {
        let response = self.chat(model, None).await.map_err(|error| format!("{model}: {error:#}"))?;
        let from_engine = response.status == 404 && response.body.contains("NotFoundError");
        let from_gateway = response.status == 404 && response.body.contains("model_not_found");
        match response.status {
            200 => Ok(Reached::Engine),
            _ if from_engine => Ok(Reached::Engine),
            _ if from_gateway => Ok(Reached::Nothing),
            status => Err(format!("{model}: {status} {}", response.body)),
        }
    }
}

/// See [`Probe::reached`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// A model server, even if it does not know the model.
    Engine,
    /// No route matches the model.
    Nothing,
}

/// Samples of a duration.
#[derive(Clone, Debug, Default)]
pub struct Durations(Vec<Duration>);

impl Durations {
    pub fn add(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// The quantile in per mille. Zero without samples.
    pub fn quantile(&self, per_mille: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * per_mille).div_ceil(1000).saturating_sub(1);
        sorted.get(at).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Durations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |per_mille| self.quantile(per_mille).as_secs_f64() * 1000.0;
        write!(f, "p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms of {}", ms(500), ms(990), ms(1000), self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_sample_values() {
        let mut durations = Durations::default();
        assert_eq!(durations.quantile(990), Duration::ZERO);
        (1..=200).rev().for_each(|ms| durations.add(Duration::from_millis(ms)));
        let quantile = |per_mille| durations.quantile(per_mille).as_millis();
        assert_eq!((quantile(500), quantile(990), quantile(1000)), (100, 198, 200));
    }
}
