#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| visipruner_fuzz::split::check(data));
