//! The JSON-lines protocol.

use std::{cell::RefCell, rc::Rc};

use forebay_routing_sim::{
    EngineSpec, Scenario, Time, run,
    trace::SharedPrompts,
    wire::{Decision, Recorder, Recording, serve},
};

use crate::routers::{LeastInFlight, RoundRobin};

fn lines<T: serde::Serialize>(items: &[T]) -> String {
    items.iter().map(|item| serde_json::to_string(item).expect("JSON") + "\n").collect()
}

#[test]
fn recorded_run_gives_the_same_picks_over_the_wire() {
    let trace = SharedPrompts { requests: 400, output_tokens: 100, ..SharedPrompts::default() }.generate(3);
    let conditions =
        Scenario::EngineRestarted.conditions(&EngineSpec::qwen3_32b_2xh100(), 3, Time::from_s(10));
    let recording = Rc::<RefCell<Recording>>::default();
    run(&trace, &conditions, 3, &mut |_| {
        Box::new(Recorder::new(LeastInFlight::default(), Rc::clone(&recording)))
    })
    .unwrap();
    let recording = recording.borrow();
    let mut output = Vec::new();
    serve(&mut LeastInFlight::default(), lines(&recording.input).as_bytes(), &mut output).unwrap();
    assert_eq!(recording.picks.len(), 400);
    assert_eq!(String::from_utf8(output).unwrap(), lines(&recording.picks));
    let mut other = Vec::new();
    serve(&mut RoundRobin::default(), lines(&recording.input).as_bytes(), &mut other).unwrap();
    assert_ne!(String::from_utf8(other).unwrap(), lines(&recording.picks), "the router matters");
}

const MEMBERS: &str = r#"{"members":{"at_ns":0,"members":[{"endpoint":4,"incarnation":0}]}}"#;
const REQUEST: &str = r#"{"request":{"at_ns":5,"id":9,"prompt":["00000000000000a1","00000000000000b2"],"prompt_tokens":100,"prompt_bytes":400,"max_tokens":256,"session":7}}"#;

#[test]
fn documented_lines_are_answered() {
    let signals = r#"{"signals":{"at_ns":1,"endpoint":4,"signals":{}}}"#;
    let end = r#"{"end":{"at_ns":7,"id":9,"outcome":"timed_out"}}"#;
    let input = [MEMBERS, signals, REQUEST, r#"{"first_byte":{"at_ns":6,"id":9}}"#, end, ""].join("\n");
    let mut output = Vec::new();
    serve(&mut RoundRobin::default(), input.as_bytes(), &mut output).unwrap();
    assert_eq!(String::from_utf8(output).unwrap(), "{\"pick\":{\"at_ns\":5,\"id\":9,\"endpoint\":4}}\n");
    let _: Decision =
        serde_json::from_str(r#"{"pick":{"at_ns":5,"id":9,"endpoint":4,"scores":[[4,0.5]]}}"#).unwrap();
}

#[test]
fn errors_name_the_line_and_the_field() {
    let cases = [
        ("{", "line 2: .: EOF while parsing an object"),
        (
            &REQUEST.replace("100", "\"x\""),
            "line 2: request.prompt_tokens: invalid type: string \"x\", expected u32",
        ),
        (&REQUEST.replace("00a1", "zz"), "line 2: request.prompt[0]: \"000000000000zz\" is not a hash of 16"),
        (&REQUEST.replace("100", "200"), "line 2: request.prompt: 2 hashes for 200 tokens, expected 4"),
        (&REQUEST.replace("session", "sesion"), "line 2: request.sesion: unknown field `sesion`"),
        (&format!("{REQUEST}\n{REQUEST}"), "line 3: request.id: request 9 is still open"),
        (&format!("{REQUEST}\n{MEMBERS}"), "line 3: at_ns: 0 is earlier than 5 before"),
        (r#"{"end":{"at_ns":1,"id":3,"outcome":"completed"}}"#, "line 2: end.id: request 3 is not open"),
        (r#"{"first_byte":{"at_ns":1,"id":3}}"#, "line 2: first_byte.id: request 3 is not open"),
        (r#"{"pick":{}}"#, "line 2: .: unknown variant `pick`, expected one of `members`"),
        (&format!("{REQUEST} {REQUEST}"), "line 2: line: trailing characters"),
    ];
    for (input, expected) in cases {
        let input = format!("{MEMBERS}\n{input}\n");
        let error = serve(&mut RoundRobin::default(), input.as_bytes(), Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}\nexpected {expected}");
    }
    let error = serve(&mut RoundRobin::default(), REQUEST.as_bytes(), Vec::new()).unwrap_err().to_string();
    assert_eq!(error, "line 1: request: the pool has no members; send `members` first");
}
