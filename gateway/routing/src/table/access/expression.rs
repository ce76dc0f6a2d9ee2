//! CEL expressions.

use std::fmt;
use std::panic::catch_unwind;
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, Program, Value};

use super::identity::Identity;

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression.
pub(crate) struct Expression {
    program: Program,
    reads_request: bool,
    reads_model: bool,
    /// Of `apiKey.MEMBER`, which needs no context.
    key_member: Option<String>,
}

/// The value cannot be computed, or is neither true nor false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer;

impl Expression {
    /// Fails with the place and the cause.
    pub(crate) fn compile(source: &str) -> Result<Self, String> {
        // A panic of the parser would stop the controller: no later change of any resource would be applied.
        let program = catch_unwind(|| ENV.compile(source))
            .map_err(|_| "the parser failed".to_owned())?
            .map_err(|errors| {
                let all: Vec<String> =
                    errors.errors.iter().map(|error| one_line(&error.to_string())).collect();
                all.join("; ")
            })?;
        let references = program.references();
        let [reads_request, reads_model] = ["request", "llm"].map(|name| references.has_variable(name));
        Ok(Self { program, reads_request, reads_model, key_member: key_member(source) })
    }

    pub(crate) fn reads_request(&self) -> bool {
        self.reads_request
    }

    pub(crate) fn reads_model(&self) -> bool {
        self.reads_model
    }

    /// The value, if it is a string. `context`: with the variables of a request of the caller; made only if it is needed.
    pub(crate) fn evaluate_text<'c>(
        &self,
        identity: &Identity<'_>,
        context: impl FnOnce() -> &'c Context<'static, 'static>,
    ) -> Result<String, NoAnswer> {
        if let Some(member) = &self.key_member {
            return match identity.key.and_then(|key| key.member(member)) {
                Some(Value::String(text)) => Ok(text.to_string()),
                _ => Err(NoAnswer),
            };
        }
        match self.program.execute(context()) {
            Ok(Value::String(text)) => Ok(text.to_string()),
            _ => Err(NoAnswer),
        }
    }

    pub(crate) fn evaluate(&self, context: &Context<'_, '_>) -> Result<bool, NoAnswer> {
        match self.program.execute(context) {
            Ok(Value::Bool(answer)) => Ok(answer),
            _ => Err(NoAnswer),
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expression").finish_non_exhaustive()
    }
}

/// A context without variables.
pub(super) fn context<'v>() -> Context<'static, 'v> {
    Context::with_env(Arc::clone(&ENV))
}

/// `MEMBER` of `apiKey.MEMBER`.
fn key_member(source: &str) -> Option<String> {
    let member = source.trim().strip_prefix("apiKey.")?;
    let is_name = member.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && member.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then(|| member.to_owned())
}

fn one_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::keys::ApiKey;
    use super::super::values::from_json;
    use super::super::variables::Variables;
    use super::*;

    #[test]
    fn members_of_keys_have_the_same_value_without_a_context() {
        let variable = from_json(&json!({ "name": "alice", "tier": 2, "models": ["a"], "_x9": "y" }));
        let key = Arc::new(ApiKey { name: "alice".into(), variable, expires_at: None });
        for identity in [Identity { key: Some(&key), jwt: None }, Identity::default()] {
            let context = Variables::new(None, "", &identity).context();
            for source in ["apiKey.name", " apiKey._x9 ", "apiKey.tier", "apiKey.models", "apiKey.none"] {
                let mut expression = Expression::compile(source).unwrap();
                assert!(expression.key_member.is_some(), "{source}");
                let fast = expression.evaluate_text(&identity, || panic!("{source} needs no context"));
                expression.key_member = None;
                assert_eq!(fast, expression.evaluate_text(&identity, || &context), "{source}");
            }
        }
        for source in ["apiKey.name + 'x'", "apiKey.models[0]", "jwt.sub", "apiKey.name.size()", "llm.model"]
        {
            assert_eq!(Expression::compile(source).unwrap().key_member, None, "{source}");
        }
    }
}
