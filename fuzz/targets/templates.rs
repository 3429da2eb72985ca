#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| visipruner_fuzz::templates::check(data));
