//! The Prometheus text format 0.0.4, strictly.

/// A line with a value.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    /// Names and values, without escapes.
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

/// The sample of a line. `None` if it is not valid.
pub(crate) fn sample(line: &str) -> Option<Sample> {
    let mut parser = Parser(line);
    let name = parser.name(|c| c.is_ascii_alphabetic() || matches!(c, '_' | ':'))?;
    let is_separate = parser.0.starts_with([' ', '\t', '{']);
    parser.blanks();
    let labels = if parser.take('{') { parser.labels()? } else { Vec::new() };
    parser.blanks();
    let mut fields = parser.0.split([' ', '\t']).filter(|field| !field.is_empty());
    let value = fields.next()?.parse().ok()?;
    let is_complete =
        fields.next().is_none_or(|timestamp| timestamp.parse::<i64>().is_ok()) && fields.next().is_none();
    (is_separate && is_complete).then_some(Sample { name, labels, value })
}

struct Parser<'a>(&'a str);

impl Parser<'_> {
    fn blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn take(&mut self, token: char) -> bool {
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.0.chars();
        let next = chars.next();
        self.0 = chars.as_str();
        next
    }

    fn name(&mut self, is_first: impl Fn(char) -> bool) -> Option<String> {
        let end = self.0.find(|c: char| !(is_first(c) || c.is_ascii_digit())).unwrap_or(self.0.len());
        let (name, rest) = self.0.split_at(end);
        self.0 = rest;
        name.starts_with(is_first).then(|| name.to_owned())
    }

    fn labels(&mut self) -> Option<Vec<(String, String)>> {
        let mut labels = Vec::new();
        loop {
            self.blanks();
            if self.take('}') {
                return Some(labels);
            }
            let name = self.name(|c| c.is_ascii_alphabetic() || c == '_')?;
            self.blanks();
            self.take('=').then_some(())?;
            self.blanks();
            labels.push((name, self.string()?));
            self.blanks();
            if !self.take(',') {
                return self.take('}').then_some(labels);
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        self.take('"').then_some(())?;
        let mut text = String::new();
        loop {
            text.push(match self.next()? {
                '"' => return Some(text),
                '\\' => match self.next()? {
                    'n' => '\n',
                    escaped @ ('\\' | '"') => escaped,
                    _ => return None,
                },
                other => other,
            });
        }
    }
}
