//! The way of one request through the steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header, request, uri};
use http_body::Body as _;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use rustls::ServerConfig;

use crate::Error;
use crate::accept::{Handler, Via, remove_hop_by_hop, remove_internal, sanitise};
use crate::answer::{AnswerBody, ModelLists, Pod, Restore, Watch, error, find_model, list_models};
use crate::filter::OnTheWay;
use crate::forward::{Forwarded, Forwarder, Mirrors, PooledBody, Route};
use crate::hold::{HeldBody, HoldBudget, Scan};
use crate::observe::{AccessLog, EXPLANATION, Explanation, Metrics, MirrorResult, Record, Traces};
use crate::pick::{ChosenBy, Decision, Picker, Session, SubsetHint};
use crate::rewrite::Rewrite;
use forebay_epp::schedule::Scheduler;
use forebay_openai::{BodyScanner, ModelName};
use forebay_routing::{
    BASE_MODEL_NAME_HEADER, Backend, BeforeBody, ListenerPort, ListenerRoutes, MODEL_NAME_HEADER, Matched,
    Mirror, PoolPicker, RouteTable, Rule,
};

const MODELS_PATH: &str = "/v1/models";
/// Endpoints of a Service that are tried, one after the other.
const SERVICE_ENDPOINTS: usize = 3;

/// What requests are answered with.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) routes: ArcSwap<Routes>,
    pub(crate) budget: Arc<HoldBudget>,
    pub(crate) picker: Picker,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) mirrors: Mirrors,
    pub(crate) models: ModelLists,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Option<Arc<AccessLog>>,
    pub(crate) traces: Option<Arc<Traces>>,
    pub(crate) client_body_timeout: Duration,
    pub(crate) stream_idle_timeout: Duration,
    pub(crate) unknown_label: Arc<str>,
    /// Clients are asked to go elsewhere with their next request.
    pub(crate) draining: Arc<AtomicBool>,
}

/// The routing table with the schedulers of its pools: one immutable snapshot.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) table: RouteTable,
    /// Of the pools that are picked in this process, by [`forebay_routing::Pool::index`].
    pub(crate) schedulers: Vec<Option<Arc<Scheduler>>>,
}

/// Who answers.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, and nearly all are the large one")]
enum Answer {
    Pod(Response<PooledBody>, Pod),
    Gateway(Response<Bytes>),
}

impl Handler for Proxy {
    fn tls(&self, port: &ListenerPort) -> Option<Arc<ServerConfig>> {
        self.routes.load().table.ports.get(port)?.tls().cloned()
    }

