//! `include/towline.h` says what the library exports.

use std::{env, fs, path::Path};

/// The sources of the C ABI, as the header lists them.
const SOURCES: [&str; 10] =
    ["error", "raw", "options", "client", "binder", "call", "stream", "listen", "durable", "names"];

#[test]
fn the_header_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(folder.join(format!("src/c/{source}.rs")));
    }
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let (made, header) = (String::from_utf8(made).unwrap(), folder.join("include/towline.h"));
    if env::var_os("TOWLINE_WRITE_HEADER").is_some() {
        fs::write(&header, &made).unwrap();
    }
    let committed = fs::read_to_string(&header).unwrap_or_default();
    assert!(committed == made, "run this test with TOWLINE_WRITE_HEADER=1 and commit include/towline.h");
}
