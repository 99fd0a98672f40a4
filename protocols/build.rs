//! Compiles the protobuf messages of the link protocol, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["towline/link/v1/link.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .bytes(".towline.link.v1.Header")
        .bytes(".towline.link.v1.Hello")
        .bytes(".towline.link.v1.Welcome")
        .bytes(".towline.link.v1.OfferedDictionary")
        .bytes(".towline.link.v1.Fetch")
        .bytes(".towline.link.v1.Piece")
        // Debug output reaches logs; the hand-written one leaves secret, password and token out.
        .skip_debug([".towline.link.v1.Hello", ".towline.link.v1.Welcome", ".towline.link.v1.Header"])
        .compile_fds(files)?;
    Ok(())
}
