"""Measure a method beside the baselines of its paper, over some seeds, as docs/methods/NAME.md shows it.

    python scripts/reproduce.py NAME [--seeds 3] [--json] [--tiny] [--out docs/methods]

Each NAME of a method has a study in scripts/reproduce_*.py: cases, systems, and as many candidates for each
of them, of which one is chosen on validation data (scripts/reproduction.py). Without --json, the tables are
put between the marks in OUT/NAME.md: what each system reached on the test data, mean ± standard deviation
over the seeds; by how much it differs from its baseline; and what was chosen. A plot is put in OUT/NAME.png.
With --json nothing is written but a line per system and case to standard output. Everything runs in this
process, on one thread. --tiny runs two rounds of all, to see that it works.

`codecs` and `overlap` are no methods: they measure what lossy numbers and a delay cost, for docs/NAME.md,
with values that are the same for all they compare.
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
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(ROOT / "tests")]

from scripts.reproduction import Outcomes, Study, difference, outcomes  # noqa: E402
from shoal.node.testnet.plots import metric_names, plot_systems  # noqa: E402  # found by the path above

STUDIES: Final[Mapping[str, str]] = {
    "deltamask": "reproduce_deltamask",
    "diloco": "reproduce_averaging",
    "efu": "reproduce_efu",
    "enccluster": "reproduce_enccluster",
    "fedadam": "reproduce_duals",
    "fedavg": "reproduce_averaging",
    "fedavgm": "reproduce_duals",
    "fedcompress": "reproduce_fedcompress",
    "feddyn": "reproduce_duals",
    "fedit": "reproduce_fedit",
    "fedln": "reproduce_fedln",
    "fedpeft": "reproduce_fedpeft",
    "fedprox": "reproduce_averaging",
    "fedspeed": "reproduce_duals",
    "fedstar": "reproduce_fedstar",
    "fedyogi": "reproduce_duals",
    "local": "reproduce_averaging",
    "matu": "reproduce_matu",
    "mpsl": "reproduce_mpsl",
    "scaffold": "reproduce_duals",
    "sfprompt": "reproduce_sfprompt",
}
"""Method -> the module in scripts/ whose STUDIES has its study."""
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
    parser.add_argument("name", choices=sorted([*STUDIES, *NO_METHODS]))
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--json", action="store_true", help="a line per seed and system, and no files")
    parser.add_argument("--tiny", action="store_true", help="two rounds of all, to see that it works")
    parser.add_argument(
        "--out", type=Path, help="a folder; docs/methods unless given, docs for what is no method"
    )
    given = parser.parse_args(arguments)
    out = given.out or ROOT / "docs" / ("" if given.name in NO_METHODS else "methods")
    if given.seeds < 1:
        parser.error(f"--seeds {given.seeds}: choose 1 or more")
    seeds = range(given.seeds)
    if given.name in NO_METHODS:
        found = measure(given.name, seeds, as_json=given.json)
        text = table(found)
    else:
        study = study_of(given.name)
        done = measure_study(given.name, study.tiny if given.tiny else study, seeds, as_json=given.json)
        found, text = as_found(study, done), study_text(study, done)
    if not given.json:
        out.mkdir(parents=True, exist_ok=True)
        plot_systems(out / f"{given.name}.png", given.name, found)
        over = f"Seeds {0} to {given.seeds - 1}; mean ± standard deviation."
        put(out / f"{given.name}.md", f"{text}\n\n{over}\n\n![{given.name}]({given.name}.png)")
        print(text)
    return 0


def study_of(name: str) -> Study:
    """Return the study of a method."""
    found: Study = importlib.import_module(f"scripts.{STUDIES[name]}").STUDIES[name]
    return found


def measure_study(name: str, study: Study, seeds: Sequence[int], *, as_json: bool) -> Outcomes:
    """Choose and measure all systems of a study, and say how far it is."""
    import torch

    torch.set_num_threads(1)
    done: Outcomes = {}
    for case, system, outcome in outcomes(study, seeds):
        done[case, system] = outcome
        line = {
            "method": name, "case": case, "system": system, "chosen": outcome.chosen,
            "validation": outcome.validation, "metrics": outcome.metrics,
        }  # fmt: skip
        print(json.dumps(line), file=sys.stdout if as_json else sys.stderr, flush=True)
    return done


def as_found(study: Study, done: Outcomes) -> Found:
    """Return a table's rows: a system with its accuracy in every case, or else a system in a case."""
    if all(metrics.keys() == {"accuracy"} for outcome in done.values() for metrics in outcome.metrics):
        found: Found = {}
        for (case, system), outcome in done.items():
            rows = found.setdefault(system, [{} for _ in outcome.metrics])
            found[system] = [
                {**row, case: metrics["accuracy"]} for row, metrics in zip(rows, outcome.metrics, strict=True)
            ]
        return found
    return {f"{case}: {system}": outcome.metrics for (case, system), outcome in done.items()}


def study_text(study: Study, done: Outcomes) -> str:
    """Return three tables: accuracy on test data, differences, and what was chosen on validation data."""
    cases = [case.name for case in study.cases]
    systems = list(dict.fromkeys(system for _, system in done))

    def accuracies(case: str, system: str) -> list[float]:
        return [metrics["accuracy"] for metrics in done[case, system].metrics]

    apart = {
        f"{ours} – {theirs}": [
            difference(accuracies(case, ours), accuracies(case, theirs))
            if {(case, ours), (case, theirs)} <= done.keys()
            else "–"
            for case in cases
        ]
        for ours, theirs in study.beside
    }
    chosen = {
        system: [done[case, system].chosen or "–" if (case, system) in done else "–" for case in cases]
        for system in systems
    }
    return "\n\n".join(
        [
            table(as_found(study, done)),
            "Differences in points; none where they lie within the larger standard deviation of the two:",
            _rows("systems", cases, apart),
            "Chosen on validation data, with another seed:",
            _rows("system", cases, chosen),
        ]
    )


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
    cells = {
        system: [shown([each[name] for each in metrics if name in each]) for name in columns]
        for system, metrics in found.items()
    }
    return _rows("system", columns, cells)


def _rows(first: str, columns: Sequence[str], cells: Mapping[str, Sequence[str]]) -> str:
    lines = ["| " + " | ".join([first, *columns]) + " |", "|" + "---|" * (1 + len(columns))]
    lines += ["| " + " | ".join([name, *row]) + " |" for name, row in cells.items()]
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
