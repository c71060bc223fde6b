"""libp2p is loaded without its client of a certificate registry."""

import subprocess
import sys

CODE = """
import sys
import shoal.gossip.net.libp2p_host
from libp2p.security.tls.autotls import acme
assert not {"requests", "httpx"} & sys.modules.keys()
try:
    acme.ACMEClient("key", "peer")
except NotImplementedError as error:
    print(error)
"""


def test_a_host_brings_no_http_clients_and_their_user_cannot_be_made() -> None:
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert ran.stdout == "ACMEClient: shoal asks no registry for certificates\n"
