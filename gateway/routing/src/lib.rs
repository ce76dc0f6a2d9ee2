//! HTTPRoutes compiled into an immutable routing table.
//!
//! [`compile()`] is a function of a [`Snapshot`](forebay_resources::Snapshot): it returns the
//! [`RouteTable`] that requests are matched against and the [`Report`] that statuses are written from,
//! so a status cannot contradict the traffic. The gateway serves the table; `forebay check` reads the report.
//!
//! `table` holds what a request needs at run time, `compile` what makes it; `compile` imports `table`.
//!
//! ```
//! use forebay_resources::Snapshot;
//! use forebay_routing::{Certificates, PortSharing, compile};
//!
//! let snapshot = Snapshot::default();
//! let (table, report) = compile(&snapshot, "forebay", PortSharing::Shared, &mut Certificates::default());
//! assert!(table.ports.is_empty() && report.routes.is_empty());
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod compile;
mod condition;
mod names;
pub mod status;
mod table;
#[cfg(test)]
mod tests;

pub use self::compile::{
    Certificates, KeySource, ListenerModels, ListenerReport, MissingTarget, Overlaps, ParentReport,
    PolicyEffect, PolicyProblem, PolicyReport, PoolProblem, PoolReport, QuotaFacts, QuotaReport, Report,
    Settled, SnapshotSettler, client_authorities, compile, gateway_parents, is_granted, key_source,
    label_selector, listener_models, models_secret, overlaps, pool_problems, server_authorities,
    without_picker,
};
pub use self::condition::{ConditionStatus, kind, reason};
pub use self::names::{
    BASE_MODEL_NAME_HEADER, CONTROLLER_NAME, EXPLAIN, EXPLANATION, GATEWAY_GROUP, HTTP_ROUTE,
    MODEL_NAME_HEADER, POOL_GROUP, POOL_KIND,
};
pub use self::table::{
    ApiKey, AppliedQuota, Authentication, AuthenticationMode, Authorities, Backend, Backends, BeforeBody,
    Checks, ClientCertificate, Cors, Credential, CredentialLocation, DescriptorValues, FailureMode, Filters,
    GlobalLimit, HeaderChange, Identity, JwksId, Jwt, JwtAuthentication, JwtKeys, LimitSet, LimitUnit,
    ListenerPort, ListenerRoutes, Matched, Measure, Mirror, ModelMap, ModelNames, ModelsCredential, Money,
    Phase, PickerAddresses, PolicyLimits, Pool, PoolPicker, PortRoutes, PortSharing, PortTls, Preflight,
    Price, Prices, Quota, QuotaLimit, QuotaMeasure, QuotaModels, QuotaSet, Quotas, RateLimit,
    RateLimitServer, Redirect, RemoteJwks, RemoteKeys, RequestAttributes, RetryPolicy, Rewrites, RouteTable,
    Rule, ServerTls, ServiceBackend, SubjectName, Targets, Timeouts, TokenError, TokenUse, UrlRewrite,
    Variables, Weighted,
};
