//! The way of one request through the steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use forebay_epp::protocol::{BASE_MODEL_NAME, MODEL_NAME};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header, request, uri};
use http_body::Body as _;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use crate::Error;
use crate::accept::{Handler, remove_hop_by_hop, sanitise};
use crate::answer::{AnswerBody, ModelLists, error, find_model, list_models};
use crate::extract::{ModelName, check_scannable};
use crate::forward::{Forwarded, Forwarder, PooledBody};
use crate::hold::{HeldBody, HoldBudget};
use crate::observe::{Metrics, Record};
use crate::pick::{Decision, Picker, Session};
use crate::route::{Backend, ListenerRoutes, Pool, RouteTable};

const MODEL_NAME_HEADER: HeaderName = HeaderName::from_static(MODEL_NAME);
const BASE_MODEL_NAME_HEADER: HeaderName = HeaderName::from_static(BASE_MODEL_NAME);
const MODELS_PATH: &str = "/v1/models";

/// What requests are answered with.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) table: ArcSwap<RouteTable>,
    pub(crate) budget: Arc<HoldBudget>,
    pub(crate) picker: Picker,
    pub(crate) forwarder: Forwarder,
    pub(crate) models: ModelLists,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) client_body_timeout: Duration,
    pub(crate) unknown_label: Arc<str>,
}

/// Who answers.
enum Answer {
    Pod { response: Response<PooledBody>, session: Option<Session>, deadline: Option<Instant> },
    Gateway(Response<Bytes>),
}

impl Handler for Proxy {
    async fn handle(self: Arc<Self>, port: u16, request: Request<Incoming>) -> Response<AnswerBody> {
        let (head, body) = request.into_parts();
        let mut record =
            Record::begin(self.metrics.clone(), head.method.clone(), &head.uri, &self.unknown_label);
        match self.answer(port, head, body, &mut record).await {
            Ok(Answer::Pod { response, session, deadline }) => {
                record.answering(response.status());
                response.map(|body| AnswerBody::upstream(body, session, record, deadline))
            }
            Ok(Answer::Gateway(response)) => {
                record.answering(response.status());
                record.whole();
                response.map(AnswerBody::whole)
            }
            Err(error) => {
                self.metrics.failed(&error);
                record.answering(error.status());
                record.whole();
                error::render(&error).map(AnswerBody::whole)
            }
        }
    }
}

