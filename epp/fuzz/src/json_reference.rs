//! JSON as Python's `json.loads` reads bytes: RFC 8259, and `NaN`, infinities, a byte order mark and lone surrogates.

/// Deeper values are not read.
const MAX_DEPTH: u32 = 200;

/// A Python string: Unicode code points, which may be lone surrogates.
pub(crate) type Text = Vec<u32>;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(Text),
    Other,
}

/// What a server makes of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The members of the root object, in order and with duplicates.
    Object(Vec<(Text, Value)>),
    /// The bytes are UTF-16 or UTF-32 to Python.
    Wide,
    /// An error, or no object.
    None,
}

pub(crate) fn read(body: &[u8]) -> Reading {
    let has_zero = body.len() >= 2 && body[..2].contains(&0);
    if has_zero || body.starts_with(&[0xff, 0xfe]) || body.starts_with(&[0xfe, 0xff]) {
        return Reading::Wide;
    }
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // Python also accepts surrogates that are encoded as UTF-8. Such bodies are not compared.
    let Ok(text) = str::from_utf8(text) else { return Reading::None };
    let mut parser = Parser { rest: text, depth: 0 };
    parser.root().map_or(Reading::None, Reading::Object)
}

/// `text` as code points.
pub(crate) fn code_points(text: &str) -> Text {
    text.chars().map(u32::from).collect()
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl Parser<'_> {
    fn root(&mut self) -> Option<Vec<(Text, Value)>> {
        self.space();
        let members = self.object()?;
        self.space();
        self.rest.is_empty().then_some(members)
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn object(&mut self) -> Option<Vec<(Text, Value)>> {
        let mut members = Vec::new();
        self.items("{", "}", |parser| {
            let key = parser.string()?;
            parser.space();
            parser.take(":").then_some(())?;
            parser.space();
            members.push((key, parser.value()?));
            Some(())
        })?;
        Some(members)
    }

    /// An object or array.
    fn items(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        self.take(open).then_some(())?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        self.space();
        if !self.take(close) {
            loop {
                item(self)?;
                self.space();
                if self.take(close) {
                    break;
                }
                self.take(",").then_some(())?;
                self.space();
            }
        }
        self.depth -= 1;
        Some(())
    }

    fn value(&mut self) -> Option<Value> {
        match self.rest.chars().next()? {
            '"' => return self.string().map(Value::Text),
            '{' => drop(self.object()?),
            '[' => self.items("[", "]", |parser| parser.value().map(drop))?,
            _ => {
                let names = ["null", "true", "false", "NaN", "Infinity", "-Infinity"];
                names.iter().any(|name| self.take(name)).then_some(()).or_else(|| self.number())?;
            }
        }
        Some(Value::Other)
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let has_digits = rest.len() < self.rest.len();
        self.rest = rest;
        has_digits.then_some(())
    }

    /// A fraction or exponent without digits belongs to the next token, as in Python.
    fn number(&mut self) -> Option<()> {
        self.take("-");
        if !self.take("0") {
            self.digits()?;
        }
        for prefixes in [&["."][..], &["e+", "e-", "e", "E+", "E-", "E"]] {
            let before = self.rest;
            if prefixes.iter().any(|prefix| self.take(prefix)) && self.digits().is_none() {
                self.rest = before;
            }
        }
        Some(())
    }

    fn string(&mut self) -> Option<Text> {
        self.take("\"").then_some(())?;
        let mut text = Text::new();
        loop {
            match self.next()? {
                '"' => return Some(text),
                '\\' => match self.escape()? {
                    low @ 0xdc00..0xe000 if text.last().is_some_and(|last| *last & ESCAPED != 0) => {
                        let high = text.pop()? & !ESCAPED;
                        text.push(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
                        continue;
                    }
                    high @ 0xd800..0xdc00 => text.push(high | ESCAPED),
                    other => text.push(other),
                },
                control if control < ' ' => return None,
                other => text.push(other.into()),
            }
        }
    }

    fn escape(&mut self) -> Option<u32> {
        Some(match self.next()? {
            same @ ('"' | '\\' | '/') => same.into(),
            'b' => 0x08,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'u' => {
                let digits = self.rest.get(..4)?;
                self.rest = &self.rest[4..];
                digits.chars().try_fold(0, |unit, digit| Some(unit << 4 | digit.to_digit(16)?))?
            }
            _ => return None,
        })
    }
}

/// Marks a high surrogate, which pairs with a low one directly behind it.
const ESCAPED: u32 = 1 << 31;
