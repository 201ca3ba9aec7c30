#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| twintree_store::fuzzing::names(data));
