#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| twintree_gateway::fuzzing::targets(data));
