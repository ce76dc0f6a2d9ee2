#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_agent_fuzz::recordings(data));
