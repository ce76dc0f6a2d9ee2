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
/// A connection that is dead without a FIN or RST is detected after 15 + 3 × 5 s of silence.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// Environment variable that Kubernetes sets in pods.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// Why no client can be made. Not retryable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the kubeconfig {place}: {source}")]
    /// A kubeconfig that cannot be read or used.
    Kubeconfig {
        /// The file.
        place: String,
        /// The cause.
        source: KubeconfigError,
    },
    #[error("cannot read the service account of this pod: {0}")]
    /// The pod has no usable service account.
    InCluster(InClusterError),
    #[error("cannot create a client for the API server: {0}")]
    /// TLS or URL of the configuration cannot be used.
    Client(kube::Error),
}

/// A client for the cluster that [`config`] finds. Sends nothing yet.
///
/// # Errors
/// If no configuration is found, or it cannot be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, Error> {
    client(&config(kubeconfig, None).await?).map_err(Error::Client)
}

/// Configuration of the cluster: from `kubeconfig`, else the first of `KUBECONFIG`, the pod's service account and
/// `~/.kube/config` that exists. `context` names one of the kubeconfig.
///
/// # Errors
/// If no configuration is found, or it cannot be used.
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

/// kube's HTTP stack without retries (watches have their own) and request logs, with TCP keepalive.
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
