//! Compiles `proto/` with protox, so that no protoc is needed.

use std::error::Error;

const PROTOS: [&str; 4] = ["proto/auth.proto", "proto/demo.proto", "proto/device.proto", "proto/push.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure().build_transport(false).bytes(".").compile_fds(files)?;
    Ok(())
}
