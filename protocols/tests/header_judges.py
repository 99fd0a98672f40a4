#!/usr/bin/env python3
"""Holds this crate's HPACK and QPACK against the Python packages hpack and pylsqpack, in both directions,
over random header lists, table sizes, orders of arrival and losses.

    pip install hpack pylsqpack
    cargo build -p towline-protocols --example header_codec
    python3 protocols/tests/header_judges.py target/debug/examples/header_codec [ROUNDS] [SEED]
"""

import random
import subprocess
import sys

import hpack
import pylsqpack

NAMES = [b":path", b":status", b":authority", b"content-type", b"te", b"cookie", b"authorization", b"x-request-id",
         b"grpc-status", b"x-device-id", b"user-agent", b"accept-encoding", b"date"]
VALUES = [b"", b"/", b"200", b"404", b"application/grpc", b"trailers", b"0", b"gzip, deflate", b"www.example.com",
          b"*/*", b"Mon, 21 Oct 2013 20:13:21 GMT"]
SECRETS = {b"cookie", b"authorization", b"set-cookie", b"proxy-authorization"}


class Codec:
    """This crate's codec, by lines."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words):
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert not answer.startswith("error"), f"{words}: {answer}"
        return answer


def hexed(octets):
    return octets.hex() or "-"


def unhexed(word):
    return bytes.fromhex(word.strip("-"))


def word(field):
    name, value = field
    return f"{hexed(name)}={hexed(value)}"


def fields(answer):
    """Fields, and the names of those that are never indexed."""
    split = [part.rstrip("!").split("=") for part in answer.split()]
    never = {unhexed(part.split("=")[0]) for part in answer.split() if part.endswith("!")}
    return [(unhexed(name), unhexed(value)) for name, value in split], never


def any_list(rng):
    def token():
        return bytes(rng.randrange(33, 127) for _ in range(rng.randrange(1, 20))).lower()

    def octets():
        return bytes(rng.randrange(256) for _ in range(rng.randrange(0, 120)))

    def one():
        name = rng.choice(NAMES) if rng.random() < 0.8 else token()
        value = rng.choice(VALUES) if rng.random() < 0.8 else octets()
        return name, value

    # pylsqpack reads no section without fields.
    return [one() for _ in range(rng.randrange(1, 12))]


def judge_hpack(codec, rng):
    size = rng.choice([0, 64, 200, 4096])
    codec.ask("new", "hpack", size, 0)
    theirs, judge = hpack.Encoder(), hpack.Decoder(max_header_list_size=1 << 20)
    theirs.header_table_size = size
    judge.max_allowed_table_size = 8192
    judge.header_table_size = size
    for block in range(rng.randrange(1, 20)):
        # Before its first block, hpack would announce the first size, too.
        if block > 0 and rng.random() < 0.2:
            size = rng.randrange(0, 5000)
            codec.ask("size", size)
            theirs.header_table_size = size
        sent = any_list(rng)
        # Ours to theirs.
        _, block = codec.ask("encode", 0, *map(word, sent)).split()
        got = judge.decode(unhexed(block), raw=True)
        assert [(name, value) for name, value in got] == sent, (sent, got)
        for got_field in got:
            secret = got_field[0] in SECRETS
            assert isinstance(got_field, hpack.NeverIndexedHeaderTuple) == secret, got_field
        # Theirs to ours.
        block = theirs.encode([hpack.NeverIndexedHeaderTuple(*f) if f[0] in SECRETS else f for f in sent])
        got, never = fields(codec.ask("decode", 0, hexed(block)))
        assert got == sent, (sent, got)
        # Empty ones have entries in the static table.
        assert never == {name for name, value in sent if name in SECRETS and value}


def judge_qpack(codec, rng):
    capacity, blocked = rng.choice([0, 64, 300, 4096]), rng.choice([0, 0, 1, 5])
    codec.ask("new", "qpack", capacity, blocked)
    ours_to_theirs(codec, rng, pylsqpack.Decoder(capacity, blocked))
    codec.ask("new", "qpack", capacity, blocked)
    theirs_to_ours(codec, rng, capacity, blocked)


def ours_to_theirs(codec, rng, judge):
    """Sections arrive in any order, instructions late, and some streams are abandoned."""
    sections, instructions, stuck = {}, b"", {}
    for stream in range(rng.randrange(1, 60)):
        sent = any_list(rng)
        more, section = map(unhexed, codec.ask("encode", stream, *map(word, sent)).split())
        instructions += more
        sections[stream] = (section, sent)
        while sections and rng.random() < 0.5:
            chosen = rng.choice(sorted(sections))
            section, sent = sections.pop(chosen)
            if rng.random() < 0.1:
                codec.ask("to-encoder", hexed(judge.cancel_stream(chosen)))
                continue
            try:
                acks, got = judge.feed_header(chosen, section)
                assert got == sent, (sent, got)
                codec.ask("to-encoder", hexed(acks))
            except pylsqpack.StreamBlocked:
                stuck[chosen] = sent
        if rng.random() < 0.4:
            for freed in judge.feed_encoder(instructions):
                acks, got = judge.resume_header(freed)
                assert got == stuck.pop(freed)
                codec.ask("to-encoder", hexed(acks))
            instructions = b""


def theirs_to_ours(codec, rng, capacity, blocked):
    theirs = pylsqpack.Encoder()
    instructions = theirs.apply_settings(capacity, blocked)
    sections = {}
    for stream in range(rng.randrange(1, 60)):
        sent = any_list(rng)
        more, section = theirs.encode(stream, sent)
        instructions += more
        sections[stream] = (section, sent)
        while sections and rng.random() < 0.5:
            chosen = rng.choice(sorted(sections))
            section, sent = sections[chosen]
            answer = codec.ask("decode", chosen, hexed(section))
            if answer == "blocked":
                break
            assert fields(answer)[0] == sent
            del sections[chosen]
        if rng.random() < 0.4:
            codec.ask("to-decoder", hexed(instructions))
            instructions = b""
            acks = unhexed(codec.ask("acks"))
            if acks:
                theirs.feed_decoder(acks)
    codec.ask("to-decoder", hexed(instructions))
    for stream, (section, sent) in sections.items():
        assert fields(codec.ask("decode", stream, hexed(section)))[0] == sent


def main():
    program = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    codec = Codec(program)
    for round in range(rounds):
        for judge in (judge_hpack, judge_qpack):
            try:
                judge(codec, random.Random(f"{seed} {round}"))
            except BaseException:
                print(f"{judge.__name__}: round {round} of seed {seed}", file=sys.stderr)
                raise
    print(f"hpack and pylsqpack agree in both directions: {rounds} rounds of seed {seed}")


if __name__ == "__main__":
    main()
