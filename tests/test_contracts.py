"""The import contracts forget no module, and the daemon really loads no torch."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
DOES_IO: Final = {"network_interfaces", "net"}
"""What stands in gossip/ and is no core: it waits, or asks the system."""


def contract(id_: str) -> dict[str, Any]:
    """Return a contract of pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found: dict[str, Any] = next(each for each in settings["contracts"] if each.get("id") == id_)
    return found


def test_every_package_and_module_of_gossip_is_a_core_or_known_to_wait() -> None:
    found = [path for path in (ROOT / "gossip").iterdir() if path.suffix == ".py" or path.is_dir()]
    modules = {path.stem for path in found} - {"__init__", "__pycache__"}
    cores = {name.removeprefix("shoal.gossip.") for name in contract("cores")["source_modules"]}
    assert {name for name in cores if not name.startswith("net.")} == modules - DOES_IO


def test_the_daemon_and_the_command_line_load_no_torch_and_need_no_extra() -> None:
    # None in sys.modules makes an import fail, as if the package were not installed.
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('sklearn', 'matplotlib', 'hivemind'))\n"
        "import shoal.node.daemon.process, shoal.node.cli.main\n"
        "import shoal.node.testnet.cli, shoal.node.web.server\n"
        "from shoal.methods.registry import known_methods, method_class\n"
        "[method_class(name) for name in known_methods()]\n"
        "print([each for each in ('torch', 'sklearn', 'matplotlib', 'hivemind') if sys.modules.get(each)])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, check=False
    )
    assert ran.stdout == "[]\n", ran.stderr
