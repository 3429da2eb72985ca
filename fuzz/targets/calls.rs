#![no_main]

use visipruner_fuzz as _; // whose `vptr` our C++ is linked with
libfuzzer_sys::fuzz_target!(|data: &[u8]| visipruner::fuzzing::calls(data));
