#![no_main]

#[path = "../bodies/endpoint_list.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
