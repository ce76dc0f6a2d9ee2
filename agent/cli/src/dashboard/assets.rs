//! The files of the page. None of them has data.

use http::header::HeaderValue;

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asset {
    path: &'static str,
    content_type: &'static str,
    pub(super) body: &'static [u8],
}

macro_rules! asset {
    ($path:literal, $file:literal, $content_type:literal) => {
        Asset { path: $path, content_type: $content_type, body: include_bytes!(concat!("page/", $file)) }
    };
}

const ASSETS: &[Asset] = &[
    asset!("/", "index.html", "text/html; charset=utf-8"),
    asset!("/style.css", "style.css", "text/css; charset=utf-8"),
    asset!("/icon.svg", "icon.svg", "image/svg+xml"),
    asset!("/app.js", "app.js", "text/javascript; charset=utf-8"),
    asset!("/chat.js", "chat.js", "text/javascript; charset=utf-8"),
    asset!("/dom.js", "dom.js", "text/javascript; charset=utf-8"),
    asset!("/fleet.js", "fleet.js", "text/javascript; charset=utf-8"),
    asset!("/format.js", "format.js", "text/javascript; charset=utf-8"),
    asset!("/requests.js", "requests.js", "text/javascript; charset=utf-8"),
    asset!("/stream.js", "stream.js", "text/javascript; charset=utf-8"),
];

impl Asset {
    /// The file with this path.
    pub(super) fn find(path: &str) -> Option<&'static Self> {
        ASSETS.iter().find(|asset| asset.path == path)
    }

    pub(super) fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(self.content_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page on a slow link, and a reader of the code, both profit.
    const MAX_BYTES: usize = 40_000;

    #[test]
    fn the_page_is_small() {
        let bytes: usize = ASSETS.iter().map(|asset| asset.body.len()).sum();
        assert!(bytes < MAX_BYTES, "{bytes} bytes");
    }

    /// The policy forbids them; a page that has them would not work.
    #[test]
    fn the_page_has_no_inline_code_and_no_other_host() {
        for asset in ASSETS {
            let text = std::str::from_utf8(asset.body).unwrap();
            let code = text.replace("http://www.w3.org/2000/svg", "");
            for forbidden in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "style=", "onclick=", "://", "eval("]
            {
                assert!(!code.contains(forbidden), "{}: {forbidden}", asset.path);
            }
        }
    }
}
