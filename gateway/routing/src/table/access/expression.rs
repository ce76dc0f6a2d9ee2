//! CEL expressions.

use std::borrow::Cow;
use std::fmt;
use std::panic::catch_unwind;
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, Program, Value};

use super::variables::{ModelMember, Variables};

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression.
pub(crate) struct Expression {
    program: Program,
    reads_request: bool,
    reads_model: bool,
    /// Of `apiKey.MEMBER`, which needs no context.
    key_member: Option<String>,
    /// Of `llm.MEMBER in apiKey.MEMBER`: evaluated without a context if the second is a list.
    model_in_key: Option<(ModelMember, String)>,
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
        let (key_member, model_in_key) = (key_member(source), model_in_key(source));
        Ok(Self { program, reads_request, reads_model, key_member, model_in_key })
    }

    pub(crate) fn reads_request(&self) -> bool {
        self.reads_request
    }

    pub(crate) fn reads_model(&self) -> bool {
        self.reads_model
    }

    /// The value, if it is a string.
    pub(crate) fn evaluate_text<'v>(
        &'v self,
        variables: &'v Variables<'_>,
    ) -> Result<Cow<'v, str>, NoAnswer> {
        if let Some(member) = &self.key_member {
            let value = variables.identity().key.and_then(|key| key.variable.text(member));
            return value.map(Cow::Borrowed).ok_or(NoAnswer);
        }
        match self.program.execute(&context(variables)) {
            Ok(Value::String(text)) => Ok(Cow::Owned(Arc::unwrap_or_clone(text))),
            _ => Err(NoAnswer),
        }
    }

    /// The value, if it is a string, a number or a truth value, as text.
    pub(crate) fn evaluate_scalar(&self, variables: &Variables<'_>) -> Result<String, NoAnswer> {
        if self.key_member.is_some()
            && let Ok(text) = self.evaluate_text(variables)
        {
            return Ok(text.into_owned());
        }
        match self.program.execute(&context(variables)) {
            Ok(Value::String(text)) => Ok(Arc::unwrap_or_clone(text)),
            Ok(Value::Int(number)) => Ok(number.to_string()),
            Ok(Value::UInt(number)) => Ok(number.to_string()),
            Ok(Value::Float(number)) => Ok(number.to_string()),
            Ok(Value::Bool(answer)) => Ok(answer.to_string()),
            _ => Err(NoAnswer),
        }
    }

    /// The value, if it is a number from 0 on, without its decimals.
    pub(crate) fn evaluate_amount(&self, variables: &Variables<'_>) -> Result<u64, NoAnswer> {
        match self.program.execute(&context(variables)) {
            Ok(Value::Int(number)) => u64::try_from(number).map_err(|_| NoAnswer),
            Ok(Value::UInt(number)) => Ok(number),
            Ok(Value::Float(number)) if number >= 0.0 => Ok(number as u64),
            _ => Err(NoAnswer),
        }
    }

    pub(crate) fn evaluate(&self, variables: &Variables<'_>) -> Result<bool, NoAnswer> {
        if let Some((model, member)) = &self.model_in_key
            && let Some(key) = variables.identity().key
            && let Some(is_in) =
                variables.models().get(*model).and_then(|model| key.variable.has(member, model))
        {
            return Ok(is_in);
        }
        match self.program.execute(&context(variables)) {
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

fn context<'v>(variables: &'v Variables<'_>) -> Context<'v, 'v> {
    let mut context = Context::with_env(Arc::clone(&ENV));
    context.set_variable_resolver(variables);
    context
}

/// `MEMBER` of `apiKey.MEMBER`.
fn key_member(source: &str) -> Option<String> {
    let member = source.trim().strip_prefix("apiKey.")?;
    let is_name = member.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && member.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then(|| member.to_owned())
}

/// Both members of `llm.MEMBER in apiKey.MEMBER`.
fn model_in_key(source: &str) -> Option<(ModelMember, String)> {
    let (model, list) = source.trim().split_once(" in ")?;
    Some((ModelMember::parse(model.trim_end().strip_prefix("llm.")?)?, key_member(list)?))
}

fn one_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::identity::Identity;
    use super::super::keys::ApiKey;
    use super::super::values::Document;
    use super::super::variables::ModelNames;
    use super::*;

    #[test]
    fn lists_of_keys_contain_the_same_models_without_a_context() {
        let metadata =
            json!({ "models": ["a", 7, null, ["b"], "c"], "none": [], "map": { "a": 1 }, "text": "a" });
        let key =
            Arc::new(ApiKey { name: "alice".into(), variable: Document::new(&metadata), expires_at: None });
        let identities = [Identity { key: Some(&key), jwt: None, certificate: None }, Identity::default()];
        for (identity, model) in
            identities.iter().flat_map(|it| ["a", "b", "c", "7", ""].map(|model| (it, model)))
        {
            let models = ModelNames { requested: Some(model), ..ModelNames::default() };
            for models in [models, ModelNames::default(), ModelNames { target: Some("c"), ..models }] {
                let variables = Variables::new(None, "", identity, models);
                for source in ["models", "none", "map", "text", "missing"].iter().flat_map(|member| {
                    ["model", "baseModel", "targetModel"]
                        .map(|model| format!(" llm.{model}  in  apiKey.{member} "))
                }) {
                    let fast = Expression::compile(&source).unwrap();
                    assert!(fast.model_in_key.is_some(), "{source}");
                    let whole = Expression { model_in_key: None, ..Expression::compile(&source).unwrap() };
                    assert_eq!(fast.evaluate(&variables), whole.evaluate(&variables), "{source} {models:?}");
                }
            }
        }
        for source in [
            "llm.model in apiKey.models || true",
            "!(llm.model in apiKey.models)",
            "llm.model in apiKey['models']",
            "llm.other in apiKey.models",
            "'llm.model in apiKey.models' == ''",
            "llm.model in jwt.models",
        ] {
            assert!(Expression::compile(source).unwrap().model_in_key.is_none(), "{source}");
        }
    }

    #[test]
    fn members_of_keys_have_the_same_value_without_a_context() {
        let variable = Document::new(&json!({ "name": "alice", "tier": 2, "models": ["a"], "_x9": "y" }));
        let key = Arc::new(ApiKey { name: "alice".into(), variable, expires_at: None });
        for identity in [Identity { key: Some(&key), jwt: None, certificate: None }, Identity::default()] {
            let variables = Variables::new(None, "", &identity, ModelNames::default());
            for source in ["apiKey.name", " apiKey._x9 ", "apiKey.tier", "apiKey.models", "apiKey.none"] {
                let expression = Expression::compile(source).unwrap();
                assert!(expression.key_member.is_some(), "{source}");
                let evaluated = Expression { key_member: None, ..Expression::compile(source).unwrap() };
                assert_eq!(
                    expression.evaluate_text(&variables),
                    evaluated.evaluate_text(&variables),
                    "{source}"
                );
                assert_eq!(
                    expression.evaluate_scalar(&variables),
                    evaluated.evaluate_scalar(&variables),
                    "{source}"
                );
            }
        }
        for source in ["apiKey.name + 'x'", "apiKey.models[0]", "jwt.sub", "apiKey.name.size()", "llm.model"]
        {
            assert_eq!(Expression::compile(source).unwrap().key_member, None, "{source}");
        }
    }
}
