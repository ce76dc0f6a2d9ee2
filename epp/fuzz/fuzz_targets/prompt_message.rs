#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forebay_epp_fuzz::prompt_message(data));
