//! Events of a stream (WHATWG HTML §9.2.6).

/// The data of every complete event.
pub(crate) fn events(stream: &str) -> Vec<String> {
    let mut events = Vec::new();
    let mut data: Option<String> = None;
    let text = stream.replace("\r\n", "\n").replace('\r', "\n");
    // What follows the last line end is an incomplete line.
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    for line in complete.split('\n') {
        if line.is_empty() {
            events.extend(data.take());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            data = Some(data.map_or_else(|| value.to_owned(), |before| before + "\n" + value));
        }
    }
    events
}
