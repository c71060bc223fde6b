"""Trackers: where `shoal track` writes rounds. Each needs its own package, but for CSV."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from shoal.node.cli.round_rows import COLUMNS, cells
from shoal.node.errors import BadConfig, UserError
from shoal.node.storage.database import KeptRound
from shoal.node.storage.home import Home


class Tracker(Protocol):
    """Takes rounds, oldest first."""

    def write(self, kept: KeptRound) -> None:
        """Write a round."""

    def flush(self) -> None:
        """See that what was written is kept."""

    def close(self) -> None:
        """Write no more."""


class CsvTracker:
    """Appends to a CSV file; metrics are one column of JSON, since their names may change within a file."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            OSError: it cannot be written.
        """
        is_new = not path.exists() or path.stat().st_size == 0
        columns = [*COLUMNS, "metrics"]
        if not is_new:
            # A file that an earlier version began keeps its columns.
            with path.open(encoding="utf-8", newline="") as begun:
                columns = next(csv.reader(begun))
        self._file: IO[str] = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, columns, extrasaction="ignore", lineterminator="\n")
        if is_new:
            self._writer.writeheader()

    def write(self, kept: KeptRound) -> None:
        """See `Tracker`."""
        row = {name: value for name, value in cells(kept).items() if name in COLUMNS}
        self._writer.writerow({**row, "metrics": json.dumps(kept.round.metrics)})

    def flush(self) -> None:
        """See `Tracker`."""
        self._file.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._file.close()


class TensorboardTracker:
    """Writes scalars under shoal/ for TensorBoard."""

    def __init__(self, folder: str) -> None:
        """Open the folder."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event: Any = Event
        self._summary: Any = Summary
        self._writer: Any = EventFileWriter(folder)

    def write(self, kept: KeptRound) -> None:
        """See `Tracker`."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in figures(kept)]
        self._writer.add_event(
            self._event(
                wall_time=kept.round.finished_at,
                step=kept.round.round,
                summary=self._summary(value=values),
            )
        )

    def flush(self) -> None:
        """See `Tracker`."""
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WandbTracker:
    """Logs to Weights & Biases; WANDB_MODE=offline keeps all on this machine."""

    def __init__(self, project: str) -> None:
        """Begin a run of the project."""
        import wandb

        self._run: Any = wandb.init(project=project or "shoal")

    def write(self, kept: KeptRound) -> None:
        """See `Tracker`."""
        self._run.log(dict(figures(kept)), step=kept.id)

    def flush(self) -> None:
        """See `Tracker`."""

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class MlflowTracker:
    """Logs to MLflow."""

    def __init__(self, address: str) -> None:
        """Begin a run at a tracking address, or in ./mlruns."""
        import mlflow

        self._mlflow: Any = mlflow
        if address:
            mlflow.set_tracking_uri(address)
        mlflow.start_run(run_name="shoal")

    def write(self, kept: KeptRound) -> None:
        """See `Tracker`."""
        at = int(1000 * kept.round.finished_at)
        for name, value in figures(kept):
            self._mlflow.log_metric(name, value, step=kept.round.round, timestamp=at)

    def flush(self) -> None:
        """See `Tracker`."""

    def close(self) -> None:
        """See `Tracker`."""
        self._mlflow.end_run()


def figures(kept: KeptRound) -> Iterator[tuple[str, float]]:
    """Yield what a tracker draws of a round: finite numbers, by name."""
    done = kept.round
    found = {
        "shoal/loss": done.loss,
        "shoal/contributors": float(done.contributors),
        "shoal/work_seconds": done.work_seconds,
        "shoal/matchmaking_seconds": done.matchmaking_seconds,
        "shoal/exchange_seconds": done.exchange_seconds,
        **{f"shoal/metric/{name}": value for name, value in done.metrics.items()},
    }
    return ((name, value) for name, value in found.items() if math.isfinite(value))


TRACKERS = "csv:FILE, tensorboard:FOLDER, wandb:PROJECT, mlflow:ADDRESS or otlp:ADDRESS"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "otlp": "'shoal[otel]'"}
"""Trackers -> what to install for them."""


def tracker_of(text: str, home: Home) -> Tracker:
    """Return the tracker that a text such as csv:FILE names. `home`: of the node that is tracked.

    Raises:
        BadConfig: there is none, its package is missing, or its file cannot be written.
    """
    kind, _, place = text.partition(":")
    try:
        match kind:
            case "csv" if place:
                return CsvTracker(Path(place))
            case "tensorboard" if place:
                return TensorboardTracker(place)
            case "wandb":
                return WandbTracker(place)
            case "mlflow":
                return MlflowTracker(place)
            case "otlp":
                from shoal.node.telemetry.otlp import tracker_to

                return tracker_to(place, home)
    except ImportError:
        raise BadConfig(f"{kind} is not installed: pip install {PACKAGES[kind]}") from None
    except OSError as error:
        raise BadConfig(f"cannot write {place}: {error.strerror}; name another file") from None
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  # the boundary to a library, which raises anything
        said = " ".join(str(error).split()).partition(". ")[0]
        raise BadConfig(f"{kind} refuses {place!r}: {said[:300]}; name another place") from None
    raise BadConfig(f"{text!r} is no tracker: {TRACKERS}")
