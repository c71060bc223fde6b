"""shoal model export: what was learned, as a folder of Hugging Face's."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.node.cli.common import HomeOption, JsonOption, home_of, print_json
from shoal.node.errors import BadConfig
from shoal.node.text import printable, size

if TYPE_CHECKING:
    from shoal.gossip.run_spec import RunSpec
    from shoal.methods.base import Array
    from shoal.node.storage.checkpoint import Checkpoint


def model_export(
    directory: Annotated[Path, typer.Argument(help="The new folder.", show_default=False)],
    like: Annotated[
        str,
        typer.Option(
            "--like",
            help="hf:PATH, the folder of the base that was trained, or of its adapters.",
            show_default=False,
        ),
    ],
    home: HomeOption = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="Add the adapters that --like names to their base; a model without adapters."
        ),
    ] = False,
    base: Annotated[
        str,
        typer.Option(
            "--base",
            help="With --merge: hf:PATH, the folder of the base.",
            show_default="the one that the adapters name",
        ),
    ] = "",
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32, float16 or bfloat16; that of the base by default.")
    ] = "",
    shard_size: Annotated[
        float, typer.Option("--shard-size", min=0.001, help="GB of one file; a larger model has several.")
    ] = 5.0,
    json: JsonOption = False,
) -> None:
    """Write what a node's last run has learned as a folder of Hugging Face's, for from_pretrained."""
    from shoal.methods.params import views
    from shoal.node.storage.hf_folder import NAMES, base_of, export
    from shoal.node.storage.model_file import aliases_of, newest_of
    from shoal.node.storage.private_state import PrivateState

    if dtype and dtype not in NAMES:
        raise BadConfig(f"--dtype {printable(dtype)}: choose {', '.join(NAMES)}")
    if base and not merge:
        raise BadConfig("--base is of --merge: leave it out, or add --merge")
    folder, place = base_of(like), home_of(home)
    checkpoint, spec = newest_of(place)
    trained = dict(views(checkpoint.vector[: spec.params_numel], spec.tensors))
    aliases = aliases_of(PrivateState(place.state_dir, spec, "unshared").load() or {})
    trained |= {alias: trained[name] for alias, name in aliases.items() if name in trained}
    if merge:
        folder, trained = _merged(folder, base, trained)
    done = export(directory, folder, trained, _card(checkpoint, spec), dtype, int(shard_size * 1e9))
    if json:
        found = {"path": str(directory), "bytes": done.n_bytes, "tensors": done.n_trained}
        print_json({**found, "kept": done.n_kept, "round": checkpoint.round})
        return
    after = f"after round {checkpoint.round} of {spec.method}"
    print(f"wrote {directory}: {done.n_trained} tensors {after}, {size(done.n_bytes)}")
    if done.n_kept:
        print(f"{done.n_kept} tensors that did not travel are those of {folder}")


def _merged(adapters: Path, base: str, trained: "dict[str, Array]") -> "tuple[Path, dict[str, Array]]":
    """Return the base of adapters, and its tensors with the adapters added."""
    from shoal.node.storage.hf_folder import base_of, reader_of
    from shoal.node.storage.merging.adapters import base_folder, merged, read_config

    config = read_config(adapters)
    folder = base_of(base) if base else base_folder(adapters, config)
    return folder, merged(trained, config, reader_of(folder))


def _card(checkpoint: "Checkpoint", spec: "RunSpec") -> str:
    """Return the text that says what is in the folder."""
    from shoal.gossip.run_spec import run_id

    return "\n".join(
        (
            "# A model that was trained together",
            "",
            "by peers of a [shoal](https://pypi.org/project/shoal/) swarm, with no one in charge.",
            "",
            "| what | value |",
            "| --- | --- |",
            f"| run | `{run_id(spec).hex()}` |",
            f"| method | {spec.method} |",
            f"| rounds | {checkpoint.round} |",
            f"| state | `{checkpoint.state_hash.hex()}` |",
            "",
        )
    )
