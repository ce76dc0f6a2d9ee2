//! Filters of HTTPRoutes, parsed and with their references resolved.

use gateway_api::experimental::httproutes as api;

use super::reference::Reference;
use super::resolve::{Resolver, Scope};
use crate::condition::{ConditionStatus, reason};
use crate::table::{Cors, Filters, HeaderChange, Mirror, Redirect, UrlRewrite};

/// Where a filter is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Rule,
    Backend,
}

/// Filters of a rule. The error says what is invalid or not supported.
pub(super) fn of_rule(
    filters: &[api::HttpRouteRulesFilters],
    resolver: &mut Resolver<'_>,
    scope: &mut Scope<'_>,
) -> Result<Filters, String> {
    parse(filters, Level::Rule, resolver, scope)
}

/// Filters of a backendRef.
pub(super) fn of_backend(
    filters: &[api::HttpRouteRulesBackendRefsFilters],
    resolver: &mut Resolver<'_>,
    scope: &mut Scope<'_>,
) -> Result<Filters, String> {
    // The generated types of both levels differ in name only.
    let filters = serde_json::to_value(filters).and_then(serde_json::from_value);
    let filters: Vec<api::HttpRouteRulesFilters> =
        filters.map_err(|error| format!("filters of a backendRef: {error}"))?;
    parse(&filters, Level::Backend, resolver, scope)
}

fn parse(
    filters: &[api::HttpRouteRulesFilters],
    level: Level,
    resolver: &mut Resolver<'_>,
    scope: &mut Scope<'_>,
) -> Result<Filters, String> {
    use api::HttpRouteRulesFiltersType as Type;
    let mut parsed = Filters::default();
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
                once(&mut parsed.rewrite, UrlRewrite::parse(it)?, filter)?;
            }
            Type::RequestMirror => {
                let it = filter.request_mirror.as_ref().ok_or_else(|| empty(filter))?;
                parsed.mirrors.push(mirror(it, resolver, scope));
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
                let missing = "the kind of the ExtensionRef filter is not supported";
                parsed.missing = Some(missing);
                (scope.unresolved)(ConditionStatus::unmet(reason::INVALID_KIND, missing));
            }
            Type::RequestRedirect | Type::Cors | Type::ExternalAuth => {
                return Err(format!("a filter of type {:?} is not supported here", filter.r#type));
            }
        }
    }
    if parsed.redirect.is_some() && parsed.rewrite.is_some() {
        return Err("RequestRedirect and URLRewrite cannot be combined".into());
    }
    Ok(parsed)
}

fn empty(filter: &api::HttpRouteRulesFilters) -> String {
    format!("a filter of type {:?} lacks its settings", filter.r#type)
}

fn once<T>(slot: &mut Option<T>, value: T, filter: &api::HttpRouteRulesFilters) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("more than one filter of type {:?}", filter.r#type)),
    }
}

fn mirror(
    it: &api::HttpRouteRulesFiltersRequestMirror,
    resolver: &mut Resolver<'_>,
    scope: &mut Scope<'_>,
) -> Mirror {
    let reference = Reference {
        group: it.backend_ref.group.as_deref(),
        kind: it.backend_ref.kind.as_deref(),
        namespace: it.backend_ref.namespace.as_deref(),
        name: &it.backend_ref.name,
        port: it.backend_ref.port,
    };
    let closed_by = (scope.mirror)(reference);
    let backend = resolver.backend(reference, scope);
    let (numerator, denominator) = match (&it.fraction, it.percent) {
        (Some(fraction), _) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, Some(percent)) => (percent, 100),
        (None, None) => (1, 1),
    };
    let number = |number: i32| u64::try_from(number).unwrap_or(0);
    Mirror { backend, closed_by, numerator: number(numerator), denominator: number(denominator).max(1) }
}
