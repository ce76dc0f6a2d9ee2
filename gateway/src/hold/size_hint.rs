use bytes::Bytes;
use http_body::SizeHint;

/// Adds the size of `frames` to `hint`.
pub(super) fn add_frames<'a>(hint: &SizeHint, frames: impl Iterator<Item = &'a Bytes>) -> SizeHint {
    let bytes: u64 = frames.map(|frame| frame.len() as u64).sum();
    let mut sum = SizeHint::new();
    sum.set_lower(hint.lower() + bytes);
    if let Some(upper) = hint.upper() {
        sum.set_upper(upper + bytes);
    }
    sum
}
