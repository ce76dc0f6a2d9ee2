//! CEL expressions.

use std::fmt;
use std::panic::catch_unwind;
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, Program, Value};

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression.
pub(crate) struct Expression {
    program: Program,
    reads_request: bool,
    reads_model: bool,
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
        Ok(Self { program, reads_request, reads_model })
    }

    pub(crate) fn reads_request(&self) -> bool {
        self.reads_request
    }

    pub(crate) fn reads_model(&self) -> bool {
        self.reads_model
    }

    /// The value, if it is a string.
    pub(crate) fn evaluate_text(&self, context: &Context<'_, '_>) -> Result<String, NoAnswer> {
        match self.program.execute(context) {
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

fn one_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().to_owned()
}
