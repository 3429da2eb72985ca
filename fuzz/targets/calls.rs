#![no_main]

use visipruner_fuzz as _; // what C++ is linked with
libfuzzer_sys::fuzz_target!(|data: &[u8]| visipruner::fuzzing::calls(data));
