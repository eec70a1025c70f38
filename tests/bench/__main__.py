"""``make bench``, or ``python -m tests.bench --only NAME``: measures, prints one table, writes it as JSON beside.

A figure is a function of a module here that takes the :class:`~tests.bench.scene.Bench` and gives rows; a new one is
added to :data:`FIGURES`.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.bench import aggregation, ingestion, latency, launch, machine, memory, peers, pipeline, profiles, relaying
from tests.bench.rows import Row, table
from tests.bench.scene import Bench, Options, say
from tests.parts import PROJECT, Parts, started

Figure = Callable[[Bench], list[Row]]

FIGURES: Final[dict[str, Figure]] = {
    "ceiling": ingestion.ceiling,
    "single": ingestion.single,
    "batch": ingestion.batch,
    "relay": relaying.relay,
    "aggregator": aggregation.aggregator,
    "history": aggregation.history,
    "latency": latency.captured_to_visible,
    "pipeline": pipeline.sustained,
    "memory": memory.memory,
    "up": launch.second_up,
}
SLOW: Final = ("up",)
"""Only on demand: it starts a second system beside."""


def main(arguments: Sequence[str], parts: Parts | None = None) -> Path | None:
    """Runs what the arguments say, on parts of its own unless given; returns the JSON file, if there are figures."""
    given = _parser().parse_args(arguments)
    options = Options(
        seconds=given.seconds,
        rounds=given.rounds,
        seed=given.seed,
        sustained_seconds=given.sustained,
        fill=given.fill,
        history=given.history,
        peers=not given.no_peers,
    )
    if given.quick:
        options = options.quick()
    names = given.only.split(",") if given.only else [n for n in FIGURES if n not in SLOW or given.up]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="estation-bench-")))
        running = parts or stack.enter_context(started(folder))
        bench = Bench(running, options, folder)
        if given.profile:
            print(profiles.profile(bench, given.profile))  # noqa: T201
            return None
        about = machine.describe(running)
        if options.peers and {"single", "batch"} & set(names):
            about["versions"] |= peers.all_versions()
        rows: list[Row] = []
        try:
            for name in names:
                say(name)
                rows += FIGURES[name](bench)
        finally:  # whatever breaks late, what was measured before is told
            path = _tell(about, options, names, rows) if rows else None
    return path


def _tell(about: dict[str, Any], options: Options, names: Sequence[str], rows: Sequence[Row]) -> Path:
    at = datetime.now(UTC)
    said = (
        f"seed {options.seed}, {options.rounds} rounds, medians; {options.seconds:g} s a participant and round, "
        f"{options.fill:,} events to drain"
    )
    print(f"{at:%Y-%m-%d %H:%M} UTC\n{machine.lines(about)}\n{said}\n\n{table(rows)}")  # noqa: T201
    folder = PROJECT / "var" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{at:%Y%m%dT%H%M%SZ}.json"
    document = {
        "at": at.isoformat(),
        "machine": about,
        "options": {name: getattr(options, name) for name in Options.__slots__},
        "figures": list(names),
        "rows": [row.document() for row in rows],
    }
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", "utf-8")
    say(f"also in {path.relative_to(PROJECT)}")
    return path


def _parser() -> argparse.ArgumentParser:
    known = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures against raw limits and peers.")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(FIGURES)}", type=_names)
    parser.add_argument("--seconds", type=float, default=known.seconds, help="of a participant in a round")
    parser.add_argument("--rounds", type=int, default=known.rounds)
    parser.add_argument("--seed", type=int, default=known.seed)
    parser.add_argument(
        "--sustained", type=float, default=known.sustained_seconds, help="seconds of the pipeline's run"
    )
    parser.add_argument("--fill", type=int, default=known.fill, help="events to drain in a round")
    parser.add_argument("--history", type=int, default=known.history, help="rows of the grown log, up to 10,000,000")
    parser.add_argument("--quick", action="store_true", help="one short round of each: does it run?")
    parser.add_argument("--no-peers", action="store_true", help="without FastAPI and Celery")
    parser.add_argument("--up", action="store_true", help="`make up` as well, beside whatever runs")
    parser.add_argument("--profile", choices=list(profiles.PROFILES), help="where a process spends its time, no table")
    return parser


def _names(text: str) -> str:
    unknown = [name for name in text.split(",") if name not in FIGURES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no figure is named {unknown[0]}: {', '.join(FIGURES)}")
    return text


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends it, nothing of it stays behind
    main(sys.argv[1:])
