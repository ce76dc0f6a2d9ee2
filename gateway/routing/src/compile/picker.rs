//! References of pools to endpoint pickers.

use forebay_resources::{EndpointPickerRef, ObjectKey};

/// Service and port of a pool's endpoint picker.
pub(super) fn picker_service(
    namespace: &str,
    picker: &EndpointPickerRef,
) -> Result<(ObjectKey, u16), &'static str> {
    match (picker.group.is_empty(), picker.kind.as_str(), picker.port) {
        (true, "Service", Some(port)) => Ok((ObjectKey::new(namespace, &picker.name), port.number.get())),
        _ => Err("the pool's endpointPickerRef is not a Service with a port"),
    }
}
