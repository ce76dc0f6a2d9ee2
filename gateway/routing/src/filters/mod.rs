//! What HTTPRoutes do with requests and responses on the way.

mod cors;
mod headers;
mod path;

use std::collections::BTreeSet;

use forebay_resources::ObjectKey;
use gateway_api::experimental::httproutes as api;

use super::backend::{Backend, Reference, Resolver};
use super::report::{Verdict, reason};
pub use cors::{Cors, Preflight};
pub use headers::HeaderChange;
pub use path::{Redirect, Rewrite};

/// The filters of a rule, or of one of its backends.
#[derive(Debug, Default)]
pub struct Filters {
    pub request_headers: Option<HeaderChange>,
    pub response_headers: Option<HeaderChange>,
    pub rewrite: Option<Rewrite>,
    pub redirect: Option<Redirect>,
    pub mirrors: Vec<Mirror>,
    pub cors: Option<Cors>,
    /// A filter that must not be skipped cannot be found: every request gets a 500.
    pub missing: Option<&'static str>,
}

/// A copy of some of the requests goes there.
#[derive(Debug)]
pub struct Mirror {
    pub backend: Backend,
    numerator: u64,
    denominator: u64,
}

impl Mirror {
    /// Whether the next request is one of those that are copied.
    pub fn takes_next(&self) -> bool {
        self.numerator >= self.denominator || super::random() % self.denominator < self.numerator
    }
}

/// Where filters stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Rule,
    Backend,
}

/// Collects what filters refer to.
pub(super) struct Context<'c, 'r> {
    pub(super) resolver: &'c mut Resolver<'r>,
    pub(super) namespace: &'c str,
    pub(super) unresolved: &'c mut dyn FnMut(Verdict),
    pub(super) pools: &'c mut BTreeSet<ObjectKey>,
}

impl Filters {
    /// An error says what is not valid or not supported.
    pub(super) fn of_rule(
        filters: &[api::HttpRouteRulesFilters],
        context: &mut Context<'_, '_>,
    ) -> Result<Self, String> {
        Self::parse(filters, Level::Rule, context)
    }

    pub(super) fn of_backend(
        filters: &[api::HttpRouteRulesBackendRefsFilters],
        context: &mut Context<'_, '_>,
    ) -> Result<Self, String> {
        // The two levels have types of their own with the same members.
        let filters = serde_json::to_value(filters).and_then(serde_json::from_value);
        let filters: Vec<api::HttpRouteRulesFilters> =
            filters.map_err(|error| format!("filters of a backendRef: {error}"))?;
        Self::parse(&filters, Level::Backend, context)
    }

    fn parse(
        filters: &[api::HttpRouteRulesFilters],
        level: Level,
        context: &mut Context<'_, '_>,
    ) -> Result<Self, String> {
        use api::HttpRouteRulesFiltersType as Type;
        let mut parsed = Self::default();
        for filter in filters {
            match filter.r#type {
                Type::RequestHeaderModifier => {
                    let it = filter.request_header_modifier.as_ref().ok_or_else(|| empty(filter))?;
                    once(&mut parsed.request_headers, HeaderChange::of_requests(it)?, filter)?;
                }
                Type::ResponseHeaderModifier => {
                    let it = filter.response_header_modifier.as_ref().ok_or_else(|| empty(filter))?;
                    once(&mut parsed.response_headers, HeaderChange::of_responses(it)?, filter)?;
                }
                Type::UrlRewrite => {
                    let it = filter.url_rewrite.as_ref().ok_or_else(|| empty(filter))?;
                    once(&mut parsed.rewrite, Rewrite::parse(it)?, filter)?;
                }
                Type::RequestMirror => {
                    let it = filter.request_mirror.as_ref().ok_or_else(|| empty(filter))?;
                    parsed.mirrors.push(mirror(it, context));
                }
                Type::RequestRedirect if level == Level::Rule => {
                    let it = filter.request_redirect.as_ref().ok_or_else(|| empty(filter))?;
                    once(&mut parsed.redirect, Redirect::parse(it)?, filter)?;
                }
                Type::Cors if level == Level::Rule => {
                    let it = filter.cors.as_ref().ok_or_else(|| empty(filter))?;
                    once(&mut parsed.cors, Cors::parse(it)?, filter)?;
                }
                Type::ExtensionRef => {
                    let missing = "the ExtensionRef filter's kind is not known";
                    parsed.missing = Some(missing);
                    (context.unresolved)(Verdict::no(reason::INVALID_KIND, missing));
                }
                Type::RequestRedirect | Type::Cors | Type::ExternalAuth => {
                    return Err(format!("a filter of type {:?} is not supported here", filter.r#type));
                }
            }
        }
        if parsed.redirect.is_some() && parsed.rewrite.is_some() {
            return Err("RequestRedirect and URLRewrite exclude each other".into());
        }
        Ok(parsed)
    }
}

fn empty(filter: &api::HttpRouteRulesFilters) -> String {
    format!("a filter of type {:?} lacks what it is to do", filter.r#type)
}

fn once<T>(place: &mut Option<T>, value: T, filter: &api::HttpRouteRulesFilters) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("there are several filters of type {:?}", filter.r#type)),
    }
}

fn mirror(it: &api::HttpRouteRulesFiltersRequestMirror, context: &mut Context<'_, '_>) -> Mirror {
    let reference = Reference {
        group: it.backend_ref.group.as_deref(),
        kind: it.backend_ref.kind.as_deref(),
        namespace: it.backend_ref.namespace.as_deref(),
        name: &it.backend_ref.name,
        port: it.backend_ref.port,
    };
    let backend =
        context.resolver.backend(context.namespace, reference, &mut context.unresolved, context.pools);
    let (numerator, denominator) = match (&it.fraction, it.percent) {
        (Some(fraction), _) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, Some(percent)) => (percent, 100),
        (None, None) => (1, 1),
    };
    let number = |number: i32| u64::try_from(number).unwrap_or(0);
    Mirror { backend, numerator: number(numerator), denominator: number(denominator).max(1) }
}
