#![no_main]

#[path = "../bodies/tls_client_hello.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
