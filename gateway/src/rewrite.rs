//! One request's model, replaced by another before a pod sees it.

use forebay_grpc::names::{MODEL_NAME_REWRITE, MODEL_NAME_REWRITE_ALIAS};
use http::{HeaderMap, HeaderValue, header};

use crate::Error;
use crate::hold::HeldBody;
use forebay_openai::ModelName;
use forebay_routing::Backend;

/// What the client asked for, and what the pod is asked for instead.
#[derive(Debug)]
pub(crate) struct Rewrite {
    pub(crate) asked: ModelName,
    target: ModelName,
}

impl Rewrite {
    /// The model that the request's header names, where that is obeyed; else the one that already stood in for
    /// `asked` when the route was found; else what the pool's InferenceModelRewrites say.
    pub(crate) fn choose(
        backend: &Backend,
        headers: &mut HeaderMap,
        asked: Option<&ModelName>,
        stand_in: Option<&ModelName>,
        obeys: bool,
    ) -> Result<Option<Self>, Error> {
        let (Some(asked), Backend::Pool(pool)) = (asked, backend) else { return Ok(None) };
        let said = if obeys { said(headers)? } else { None };
        let rewrites = || pool.rewrites.as_ref()?.target(asked);
        let target = said.or_else(|| stand_in.or_else(rewrites).cloned());
        Ok(target.filter(|target| target != asked).map(|target| Self { asked: asked.clone(), target }))
    }

    /// Changes what is sent. A small body is waited for: the length that is announced is then right, however often
    /// the model is in it.
    pub(crate) async fn apply(&self, headers: &mut HeaderMap, body: &mut HeldBody) -> Result<(), Error> {
        if body.is_replayable() {
            while body.read_frame().await? {}
        }
        body.replace_model(headers, &self.target)?;
        // In a compressed response the model could not be put back.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok(())
    }

    /// For the picker: one that knows of rewrites would else rewrite the target once more.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        if let Some(target) = self.target.to_header_value() {
            headers.insert(MODEL_NAME_REWRITE_ALIAS, target);
        }
    }

    /// Pods are not told.
    pub(crate) fn take_back(headers: &mut HeaderMap) {
        headers.remove(MODEL_NAME_REWRITE_ALIAS);
    }
}

/// Takes the model that the request's headers ask for out of them.
fn said(headers: &mut HeaderMap) -> Result<Option<ModelName>, Error> {
    let mut said = None;
    for name in [MODEL_NAME_REWRITE_ALIAS, MODEL_NAME_REWRITE] {
        if let Some(value) = headers.remove(name) {
            said = Some(ModelName::parse(value.as_bytes()).ok_or(Error::BadRewrite(name))?);
        }
    }
    Ok(said)
}
