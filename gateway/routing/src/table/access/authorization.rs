//! Authorization rules.

use super::expression::{Expression, NoAnswer};
use super::variables::Variables;

/// What a rule does with the requests that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Allows them. Requests that no such rule matches are denied.
    Allow,
    Deny,
    /// Denies the others.
    Require,
}

/// `traffic.authorization` of a policy.
#[derive(Debug)]
pub struct AccessRule {
    pub(crate) action: Action,
    /// A request matches if all are true.
    pub(crate) expressions: Vec<Expression>,
}

impl AccessRule {
    pub(super) fn reads_request(&self) -> bool {
        self.expressions.iter().any(Expression::reads_request)
    }

    pub(super) fn reads_model(&self) -> bool {
        self.expressions.iter().any(Expression::reads_model)
    }

    fn matches(&self, variables: &Variables<'_>) -> Result<bool, NoAnswer> {
        let mut answer = Ok(true);
        for expression in &self.expressions {
            match expression.evaluate(variables) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(no_answer) => answer = Err(no_answer),
            }
        }
        answer
    }
}

/// A rule that cannot be evaluated never allows a request: `Allow` does not match it, `Require` and `Deny` deny it.
pub(super) fn allow<'a>(rules: impl Iterator<Item = &'a AccessRule>, variables: &Variables<'_>) -> bool {
    let (mut must_match, mut is_allowed) = (false, false);
    for rule in rules {
        let matches = rule.matches(variables);
        match rule.action {
            Action::Deny if matches != Ok(false) => return false,
            Action::Require if matches != Ok(true) => return false,
            Action::Deny | Action::Require => {}
            Action::Allow => {
                must_match = true;
                is_allowed |= matches == Ok(true);
            }
        }
    }
    is_allowed || !must_match
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, Method};

    use super::super::{ApiKey, Document, Identity, ModelNames, RequestAttributes};
    use super::*;

    fn rule(action: Action, expressions: &[&str]) -> AccessRule {
        let expressions = expressions.iter().map(|source| Expression::compile(source).unwrap()).collect();
        AccessRule { action, expressions }
    }

    fn with_variables(test: impl FnOnce(&Variables<'_>)) {
        let mut headers = HeaderMap::new();
        headers.append("x-team", "a".parse().unwrap());
        headers.append("x-team", "b".parse().unwrap());
        headers.append("x-one", "a".parse().unwrap());
        let attributes =
            RequestAttributes { method: &Method::POST, path: "/v1/x", host: "A.example", headers: &headers };
        let metadata = serde_json::json!({ "group": "sales", "tier": 3, "models": ["m", "n"] });
        let key = ApiKey { name: "client1".into(), variable: Document::new(&metadata), expires_at: None };
        let key = Arc::new(key);
        let identity = Identity { key: Some(&key), jwt: None, certificate: None };
        let models = ModelNames { requested: Some("m"), ..ModelNames::default() };
        test(&Variables::new(Some(attributes), "10.0.0.1", &identity, models));
    }

    #[test]
    fn expressions_read_the_request_the_key_and_the_models() {
        with_variables(|variables| {
            for (expression, expected) in [
                (
                    "request.method == 'POST' && request.path == '/v1/x' && request.host == 'a.example'",
                    Ok(true),
                ),
                ("request.headers['x-team'] == 'a,b' && request.headers['x-one'] == 'a'", Ok(true)),
                ("apiKey.group == 'sales' && apiKey.tier >= 3", Ok(true)),
                ("llm.model in apiKey.models", Ok(true)),
                ("llm.model.startsWith('x')", Ok(false)),
                ("source.address == '10.0.0.1'", Ok(true)),
                ("has(apiKey.owner)", Ok(false)),
                // Members and whole maps are the same values.
                ("llm['model'] == llm.model && llm['targetModel'] == llm.targetModel", Ok(true)),
                (
                    "has(llm.model) && has(llm.targetModel) && !has(llm.baseModel) && llm.size() == 2",
                    Ok(true),
                ),
                ("llm.targetModel == 'm'", Ok(true)),
                ("['x'].exists(llm, llm == 'x') && ['y'].all(source, source == 'y')", Ok(true)),
                ("[{'model': 'x'}].all(llm, llm.model == 'x')", Ok(true)),
                ("request.size() == 4 && source.size() == 1", Ok(true)),
                ("apiKey.owner == 'x'", Err(NoAnswer)),
                ("llm.baseModel == 'm'", Err(NoAnswer)),
                ("llm['baseModel'] == 'm'", Err(NoAnswer)),
                ("llm.model.name == 'm'", Err(NoAnswer)),
                ("jwt.sub == 'x'", Err(NoAnswer)),
                ("apiKey.group", Err(NoAnswer)),
                ("other == 'x'", Err(NoAnswer)),
                ("1 / 0 == 1", Err(NoAnswer)),
            ] {
                let compiled = Expression::compile(expression).unwrap();
                assert_eq!(compiled.evaluate(variables), expected, "{expression}");
            }
        });
    }

    #[test]
    fn a_rule_without_an_answer_never_allows() {
        use Action::{Allow, Deny, Require};
        let (yes, no, error) = ("true", "false", "apiKey.owner == 'x'");
        for (rules, allowed) in [
            (vec![], true),
            (vec![(Allow, vec![yes])], true),
            (vec![(Allow, vec![no])], false),
            (vec![(Allow, vec![error])], false),
            (vec![(Allow, vec![yes, no])], false),
            (vec![(Allow, vec![no]), (Allow, vec![yes])], true),
            (vec![(Allow, vec![error]), (Allow, vec![yes])], true),
            (vec![(Deny, vec![no])], true),
            (vec![(Deny, vec![yes])], false),
            (vec![(Deny, vec![error])], false),
            (vec![(Deny, vec![error, no])], true),
            (vec![(Deny, vec![yes]), (Allow, vec![yes])], false),
            (vec![(Require, vec![yes]), (Require, vec![yes])], true),
            (vec![(Require, vec![yes]), (Require, vec![no])], false),
            (vec![(Require, vec![error])], false),
            (vec![(Require, vec![yes]), (Allow, vec![no])], false),
        ] {
            let compiled: Vec<AccessRule> =
                rules.iter().map(|(action, expressions)| rule(*action, expressions)).collect();
            with_variables(|variables| assert_eq!(allow(compiled.iter(), variables), allowed, "{rules:?}"));
        }
    }

    #[test]
    fn the_key_is_null_without_a_caller() {
        let identity = Identity::default();
        let variables = Variables::new(None, "10.0.0.1", &identity, ModelNames::default());
        let evaluate = |source| Expression::compile(source).unwrap().evaluate(&variables);
        assert_eq!(evaluate("request.path == '/'"), Err(NoAnswer), "not given");
        assert_eq!(evaluate("apiKey == null && jwt == null"), Ok(true));
        assert_eq!(evaluate("apiKey.group == 'sales'"), Err(NoAnswer));
    }

    #[test]
    fn what_does_not_parse_says_where() {
        let error = Expression::compile("request.path ==").unwrap_err();
        assert!(error.contains("1:"), "{error}");
        assert!(Expression::compile(&"(".repeat(16_384)).is_err());
    }
}
