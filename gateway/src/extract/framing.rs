use http::{HeaderMap, header};

use crate::Error;

/// Refuses bodies that the scanner cannot read: compressed ones and forms.
pub fn check_scannable(headers: &HeaderMap) -> Result<(), Error> {
    for value in headers.get_all(header::CONTENT_ENCODING) {
        if !value.as_bytes().eq_ignore_ascii_case(b"identity") {
            return Err(Error::CompressedBody);
        }
    }
    let media_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    const FORM: &[u8] = b"multipart/";
    if media_type.get(..FORM.len()).is_some_and(|start| start.eq_ignore_ascii_case(FORM)) {
        return Err(Error::MultipartBody);
    }
    Ok(())
}
