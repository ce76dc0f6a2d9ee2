#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_agent_ebpf_fuzz::framing(data));
