//! The stream of documents: the newest one, then each later one that its reader is fast enough for.

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::response::Body;

const PREFIX: &str = "data: ";
const SUFFIX: &str = "\n\n";

/// A server-sent event with the document.
pub(super) fn event(document: &Value) -> Bytes {
    // JSON without indentation has no line feeds.
    Bytes::from(format!("{PREFIX}{document}{SUFFIX}"))
}

/// The document of an event.
pub(super) fn document(event: &Bytes) -> Bytes {
    event.slice(PREFIX.len()..event.len() - SUFFIX.len())
}

/// Sends the newest event, then later ones. Events that come while the client does not read are skipped, except for the newest.
pub(super) fn body(mut events: watch::Receiver<Bytes>, place: OwnedSemaphorePermit) -> Body {
    events.mark_changed();
    let frames = stream::unfold((events, place), |(mut events, place)| async move {
        // Ends with the publisher.
        events.changed().await.ok()?;
        let event = events.borrow_and_update().clone();
        Some((Ok(Frame::data(event)), (events, place)))
    });
    StreamBody::new(frames).boxed_unsync()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;

    use serde_json::json;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_slow_reader_gets_the_newest_document_and_no_queue() {
        let (sender, receiver) = watch::channel(event(&json!({ "at": 0 })));
        let places = Arc::new(Semaphore::new(1));
        let mut body = body(receiver, Arc::clone(&places).try_acquire_owned().unwrap());
        let mut at = Vec::new();
        for published in [None, Some(1..100), Some(100..101)] {
            for number in published.into_iter().flatten() {
                sender.send_replace(event(&json!({ "at": number })));
            }
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            let value: Value = serde_json::from_slice(&document(&frame)).unwrap();
            at.push(value["at"].as_u64().unwrap());
        }
        assert_eq!(at, [0, 99, 100]);
        assert_eq!(places.available_permits(), 0);
        drop(body);
        assert_eq!(places.available_permits(), 1, "the place is free when the body is dropped");
    }
}
