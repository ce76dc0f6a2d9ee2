//! `Length-Prefixed-Message`: compressed flag, length, message.

use bytes::Bytes;
use prost::Message;
use tonic::Status;

/// Bytes before each message: compressed flag (1) and length (4).
pub(crate) const PREFIX_BYTES: usize = 5;
/// Compressed flag of an uncompressed message.
pub(crate) const UNCOMPRESSED: u8 = 0;

/// The message with its prefix. `RESOURCE_EXHAUSTED` if its length does not fit in the prefix.
pub(crate) fn frame(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + length);
    bytes.extend_from_slice(&prefix(length)?);
    message.encode_raw(&mut bytes);
    Ok(bytes.into())
}

fn prefix(length: usize) -> Result<[u8; PREFIX_BYTES], Status> {
    let length = u32::try_from(length).map_err(|_| {
        Status::resource_exhausted(format!("message of {length} bytes exceeds the gRPC limit of 4 GiB"))
    })?;
    let [a, b, c, d] = length.to_be_bytes();
    Ok([UNCOMPRESSED, a, b, c, d])
}

/// Length of the message that `bytes` starts with. `None` if the prefix is not complete.
pub(crate) fn message_length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(1..PREFIX_BYTES)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(length)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_lengths_over_32_bits() {
        assert_eq!(prefix(0x0102_0304).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(message_length(&prefix(u32::MAX as usize).unwrap()), Some(u32::MAX as usize));
        let error = prefix(u32::MAX as usize + 1).unwrap_err();
        assert_eq!(error.code(), tonic::Code::ResourceExhausted);
        assert!(error.message().contains("4294967296 bytes"), "{error}");
    }
}
