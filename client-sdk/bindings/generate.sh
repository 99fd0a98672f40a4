# What the build scripts of Python, Kotlin and Swift share; each reads this file.
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$repository/target}"

# How the library is built that apps carry: arguments of cargo, to which a crate type is added. Only Rust unwinds, so that
# tables for C code, some 100 KB, would be read by nobody.
sdk=(rustc --locked --profile sdk -p towline-ffi --features small)
# TOWLINE_QUIC=off leaves QUIC out, for apps that count bytes: the link goes by TCP alone then.
case "${TOWLINE_QUIC:-on}" in
    on) ;;
    off) sdk+=(--no-default-features) ;;
    *)
        echo "TOWLINE_QUIC is $TOWLINE_QUIC: on or off" >&2
        exit 1
        ;;
esac
export CFLAGS="${CFLAGS:-} -fno-asynchronous-unwind-tables -fno-unwind-tables"

library() { # arguments: a folder. The shared library in it, whatever this system calls it.
    local file
    for file in "$1"/libtowline_ffi.{so,dylib}; do
        if [ -f "$file" ]; then
            printf '%s\n' "$file"
            return
        fi
    done
    echo "there is no libtowline_ffi in $1" >&2
    return 1
}

# A stripped library tells nothing of its interface: a build with symbols, for this machine, is asked. The generator is
# built with the tests' functions in the library, and puts that in its place: so a copy is asked.
generate() ( # arguments: language, folder
    unset CARGO_BUILD_TARGET CFLAGS
    cargo build --locked -p towline-ffi
    asked="$(mktemp -d)"
    trap 'rm -rf "$asked"' EXIT
    cp "$(library "$target/debug")" "$asked/"
    cargo run --locked -p towline-ffi --example bindgen -- "$1" "$(library "$asked")" "$2"
)
