//! The connection to the API server.

use std::{env, path::Path, time::Duration};

use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, ServiceBuilder};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An API server that is gone without a word is noticed after 15 + 3 × 5 s of silence.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// Where a pod is told where the API server is.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// Why there is no way to an API server. None of these goes away by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kubeconfig {place} cannot be used: {source}")]
    Kubeconfig { place: String, source: KubeconfigError },
    #[error("no service account token or certificate where a pod has them: {0}")]
    InCluster(InClusterError),
    #[error("no client for the API server can be made: {0}")]
    Client(kube::Error),
}

/// A client for what [`config`] finds. Nothing is sent yet.
///
/// # Errors
/// When what is found cannot be used, or nothing is found.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, Error> {
    client(&config(kubeconfig, None).await?).map_err(Error::Client)
}

/// The way to the cluster that `kubeconfig` names; without one, to that which
/// `KUBECONFIG` names, to the cluster that this is a pod of, or to that which
/// `~/.kube/config` names, the first of these that is there. A `context` is one of a
/// kubeconfig.
///
/// # Errors
/// When what is found cannot be used, or nothing is found.
pub async fn config(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Config, Error> {
    let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    match kubeconfig {
        Some(path) => {
            let wrong = |source| Error::Kubeconfig { place: path.display().to_string(), source };
            let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)
        }
        None if set(IN_CLUSTER) && !set("KUBECONFIG") && context.is_none() => {
            Config::incluster().map_err(Error::InCluster)
        }
        None => Config::from_kubeconfig(&options)
            .await
            .map_err(|source| Error::Kubeconfig { place: "of KUBECONFIG or ~/.kube/config".into(), source }),
    }
}

/// kube's own stack without its retries (the watches have theirs), without its
/// log, and with probes of silent connections.
fn client(config: &Config) -> kube::Result<Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE_TIME));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http = HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_response(|response: http::Response<hyper::body::Incoming>| {
            response.map(|body| body.map_err(BoxError::from))
        })
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}
