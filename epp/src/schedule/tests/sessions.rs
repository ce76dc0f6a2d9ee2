use super::{
    super::{
        Filter, Scorer, SessionAffinity, SessionSettings,
        fixture::{Fixture, Load},
        session,
    },
    plugin,
};

fn affinity(parameters: &str) -> SessionAffinity {
    SessionAffinity::from(plugin::<SessionSettings>(parameters))
}

fn endpoints() -> Fixture {
    Fixture::new(0, &[Load::default(); 3])
}

#[test]
fn a_token_names_the_pod() {
    let plugin = affinity("{}");
    let token = session::token(endpoints().view().pod(1).unwrap());
    assert_eq!(token, "bW9kZWxzL3ZsbG0tMQ==", "base64 of models/vllm-1, as llm-d-router writes it");
    let request = endpoints().with_header("x-session-token", &token);
    assert_eq!(request.scores(&plugin), [0.0, 1.0, 0.0]);
    assert_eq!(request.filtered(&plugin), [1]);
    assert_eq!(Scorer::token_header(&plugin), Some("x-session-token"));
}

#[test]
fn requests_without_a_valid_token_have_no_preference() {
    let plugin = affinity("encodedEndpointHeaderConfig: {header: X-Mine}");
    let gone = "bW9kZWxzL3ZsbG0tOQ==";
    let other_header = endpoints().with_header("x-session-token", "bW9kZWxzL3ZsbG0tMQ==");
    for request in [
        endpoints(),
        other_header,
        endpoints().with_header("x-mine", gone),
        endpoints().with_header("x-mine", "%"),
    ] {
        assert_eq!(request.scores(&plugin), [0.0, 0.0, 0.0]);
        assert_eq!(request.filtered(&plugin), [0, 1, 2]);
    }
}

#[test]
fn an_identifier_stays_at_the_endpoint_that_was_picked() {
    let plugin = affinity(
        "{strategy: session_id, sessionIdConfig: {sources: [{header: x-a}, {header: x-b}], evictionTtlSeconds: 60}}",
    );
    let request = |header, id| endpoints().with_header(header, id);
    assert_eq!(request("x-b", "s").filtered(&plugin), [0, 1, 2], "a new session");
    Filter::picked(&plugin, &request("x-b", "s").view(), 2);
    assert_eq!(request("x-b", "s").scores(&plugin), [0.0, 0.0, 1.0]);
    assert_eq!(request("x-a", "s").filtered(&plugin), [2], "the first header that is set counts");
    assert_eq!(request("x-a", "t").filtered(&plugin), [0, 1, 2], "another session");
    Filter::picked(&plugin, &request("x-a", " ").view(), 1);
    assert_eq!(request("x-a", " ").filtered(&plugin), [0, 1, 2], "an empty identifier is ignored");
    assert_eq!(request("x-b", "s").with_header("x-a", " ").filtered(&plugin), [2], "nor a source");
    assert_eq!(request("x-b", "s").at(60.0).filtered(&plugin), [2]);
    assert_eq!(request("x-b", "s").at(61.0).filtered(&plugin), [0, 1, 2], "not used for longer than the TTL");
    assert_eq!(Filter::token_header(&plugin), None);
}
