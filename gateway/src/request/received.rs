//! A request whose head is valid and whose listener is known.

use forebay_routing::{BeforeBody, ListenerRoutes, Rule};
use http::{Method, request};

use super::access::check_early;
use super::authority::{Authority, take_authority};
use super::context::Context;
use super::path::normalise;
use crate::auth::Tokens;
use crate::error::Error;
use crate::headers::{self, remove_internal, sanitise, set_forwarded, take_reservation};
use crate::hold::ClientBody;

#[derive(Debug)]
pub(super) struct Received<'a> {
    pub(super) context: Context<'a>,
    /// Boxed, because it is passed from stage to stage.
    pub(super) head: Box<request::Parts>,
    pub(super) body: ClientBody,
    pub(super) authority: Authority,
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    pub(super) listener: &'a ListenerRoutes,
    /// What is known about the route before the body is read.
    pub(super) before_body: BeforeBody<'a>,
    pub(super) tokens: Tokens<'a>,
}

impl<'a> Received<'a> {
    /// Validates and sanitises the head, and selects the listener.
    pub(super) fn new(
        mut context: Context<'a>,
        mut head: Box<request::Parts>,
        body: ClientBody,
    ) -> Result<Self, Error> {
        if head.method == Method::CONNECT {
            return Err(headers::Error::UpgradeUnsupported.into());
        }
        sanitise(&mut head.headers)?;
        let authority = take_authority(&mut head)?;
        normalise(&mut head.uri)?;
        let host = authority.host();
        let port = context.routes.table.ports.get(&*context.via.port).ok_or(Error::NoRoute)?;
        let listener = port.listener(host).ok_or(Error::NoRoute)?;
        // The client was shown the certificate of another listener (RFC 9110 §15.5.20).
        if let Some(name) = context.via.server_name.as_deref().filter(|name| !name.eq_ignore_ascii_case(host))
            && !port.listener(name).is_some_and(|shown| std::ptr::eq(shown, listener))
        {
            return Err(Error::Misdirected);
        }
        if let Some(policy) = listener.closed_by() {
            return Err(Error::PolicyNotEnforced(policy.clone()));
        }
        let may_trace = listener.is_trusted() || context.proxy.traces.is_some();
        remove_internal(&mut head.headers, listener.is_trusted(), may_trace);
        context.reserves = take_reservation(&mut head.headers) && listener.is_trusted();
        set_forwarded(&mut head.headers, &context.via.client, port.scheme());
        context.observe_received(&mut head.headers, listener);
        let before_body = listener.before_body(host, &head);
        if let BeforeBody::Decided(matched) = before_body {
            check_policy(matched.rule)?;
        }
        let tokens = Tokens::new(&context.routes.key_sets, context.via.certificate.clone());
        check_early(listener, before_body, &head, &tokens)?;
        let scheme = port.scheme();
        Ok(Self { context, head, body, authority, scheme, listener, before_body, tokens })
    }

    pub(super) fn host(&self) -> &str {
        self.authority.host()
    }
}

/// Fails if a policy that the gateway does not enforce restricts the rule.
pub(super) fn check_policy(rule: &Rule) -> Result<(), Error> {
    rule.closed_by.as_ref().map_or(Ok(()), |policy| Err(Error::PolicyNotEnforced(policy.clone())))
}
