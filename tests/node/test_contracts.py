"""The import contracts forget no module, and the daemon really loads no torch."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
DOES_IO: Final = {
    "addresses",
    "circuit",
    "dials",
    "drive",
    "fast_link",
    "fast_mux",
    "fast_stream",
    "fast_tcp",
    "lane_service",
    "lanes",
    "libp2p_host",
    "libp2p_net",
    "libp2p_parts",
    "local_sockets",
    "lookup",
    "peer_links",
    "relay",
}
"""Modules of gossip/ that are no cores: they wait, or ask the system."""


def contract(id_: str) -> dict[str, Any]:
    """Return a contract of pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found: dict[str, Any] = next(each for each in settings["contracts"] if each.get("id") == id_)
    return found


def test_every_module_of_gossip_is_a_core_or_known_to_wait() -> None:
    modules = {path.stem for path in (ROOT / "gossip").glob("*.py")} - {"__init__"}
    cores = {name.removeprefix("gossip.") for name in contract("cores")["source_modules"]}
    assert cores | DOES_IO == modules
    assert not cores & DOES_IO


def test_the_daemon_and_the_command_line_load_no_torch() -> None:
    code = (
        "import sys, node.daemon, node.cli, node.testnet_cli, node.web\n"
        "print({'torch', 'sklearn', 'hivemind'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout == "set()\n", ran.stderr
