//! Replaces the model of a request (InferenceModelRewrite and rewrite headers).

use forebay_grpc::names::{MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS};
use forebay_openai::ModelName;
use forebay_routing::Backend;
use http::{HeaderMap, HeaderValue, header};

use crate::error::Error;
use crate::hold::{self, HeldBody};

/// The model of the client and the model that is sent instead.
#[derive(Debug)]
pub(crate) struct Rewrite {
    pub(crate) client_model: ModelName,
    target: ModelName,
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
        let target = from_header.or_else(|| alias_target.or_else(rewrites).cloned());
        Ok(target.filter(|target| target != model).map(|target| Self { client_model: model.clone(), target }))
    }

    /// Rewrites head and body. A small body is read completely first, so that its new length is known, even if it contains
    /// the model several times.
    pub(crate) async fn apply(
        &self,
        headers: &mut HeaderMap,
        body: &mut HeldBody,
    ) -> Result<(), hold::Error> {
        if body.is_replayable() {
            while body.read_frame().await? {}
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
