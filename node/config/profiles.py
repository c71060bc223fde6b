"""Profiles: the settings of four usual places for a node, written into a new config.toml by `shoal init`.

A profile is not a setting itself: what it says stands in the file, where its owner sees and changes it.
"""

from collections.abc import Mapping
from typing import Final, Literal

Profile = Literal["laptop", "server", "helper", "metered"]
PROFILES: Final[Mapping[Profile, Mapping[str, object]]] = {
    "laptop": {
        "schedule.on_battery": "help",
        "network.upload_mbit": 20.0,
        "run.cpu_share": 0.75,
        "gossip.state_upload_mbit": 5.0,
        "gossip.state_fetchers": 2,
        "network.max_links": 32,
    },
    "server": {
        "network.max_links": 128,
        "gossip.state_fetchers": 8,
        "network.mdns": False,
        "log.format": "text",
    },
    "helper": {
        "network.max_links": 128,
        "network.relay": True,
        "run.task": "",
        "log.format": "text",
    },
    "metered": {
        "network.upload_mbit": 5.0,
        "network.download_mbit": 20.0,
        "gossip.state_upload_mbit": 1.0,
        "gossip.state_fetchers": 1,
        "network.relay": False,
        "network.dht": False,
        "network.max_links": 16,
    },
}
"""By dotted name."""
ABOUT: Final[Mapping[Profile, str]] = {
    "laptop": "no training on battery, 20 Mbit/s up and 3/4 of the processor's time at most",
    "server": "many links, states for many newcomers",
    "helper": "no task: links and addresses for others",
    "metered": "few links, no relaying, little upload and download",
}