    async fn handle(self: Arc<Self>, via: &Via, request: Request<Incoming>) -> Response<AnswerBody> {
        let (head, body) = request.into_parts();
        let mut record =
            Record::begin(self.metrics.clone(), self.access_log.clone(), &head, &self.unknown_label);
        if let Some(traces) = &self.traces {
            record.trace(traces.begin(&head));
        }
        let (is_head, is_http1) = (head.method == Method::HEAD, head.version < http::Version::HTTP_2);
        let answer = self.answer(via, head, body, &mut record).await;
        let explanation = record.explanation();
        let mut response = match answer {
            Ok(Answer::Pod(response, pod)) => {
                record.answering(response.status());
                let watch = Watch::new(response.headers());
                response.map(|body| AnswerBody::upstream(body, pod, record, watch, self.stream_idle_timeout))
            }
            Ok(Answer::Gateway(response)) => {
                record.answering(response.status());
                record.whole();
                response.map(AnswerBody::whole)
            }
            Err(error) => {
                record.failed(error.code());
                record.answering(error.status());
                record.whole();
                let mut response = error::render(&error);
                if is_head {
                    // There will be no content, and some clients would read it by its type all the same.
                    response.headers_mut().remove(header::CONTENT_TYPE);
                }
                response.map(AnswerBody::whole)
            }
        };
        if let Some(explanation) = explanation {
            response.headers_mut().insert(EXPLANATION, explanation);
        }
        // Asked last: the drain may have begun in the meantime.
        if is_http1 && self.draining.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Proxy {
    async fn answer(
        &self,
        via: &Via,
        mut head: request::Parts,
        body: Incoming,
        record: &mut Record,
    ) -> Result<Answer, Error> {
        let arrived = record.arrived();
        if head.method == Method::CONNECT {
            return Err(Error::UpgradeUnsupported);
        }
        sanitise(&mut head.headers)?;
        let authority = take_authority(&mut head)?;
        let host = without_port(&authority);
        let current = self.routes.load_full();
        let of_port = current.table.ports.get(&*via.port).ok_or(Error::NoRoute)?;
        let routes = of_port.listener(host).ok_or(Error::NoRoute)?;
        // The client was shown another listener's certificate (RFC 9110, 15.5.20).
        if let Some(name) = via.server_name.as_deref().filter(|name| !name.eq_ignore_ascii_case(host))
            && !of_port.listener(name).is_some_and(|meant| std::ptr::eq(meant, routes))
        {
            return Err(Error::Misdirected);
        }
        remove_internal(&mut head.headers, routes.is_trusted());
        record.explain_to(Explanation::asked(&mut head.headers));
        record.explain(|it| it.listener = format!("port {}, hostname {}", via.port.port, routes.name()));
        let before_body = routes.before_body(host, &head);
        if head.method == Method::GET
            && let Some(id) = models_path(head.uri.path())
            && let Some(answer) = self.list(routes, before_body, host, id).await
        {
            return answer;
        }
        let scan = scan(&head, &body, before_body)?;
        let is_scanned = !matches!(scan, Scan::Nothing);
        let mut body = HeldBody::new(body, self.budget.open(), scan, self.client_body_timeout)?;
        let model = if is_scanned { self.extract(&mut head, &mut body, routes, record).await? } else { None };
        let mut stand_in = None;
        let matched = match (before_body, &model) {
            (BeforeBody::NoRoute, _) => None,
            (BeforeBody::Decided(matched), None) => Some(matched),
            (BeforeBody::DependsOnModel { without: false }, None) if is_preflight(&head) => {
                routes.route_preflight(host, &head)
            }
            (_, None) => routes.route(host, &head),
            (_, Some(model)) => self.route_model(routes, host, &mut head, model, &mut stand_in).await,
        };
        let Some(matched) = matched else { return Err(model.map_or(Error::NoRoute, Error::UnknownModel)) };
        let rule = matched.rule;
        let chosen = rule.backends.choose();
        record.explain(|it| {
            it.base_model = head.headers.get(BASE_MODEL_NAME_HEADER).cloned();
            it.rule = Some(rule.origin.clone());
            it.backend = chosen.backend.label().cloned();
        });
        record.routed(
            self.label(routes, &head, model.as_ref()),
            chosen.backend.label().unwrap_or(&self.unknown_label),
        );
        let filters = OnTheWay::new(rule.filters.as_deref(), chosen.filters.as_deref(), &head.headers);
        if let Some(answer) =
            filters.answer(&head, matched.prefix_bytes, host, of_port.scheme(), via.port.port)?
        {
            return Ok(Answer::Gateway(answer));
        }
        filters.change_request(&mut head, matched.prefix_bytes);
        // Nobody else may have put in what is the gateway's to obey.
        let obeys = routes.is_trusted() || filters.change_request_headers();
        let rewrite = Rewrite::choose(&chosen.backend, &mut head.headers, model.as_ref(), stand_in, obeys)?;
        if let Some(rewrite) = &rewrite {
            let began = Instant::now();
            rewrite.apply(&mut head.headers, &mut body).await?;
            record.waited(began.elapsed());
        }
        let hint = match chosen.backend {
            Backend::Pool(_) if obeys => SubsetHint::take(&mut head.headers),
            _ => None,
        };
        for mirror in filters.mirrors() {
            self.mirror(mirror, &head, &mut body).await?;
        }

        let timeouts = rule.timeouts;
        let (rewrite_to, hint) = (rewrite.as_ref(), hint.as_ref());
        let schedulers = &current.schedulers;
        let to = To {
            backend: &chosen.backend,
            schedulers,
            rule,
            authority: &authority,
            rewrite: rewrite_to,
            hint,
        };
        record.propagate(&mut head.headers);
        let reached = self.reach(to, &mut head, &mut body, record);
        let (forwarded, mut session) = match timeouts.request {
            None => reached.await?,
            Some(limit) => tokio::time::timeout_at((arrived + limit).into(), reached)
                .await
                .map_err(|_| Error::RequestTimeout { limit })??,
        };
        record.served_by(forwarded.endpoint);
        let deadlines = [
            timeouts.request.map(|limit| arrived + limit),
            timeouts.backend_request.map(|limit| forwarded.sent + limit),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        let (mut parts, mut upstream) = forwarded.response.into_parts();
        remove_hop_by_hop(&mut parts.headers);
        let has_body = !upstream.is_end_stream();
        if let Some(open) = session {
            let endpoint = forwarded.endpoint;
            session = Some(open.answered(&mut parts, endpoint, &mut upstream, &self.budget).await?);
        }
        filters.change_response(&mut parts.headers);
        let restore = match rewrite {
            Some(rewrite) if has_body => Restore::new(&mut parts.headers, &rewrite.asked).map(Box::new),
            _ => None,
        };
        Ok(Answer::Pod(Response::from_parts(parts, upstream), Pod { session, restore, deadline }))
    }

    /// Sends a copy, if all of the body is there or soon will be; the request itself waits for no more than that.
    async fn mirror(&self, mirror: &Mirror, head: &request::Parts, body: &mut HeldBody) -> Result<(), Error> {
        if !body.is_replayable() {
            self.metrics.mirrored(MirrorResult::LeftOut);
            return Ok(());
        }
        while body.read_frame().await? {}
        self.mirrors.send(&mirror.backend, head, body.frames(), self.budget.open());
        Ok(())
    }

    /// Has a pod chosen and sends it the request, until its response begins.
    async fn reach(
        &self,
        to: To<'_>,
        head: &mut request::Parts,
        body: &mut HeldBody,
        record: &mut Record,
    ) -> Result<(Forwarded, Option<Session>), Error> {
        let mut began = Instant::now();
        let (protocol, decision) = match to.backend {
            Backend::Invalid(why) => return Err(Error::Backend(why)),
            Backend::Service(service) => {
                let endpoints = service.random_endpoints(SERVICE_ENDPOINTS);
                (service.protocol, Decision { endpoints, session: None, chosen_by: ChosenBy::Chance })
            }
            Backend::Pool(pool) => {
                if let Some(rewrite) = to.rewrite {
                    rewrite.tell(&mut head.headers);
                }
                let picked = match &pool.picker {
                    PoolPicker::Service(picker) => {
                        self.picker.ask(pool, picker, head, to.authority, body, to.hint).await
                    }
                    PoolPicker::InProcess(_) => match to.schedulers.get(pool.index) {
                        Some(Some(scheduler)) => self.picker.schedule(pool, scheduler, to.hint),
                        _ => Err(Error::Backend("its endpoints cannot be picked in this process")),
                    },
                };
                if to.rewrite.is_some() {
                    Rewrite::take_back(&mut head.headers);
                }
                let decided = Instant::now();
                let waited = decided.duration_since(began);
                began = decided;
                record.picked(waited);
                record.explain(|it| it.pick = Some(waited));
                (pool.protocol, picked?)
            }
        };
        record.sending(began);
        let Decision { endpoints, session, chosen_by } = decision;
        record.explain(|it| it.chosen(&endpoints, Some(chosen_by.to_string())));
        let limit = to.rule.timeouts.backend_request;
        let route = Route { endpoints: &endpoints, protocol, limit, retry: to.rule.retry.as_ref() };
        let forwarded = self.forwarder.send(head, body, route).await?;
        record.explain(|it| {
            it.served_by = Some(forwarded.endpoint);
            it.attempts = Some(forwarded.attempts);
            it.upstream = Some(began.elapsed());
        });
        Ok((forwarded, session))
    }

    /// Reads the body until the model is known, and puts it and its base into the headers.
    async fn extract(
        &self,
        head: &mut request::Parts,
        body: &mut HeldBody,
        routes: &ListenerRoutes,
        record: &mut Record,
    ) -> Result<Option<ModelName>, Error> {
        let began = Instant::now();
        let model = body.read_model().await?;
        let waited = began.elapsed();
        record.waited(waited);
        record.explain(|it| {
            it.model = model.as_ref().and_then(ModelName::to_header_value);
            it.extract = Some(waited);
        });
        if let Some(model) = &model {
            name_model(head, routes, model);
        }
        Ok(model)
    }

    /// The rule for the model. Where it is none that a rule names: for the model that it is another name of, which
    /// is then the `stand_in`; or for the base that the pods say it has.
    async fn route_model<'a>(
        &self,
        routes: &'a ListenerRoutes,
        host: &str,
        head: &mut request::Parts,
        model: &ModelName,
        stand_in: &mut Option<&'a ModelName>,
    ) -> Option<Matched<'a>> {
        let matched = routes.route(host, head);
        if matched.is_some_and(|matched| matched.is_by_model) || routes.models().contains(model) {
            return matched;
        }
        *stand_in = routes.alias(model);
        let matched = match *stand_in {
            Some(target) => {
                name_model(head, routes, target);
                let matched = routes.route(host, head);
                if let Some(name) = model.to_header_value() {
                    head.headers.insert(MODEL_NAME_HEADER, name);
                }
                matched
            }
            None => matched,
        };
        let model = stand_in.unwrap_or(model);
        if matched.is_some_and(|matched| matched.is_by_model) || !routes.models().is_open_to(model) {
            return matched;
        }
        let Some(base) = self.models.base_of(&routes.pools(host), model.as_str()).await else {
            return matched;
        };
        head.headers.insert(BASE_MODEL_NAME_HEADER, base);
        routes.route(host, head)
    }

    /// The model as the resources name it; what only clients say is no label.
    fn label<'a>(
        &'a self,
        routes: &'a ListenerRoutes,
        head: &request::Parts,
        model: Option<&ModelName>,
    ) -> &'a Arc<str> {
        let of_base = || routes.label(head.headers.get(BASE_MODEL_NAME_HEADER)?.to_str().ok()?);
        model.and_then(|model| routes.label(model.as_str()).or_else(of_base)).unwrap_or(&self.unknown_label)
    }

    /// Nothing where a route has a backend of its own for the path.
    async fn list(
        &self,
        routes: &ListenerRoutes,
        before_body: BeforeBody<'_>,
        host: &str,
        id: &str,
    ) -> Option<Result<Answer, Error>> {
        if let BeforeBody::Decided(matched) = before_body
            && matched.rule.backends.pools().next().is_none()
        {
            return None;
        }
        let models = self.models.of(&routes.pools(host)).await;
        if id.is_empty() {
            return Some(Ok(Answer::Gateway(json(list_models(&models)))));
        }
        let id = percent_decode_str(id).decode_utf8_lossy();
        Some(match find_model(&models, &id) {
            Some(model) => Ok(Answer::Gateway(json(model))),
            None => Err(Error::UnknownModelInPath(id.into_owned())),
        })
    }
}

