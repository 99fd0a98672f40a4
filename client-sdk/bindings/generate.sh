# What the build scripts of Python, Kotlin and Swift share; each reads this file.
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="${CARGO_TARGET_DIR:-$repository/target}"

# How the library is built that apps carry: arguments of cargo, to which a crate type is added. Only Rust unwinds, so that
# tables for C code, some 100 KB, would be read by nobody.
sdk=(rustc --locked --profile sdk -p towline-ffi --no-default-features --features small)
# Apps that count bytes leave out what they do not need: with TOWLINE_QUIC=off the link goes by TCP alone, with
# TOWLINE_HTTP2=off each short call has an HTTP/1.1 connection.
for part in QUIC HTTP2; do
    switch="TOWLINE_$part"
    case "${!switch:-on}" in
        on) sdk+=(--features "$(tr A-Z a-z <<<"$part")") ;;
        off) ;;
        *)
            echo "$switch is ${!switch}: on or off" >&2
            exit 1
            ;;
    esac
done
# Random numbers are seeded by the system and the processor, as BoringSSL does: what measures the processor's
# jitter beside that is 16 KB.
export AWS_LC_SYS_NO_JITTER_ENTROPY=1
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
    unset CARGO_BUILD_TARGET CFLAGS AWS_LC_SYS_NO_JITTER_ENTROPY
    cargo build --locked -p towline-ffi
    asked="$(mktemp -d)"
    trap 'rm -rf "$asked"' EXIT
    cp "$(library "$target/debug")" "$asked/"
    cargo run --locked -p towline-ffi --example bindgen -- "$1" "$(library "$asked")" "$2"
)
