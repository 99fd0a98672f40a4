"""What an idle client costs: idle.py HOST:PORT CA.pem SECONDS, where the module `towline` is on Python's path.

Counts how often the client's own threads woke (their voluntary context switches in /proc) while nothing was asked of
them, and scales that to an hour. Once in the foreground, once in the background.
"""

import asyncio
import pathlib
import sys

import towline


def wakes():
    """Thread names and how often each has slept, of the client's threads."""
    threads = {}
    for task in pathlib.Path("/proc/self/task").iterdir():
        name = (task / "comm").read_text().strip()
        if name.startswith("towline"):
            fields = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
            threads[f"{name} {task.name}"] = int(fields["voluntary_ctxt_switches"])
    return threads


async def main():
    endpoint, ca, seconds = sys.argv[1], pathlib.Path(sys.argv[2]).read_bytes(), int(sys.argv[3])
    async with towline.Client(towline.ClientOptions(endpoints=[endpoint], roots_pem=ca)) as client:
        answer = await client.call(towline.Request(path="/hello", method="GET"))
        print(f"{answer.status} over {answer.timeline.transport.name}")
        for mode in ("foreground", "background"):
            getattr(client, mode)()
            await asyncio.sleep(15)
            before = wakes()
            await asyncio.sleep(seconds)
            after = wakes()
            count = sum(after.values()) - sum(before.get(name, 0) for name in after)
            print(f"{mode}: {len(after)} threads, {count} wake-ups in {seconds} s, {count * 3600 / seconds:.0f} an hour")


asyncio.run(main())
