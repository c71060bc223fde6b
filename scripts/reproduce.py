"""Measure a method beside the baselines of its paper, over some seeds, as docs/methods/NAME.md shows it.

    python scripts/reproduce.py NAME [--seeds 3] [--json] [--out docs/methods]

Each NAME has a module scripts/reproduce_NAME.py with a function `systems(seed)`, which runs every system
and returns, or yields as they are done, their names and metrics. Without --json, the table of mean ± standard
deviation over the seeds is put between the marks in OUT/NAME.md, and a plot of the metrics in OUT/NAME.png.
With --json nothing is written but a line per seed and system to standard output. Everything runs in this
process, on one thread.

`codecs` and `overlap` are no methods: they measure what lossy numbers and a delay cost, for docs/NAME.md.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

from shoal.node.testnet.plots import metric_names, plot_systems  # noqa: E402  # found by the path above

NAMES: Final = (
    "codecs",
    "deltamask",
    "fedcompress",
    "fedln",
    "fedstar",
    "matu",
    "overlap",
)
NO_METHODS: Final = ("codecs", "overlap")
BEGIN: Final = "<!-- reproduced: begin -->"
END: Final = "<!-- reproduced: end -->"

Metrics = Mapping[str, float]
Found = dict[str, list[Metrics]]
"""System -> its metrics, one per seed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="reproduce.py", description="Measure a method beside its baselines."
    )
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--json", action="store_true", help="a line per seed and system, and no files")
    parser.add_argument(
        "--out", type=Path, help="a folder; docs/methods unless given, docs for what is no method"
    )
    given = parser.parse_args(arguments)
    out = given.out or ROOT / "docs" / ("" if given.name in NO_METHODS else "methods")
    if given.seeds < 1:
        parser.error(f"--seeds {given.seeds}: choose 1 or more")
    found = measure(given.name, range(given.seeds), as_json=given.json)
    if not given.json:
        out.mkdir(parents=True, exist_ok=True)
        plot_systems(out / f"{given.name}.png", given.name, found)
        text = f"{table(found)}\n\nSeeds {0} to {given.seeds - 1}; mean ± standard deviation.\n"
        text += f"\n![{given.name}]({given.name}.png)"
        put(out / f"{given.name}.md", text)
        print(table(found))
    return 0


def measure(name: str, seeds: Sequence[int], *, as_json: bool) -> Found:
    """Run all systems of a method for every seed, and say how far it is."""
    import torch

    torch.set_num_threads(1)
    module = importlib.import_module(f"scripts.reproduce_{name}")
    found: Found = {}
    for seed in seeds:
        done = module.systems(seed)
        for system, metrics in done.items() if isinstance(done, Mapping) else done:
            found.setdefault(system, []).append(metrics)
            line = {"method": name, "system": system, "seed": seed, "metrics": metrics}
            print(json.dumps(line), file=sys.stdout if as_json else sys.stderr, flush=True)
    return found


def table(found: Found) -> str:
    """Return a table in Markdown."""
    columns = metric_names(found)
    lines = ["| " + " | ".join(["system", *columns]) + " |", "|" + "---|" * (1 + len(columns))]
    for system, metrics in found.items():
        cells = [shown([each[name] for each in metrics if name in each]) for name in columns]
        lines.append("| " + " | ".join([system, *cells]) + " |")
    return "\n".join(lines)


def shown(values: Sequence[float]) -> str:
    """Return a mean and its standard deviation."""
    if not values:
        return "–"
    digits = 3 if max(abs(value) for value in values) < 100 else 0
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(fmean(values), digits) + 0.0:.{digits}f}{spread}"


def put(path: Path, text: str) -> None:
    """Write a text between the marks of a file, or a new file with the marks."""
    old = path.read_text("utf-8") if path.exists() else f"# {path.stem}\n\n{BEGIN}\n{END}\n"
    head, begin, rest = old.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{path} has no marks {BEGIN} and {END}; put them where the table belongs")
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