impl Proxy {
    async fn answer(
        &self,
        port: u16,
        mut head: request::Parts,
        body: Incoming,
        record: &mut Record,
    ) -> Result<Answer, Error> {
        let arrived = Instant::now();
        sanitise(&mut head.headers)?;
        let authority = take_authority(&mut head)?;
        let host = without_port(&authority);
        let table = self.table.load_full();
        let routes = table.ports.get(&port).and_then(|port| port.listener(host)).ok_or(Error::NoRoute)?;
        if head.method == Method::GET
            && let Some(id) = models_path(head.uri.path())
        {
            return self.list(routes, host, id).await;
        }
        let has_model =
            !body.is_end_stream() || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        if has_model {
            check_scannable(&head.headers)?;
        }
        let mut body = HeldBody::new(body, self.budget.open(), has_model)?;
        let model =
            if has_model { Some(self.extract(&mut head, &mut body, routes, record).await?) } else { None };
        let (pool, timeouts) = match routes.route(host, &head) {
            Some((Backend::Pool(pool), timeouts)) => (pool, timeouts),
            Some((Backend::Unresolved(why), _)) => return Err(Error::Backend(why)),
            Some((Backend::Unsupported(why), _)) => return Err(Error::BackendKind(why)),
            None => return Err(model.map_or(Error::NoRoute, Error::UnknownModel)),
        };
        record.routed(self.label(routes, &head), &pool.label);

        let reached = self.reach(&pool, &mut head, &authority, &mut body, timeouts.backend_request, record);
        let (forwarded, mut session) = match timeouts.request {
            None => reached.await?,
            Some(limit) => tokio::time::timeout_at((arrived + limit).into(), reached)
                .await
                .map_err(|_| Error::RequestTimeout { limit })??,
        };
        let deadlines = [
            timeouts.request.map(|limit| arrived + limit),
            timeouts.backend_request.map(|limit| forwarded.sent + limit),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        let (mut parts, upstream) = forwarded.response.into_parts();
        remove_hop_by_hop(&mut parts.headers);
        if let Some(session) = &mut session {
            session.answered(&parts, forwarded.endpoint, upstream.is_end_stream());
        }
        Ok(Answer::Pod { response: Response::from_parts(parts, upstream), session, deadline })
    }

    /// Has a pod chosen and sends it the request, until its response begins.
    async fn reach(
        &self,
        pool: &Pool,
        head: &mut request::Parts,
        authority: &str,
        body: &mut HeldBody,
        limit: Option<Duration>,
        record: &mut Record,
    ) -> Result<(Forwarded, Option<Session>), Error> {
        let asked = Instant::now();
        let picked = self.picker.pick(pool, head, authority, body).await;
        record.picked(asked.elapsed());
        let Decision { endpoints, session } = picked?;
        record.sending();
        Ok((self.forwarder.send(head, body, &endpoints, limit).await?, session))
    }

    /// Reads the body until the model is known, and puts it and its base into the headers.
    async fn extract(
        &self,
        head: &mut request::Parts,
        body: &mut HeldBody,
        routes: &ListenerRoutes,
        record: &mut Record,
    ) -> Result<ModelName, Error> {
        let began = Instant::now();
        let model = body.read_model(self.client_body_timeout).await?;
        record.waited(began.elapsed());
        if let Some(name) = model.to_header_value() {
            head.headers.insert(MODEL_NAME_HEADER, name);
        }
        if let Some(base) = routes.models().base(&model) {
            head.headers.insert(BASE_MODEL_NAME_HEADER, base);
        }
        Ok(model)
    }

    /// The model as the resources name it; what only clients say is no label.
    fn label<'a>(&'a self, routes: &'a ListenerRoutes, head: &request::Parts) -> &'a Arc<str> {
        [MODEL_NAME_HEADER, BASE_MODEL_NAME_HEADER]
            .iter()
            .filter_map(|name| head.headers.get(name)?.to_str().ok())
            .find_map(|model| routes.label(model))
            .unwrap_or(&self.unknown_label)
    }

    async fn list(&self, routes: &ListenerRoutes, host: &str, id: &str) -> Result<Answer, Error> {
        let models = self.models.of(&routes.pools(host)).await;
        if id.is_empty() {
            return Ok(Answer::Gateway(json(list_models(&models))));
        }
        let id = percent_decode_str(id).decode_utf8_lossy();
        match find_model(&models, &id) {
            Some(model) => Ok(Answer::Gateway(json(model))),
            None => Err(Error::UnknownModelInPath(id.into_owned())),
        }
    }
}

fn json(body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The part after `/v1/models/`, empty for the list itself; nothing for other paths.
fn models_path(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(MODELS_PATH)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// The host (and port) that the request is for, which HTTP/2 and absolute URIs have in the URI.
/// Afterwards it stands in the Host header, and the URI is as a server wants it.
fn take_authority(head: &mut request::Parts) -> Result<String, Error> {
    let authority = match head.uri.authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => {
            let hosts = head.headers.get_all(header::HOST);
            let mut hosts = hosts.iter();
            match (hosts.next(), hosts.next()) {
                (Some(host), None) => host.to_str().map_err(|_| Error::NoHost)?.to_owned(),
                (None, _) if head.version == http::Version::HTTP_10 => String::new(),
                _ => return Err(Error::NoHost),
            }
        }
    };
    if head.uri.authority().is_some() {
        // User information has no business in a Host header.
        let host = authority.rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
        head.headers.insert(header::HOST, HeaderValue::from_str(host).map_err(|_| Error::NoHost)?);
        let mut parts = uri::Parts::default();
        parts.path_and_query = head.uri.path_and_query().cloned();
        head.uri = Uri::from_parts(parts).unwrap_or_default();
    }
    Ok(authority)
}

fn without_port(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(request: request::Builder) -> (Option<String>, request::Parts) {
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        (take_authority(&mut head).ok(), head)
    }

    #[test]
    fn the_host_is_one_and_ends_in_the_host_header() {
        let (host, head) = authority(Request::get("http://user@a.example:80/v1?x").header("host", "b"));
        assert_eq!(host.as_deref(), Some("user@a.example:80"));
        assert_eq!(
            (head.uri.to_string().as_str(), head.headers["host"].as_bytes()),
            ("/v1?x", &b"a.example:80"[..])
        );
        assert_eq!(authority(Request::get("/").header("host", "b:1")).0.as_deref(), Some("b:1"));
        assert_eq!(authority(Request::get("/").header("host", "a").header("host", "b")).0, None);
        assert_eq!(authority(Request::get("/")).0, None);
        assert_eq!(authority(Request::get("/").version(http::Version::HTTP_10)).0.as_deref(), Some(""));
    }

    #[test]
    fn ports_and_brackets_are_not_part_of_a_host() {
        for (authority, host) in [("a:1", "a"), ("a", "a"), ("[::1]:80", "::1"), ("u:p@a:1", "a"), ("", "")] {
            assert_eq!(without_port(authority), host);
        }
    }

    #[test]
    fn model_ids_may_hold_slashes() {
        assert_eq!(models_path("/v1/models"), Some(""));
        assert_eq!(models_path("/v1/models/Qwen/Qwen3"), Some("Qwen/Qwen3"));
        assert_eq!(models_path("/v1/modelsx"), None);
    }
}
