//! The supported form of CEL expressions for model maps: a map literal of strings, indexed by the request's model.

use std::collections::HashMap;

/// Parses `{"name": "base", …}[json(request.body).model]`.
///
/// # Errors
/// For any other expression: what was expected at which character.
pub fn parse_model_map(expression: &str) -> Result<HashMap<String, String>, String> {
    let mut parser = Parser { rest: expression.trim(), whole: expression.trim() };
    let map = parser.map()?;
    for token in ["[", "json", "(", "request", ".", "body", ")", ".", "model", "]"] {
        parser.expect(token)?;
    }
    if parser.rest.is_empty() { Ok(map) } else { Err(parser.unexpected("the end")) }
}

struct Parser<'a> {
    rest: &'a str,
    whole: &'a str,
}

impl Parser<'_> {
    fn map(&mut self) -> Result<HashMap<String, String>, String> {
        let mut map = HashMap::new();
        self.expect("{")?;
        loop {
            if self.take("}") {
                return Ok(map);
            }
            let key = self.string()?;
            self.expect(":")?;
            let value = self.string()?;
            if map.contains_key(&key) {
                return Err(format!("the key {key:?} is duplicate"));
            }
            map.insert(key, value);
            if !self.take(",") {
                self.expect("}")?;
                return Ok(map);
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return Err(self.unexpected("a string"));
        };
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.rest = self.rest[at + 1..].trim_start();
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, escaped @ ('\\' | '"' | '\'' | '`' | '?' | '/'))) => text.push(escaped),
                    _ => return Err(self.unexpected("a string without this escape sequence")),
                },
                '\n' | '\r' => break,
                _ => text.push(c),
            }
        }
        Err(self.unexpected("a closing quote"))
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(self.unexpected(&format!("`{token}`"))) }
    }

    fn unexpected(&self, wanted: &str) -> String {
        let at = self.whole[..self.whole.len() - self.rest.len()].chars().count() + 1;
        format!(
            "only a map of strings indexed by json(request.body).model is supported; expected {wanted} at character {at}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_map_of_guide() {
        let map = parse_model_map(
            r#"{
              "Qwen/Qwen3-0.6B": "Qwen/Qwen3-0.6B",
              'adapter "a"' : "Qwen\/Qwen3-0.6B",
            }[ json( request.body ).model ]
            "#,
        )
        .unwrap();
        assert_eq!(map.len(), 2);
        assert_eq!(map["adapter \"a\""], "Qwen/Qwen3-0.6B");
        assert!(parse_model_map("{}[json(request.body).model]").unwrap().is_empty());
    }

    #[test]
    fn rejects_other_expressions_with_position() {
        for (expression, message) in [
            ("json(request.body).model", "expected `{` at character 1"),
            (r#"{"a": 1}[json(request.body).model]"#, "expected a string at character 7"),
            (r#"{"a": "b"}[json(request.body).user]"#, "expected `model`"),
            (r#"{"a": "b"}[json(request.body).model] + "x""#, "expected the end"),
            (r#"{"a" "b"}[json(request.body).model]"#, "expected `:`"),
            (r#"{"a": "b"#, "expected a closing quote"),
            (r#"{"a": "\x62"}[json(request.body).model]"#, "without this escape sequence"),
            (r#"{"a": "b", "a": "c"}[json(request.body).model]"#, "is duplicate"),
        ] {
            let error = parse_model_map(expression).unwrap_err();
            assert!(error.contains(message), "{expression}: {error}");
        }
    }
}
