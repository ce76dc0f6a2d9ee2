//! `location` of credentials.

use http::{HeaderName, header};
use serde::Deserialize;
use serde_json::Value;

use crate::table::CredentialLocation;

/// Headers that say where a request goes and where it ends.
const FRAMING: [HeaderName; 5] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TRANSFER_ENCODING,
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Location {
    header: Option<HeaderLocation>,
    query_parameter: Option<Value>,
    cookie: Option<Value>,
    expression: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLocation {
    name: String,
    prefix: Option<String>,
}

impl Location {
    pub(super) fn header(self) -> Result<CredentialLocation, String> {
        let others = [
            ("queryParameter", &self.query_parameter),
            ("cookie", &self.cookie),
            ("expression", &self.expression),
        ];
        if let Some((name, _)) = others.into_iter().find(|(_, value)| value.is_some()) {
            return Err(format!("location.{name} is not supported; only location.header is"));
        }
        let header = self.header.ok_or("location.header must be set")?;
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| format!("location.header.name {:?} is not the name of a header", header.name))?;
        // It is removed from the request.
        if FRAMING.contains(&name) {
            return Err(format!("location.header.name {name} has another meaning in every request"));
        }
        Ok(CredentialLocation { header: name, prefix: header.prefix.unwrap_or_default() })
    }
}
