#!/usr/bin/env bash
# Builds the gateway as `cargo build --profile dist` does, for the work that it will do: an instrumented gateway is loaded
# with calls, messages and handshakes by towline-load, and the compiler lays the code out by what it counted
# (https://doc.rust-lang.org/rustc/profile-guided-optimization.html). It takes three builds.
#
#   gateway/pgo.sh               # target/pgo/towline
#
#   CARGO_TARGET_DIR   where build products go (default target)
#   LLVM_PROFDATA      the program that merges what was counted, of rustc's LLVM or a newer one; looked for beside rustc
#                      (`rustup component add llvm-tools`) and as llvm-profdata-N (Debian: package llvm-N)
#   PGO_PROFILE        a cargo profile other than dist
#   PGO_SECONDS        how long each part of the load lasts (default 2)
set -euo pipefail
cd "$(dirname "$0")/.."
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")/pgo"
profile="${PGO_PROFILE:-dist}"
seconds="${PGO_SECONDS:-2}"
host="$(rustc -vV | sed -n 's/^host: //p')"
llvm="$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')"

profdata() {
    local tool
    for tool in "${LLVM_PROFDATA:-}" "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" "llvm-profdata-$llvm"; do
        if [ -n "$tool" ] && command -v "$tool" >/dev/null; then
            printf '%s\n' "$tool"
            return
        fi
    done
    echo "there is no llvm-profdata of LLVM $llvm: rustup component add llvm-tools, or set LLVM_PROFDATA" >&2
    return 1
}
merge="$(profdata)"

# Build scripts and macros are no part of it: with --target, flags reach what is built for the target alone.
gateway() { # arguments: a name, flags of rustc. The binary.
    RUSTFLAGS="${RUSTFLAGS:-} $2" CARGO_TARGET_DIR="$target/$1" \
        cargo build --locked --profile "$profile" --target "$host" -p towline-gateway --bin towline >&2
    printf '%s\n' "$target/$1/$host/$profile/towline"
}

CARGO_TARGET_DIR="$target/load" cargo build --locked --release -p towline-loadtests --bin towline-load
load="$target/load/release/towline-load"

counting="$(gateway counting "-Cprofile-generate=$target/counted")"
rm -rf "$target/counted"
mkdir -p "$target/counted"
# towline-load ends its servers without a word, and counters are written by a process that ends by itself: it is told to by
# the end of its parent.
cat >"$target/counting.sh" <<EOF
#!/usr/bin/env bash
LLVM_PROFILE_FILE="$target/counted/%p.profraw" setpriv --pdeathsig TERM "$counting" "\$@" &
wait
EOF
chmod +x "$target/counting.sh"
train() { # arguments: those of towline-load
    echo "towline-load $*"
    "$load" "$@" -q --towline "$target/counting.sh" >"$target/load.log" 2>&1 || {
        cat "$target/load.log" >&2
        return 1
    }
}
train requests --rounds 1 --duration "${seconds}s" --only towline
train quic --duration "${seconds}s"
train brokers --rounds 1 --duration "${seconds}s" --qos 0,1
train handshakes --rounds 1 --duration "${seconds}s" --only ECDSA
for _ in $(seq 150); do pgrep -f "^$counting " >/dev/null || break; sleep 0.2; done
"$merge" merge -o "$target/towline.profdata" "$target/counted"

built="$(gateway built "-Cprofile-use=$target/towline.profdata")"
cp "$built" "$target/towline"
echo "$target/towline"
