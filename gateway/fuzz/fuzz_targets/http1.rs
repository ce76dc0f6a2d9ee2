#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_gateway_fuzz::http1(data));