/// Where a request goes.
#[derive(Clone, Copy)]
struct To<'a> {
    backend: &'a Backend,
    schedulers: &'a [Option<Arc<Scheduler>>],
    rule: &'a Rule,
    authority: &'a str,
    rewrite: Option<&'a Rewrite>,
    hint: Option<&'a SubsetHint>,
}

/// Puts the model and its base into the headers that routes match on.
fn name_model(head: &mut request::Parts, routes: &ListenerRoutes, model: &ModelName) {
    let (name, base) = routes.models().headers(model);
    if let Some(name) = name {
        head.headers.insert(MODEL_NAME_HEADER, name);
    }
    match base {
        Some(base) => drop(head.headers.insert(BASE_MODEL_NAME_HEADER, base)),
        None => drop(head.headers.remove(BASE_MODEL_NAME_HEADER)),
    }
}

/// What the body is read for. Where the model decides about the route, a body without one is an error; where
/// only the picker and the metrics would know it, it is not.
fn scan(head: &request::Parts, body: &Incoming, before_body: BeforeBody<'_>) -> Result<Scan, Error> {
    let is_empty = body.is_end_stream();
    let has_model = !is_empty || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    let is_lenient = match before_body {
        BeforeBody::DependsOnModel { without: false } => false,
        BeforeBody::DependsOnModel { without: true } => true,
        BeforeBody::Decided(matched) if matched.rule.backends.pools().next().is_some() => true,
        BeforeBody::Decided(_) | BeforeBody::NoRoute => return Ok(Scan::Nothing),
    };
    if !has_model {
        return Ok(Scan::Nothing);
    }
    match (is_lenient, BodyScanner::new(&head.headers)) {
        (true, Ok(scanner)) if !is_empty => Ok(Scan::Lenient(scanner)),
        (true, _) => Ok(Scan::Nothing),
        (false, scanner) => Ok(Scan::Strict(scanner?)),
    }
}

fn is_preflight(head: &request::Parts) -> bool {
    head.method == Method::OPTIONS && head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
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
