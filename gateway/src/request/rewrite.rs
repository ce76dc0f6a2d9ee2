//! Replaces the model of a request (InferenceModelRewrite and rewrite headers).

use forebay_grpc::names::{MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS};
use forebay_openai::ModelName;
use forebay_routing::{BASE_MODEL_NAME_HEADER, Backend, ModelNames};
use http::{HeaderMap, HeaderValue, header};

use crate::auth::Caller;
use crate::error::Error;
use crate::hold::{self, HeldBody};

/// The model of the client and the model that is sent instead.
#[derive(Debug)]
pub(crate) struct Rewrite {
    pub(crate) client_model: ModelName,
    target: ModelName,
    is_from_header: bool,
}

impl Rewrite {
    /// Chooses the target, in this order: the rewrite header (if `obeys_headers`), the target of the alias by which the
    /// route was found, the InferenceModelRewrites of the pool. `None` if the model is not changed.
    pub(crate) fn choose(
        backend: &Backend,
        headers: &mut HeaderMap,
        model: Option<&ModelName>,
        alias_target: Option<&ModelName>,
        obeys_headers: bool,
    ) -> Result<Option<Self>, Error> {
        let (Some(model), Backend::Pool(pool)) = (model, backend) else { return Ok(None) };
        let from_header = if obeys_headers { take_header(headers)? } else { None };
        let rewrites = || pool.rewrites.as_ref()?.target(model);
        let is_from_header = from_header.is_some();
        let target = from_header.or_else(|| alias_target.or_else(rewrites).cloned());
        let client_model = model.clone();
        Ok(target.filter(|target| target != model).map(|target| Self {
            client_model,
            target,
            is_from_header,
        }))
    }

    /// Fails if the caller may not use the target. The model of a header is one that the client asks for.
    pub(crate) fn authorize(
        &self,
        caller: &Caller<'_>,
        source: &str,
        headers: &HeaderMap,
    ) -> Result<(), Error> {
        let base = headers.get(BASE_MODEL_NAME_HEADER).and_then(|base| base.to_str().ok());
        let (model, target) = (self.client_model.as_str(), Some(self.target.as_str()));
        caller.authorize(source, ModelNames { requested: Some(model), base, target })?;
        if self.is_from_header {
            caller.authorize(source, ModelNames { requested: target, base: None, target })?;
        }
        Ok(())
    }

    /// Rewrites head and body. A small body is read completely first, so that its new length is known, even if it contains
    /// the model several times.
    pub(crate) async fn apply(
        &self,
        headers: &mut HeaderMap,
        body: &mut HeldBody,
    ) -> Result<(), hold::Error> {
        if body.is_replayable() {
            body.read_all().await?;
        }
        body.replace_model(headers, &self.target)?;
        // The model cannot be restored in a compressed response.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok(())
    }

    /// Announces the target to the picker, so that a picker that rewrites models does not rewrite it again.
    pub(crate) fn announce(&self, headers: &mut HeaderMap) {
        if let Some(target) = self.target.to_header_value() {
            headers.insert(MODEL_NAME_REWRITE_ALIAS, target);
        }
    }

    /// Removes the announcement before the request is sent upstream.
    pub(crate) fn remove_announcement(headers: &mut HeaderMap) {
        headers.remove(MODEL_NAME_REWRITE_ALIAS);
    }
}

/// Removes the rewrite headers and returns their model. The last header takes precedence.
fn take_header(headers: &mut HeaderMap) -> Result<Option<ModelName>, Error> {
    let mut target = None;
    for name in [MODEL_NAME_REWRITE_ALIAS, MODEL_NAME_REWRITE] {
        if let Some(value) = headers.remove(name) {
            target = Some(ModelName::parse(value.as_bytes()).ok_or(Error::InvalidRewrite(name))?);
        }
    }
    Ok(target)
}
