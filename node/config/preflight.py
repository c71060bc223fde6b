"""Preflight: what would stop a node a moment after its start is found before it, while a line can say so.

Nothing here reserves anything; a port can be taken between the look and the start. The parts that open
them say the same then.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder

from shoal.gossip.addresses import parse_listen
from shoal.gossip.admission.charter import Mode, parse
from shoal.gossip.averaging.bounds import TRIMMING
from shoal.gossip.patterns import PATTERNS
from shoal.gossip.policies.policy import policy_of
from shoal.gossip.run_spec import NATIVE, RunSettings
from shoal.methods.base import Method, gathers, masks, weighs_peers, why_not_gather
from shoal.methods.overlap import Overlaps, check_delay
from shoal.methods.registry import load_method
from shoal.node.config.codec_preflight import check_codec
from shoal.node.config.engine_preflight import check_engine
from shoal.node.config.privacy_preflight import check_budget, check_privacy
from shoal.node.config.retraining_preflight import check_keeping
from shoal.node.config.secure_preflight import check_secure
from shoal.node.config.settings import NodeConfig
from shoal.node.errors import BadConfig


def check(config: NodeConfig) -> None:
    """Look at ports, task and method.

    Raises:
        BadConfig: a port is in use, the task cannot be found, or codec, exchange or engine do not fit.
        MethodsError: no such method, it has no such option, or it cannot train while means travel.
    """
    for _, _, error in check_listens(config):
        raise error
    if config.run.task:
        method = load_method(config.run.method, config.run.options)
        check_run(config.run, method)
        check_budget(config)
        check_keeping(config.run, method)
        check_engine(config.run.engine, method, config.run.method, config.run.codec)
        engine = config.run.engine
        if engine != NATIVE and config.run.exchange != "group":
            raise BadConfig(f"engine {engine} averages in groups: leave out --exchange or --engine {engine}")
        if engine != NATIVE and config.network.hidden:
            raise BadConfig(
                f"engine {engine} has to be dialled by its peers: leave out --hidden or --engine {engine}"
            )
        if config.run.trainer == "spawn":
            _check_task(config.run.task)


def check_listens(config: NodeConfig) -> Iterator[tuple[int, str, BadConfig]]:
    """Tell each port that cannot be listened on, the flag that names another, and why."""
    for address in () if config.network.hidden else config.network.listen:
        at = parse_listen(address)
        try:
            family = socket.AF_INET6 if at.kind == "ip6" else socket.AF_INET
            _check_port(family, at.host, at.port, "--port")
        except BadConfig as error:
            yield at.port, "--port", error
    if config.http.enabled:
        family_ = socket.AF_INET6 if ":" in config.http.host else socket.AF_INET
        try:
            _check_port(family_, config.http.host, config.http.port, "--http-port")
        except BadConfig as error:
            yield config.http.port, "--http-port", error


def check_run(run: RunSettings, method: Method, mode: Mode | None = None) -> None:
    """Refuse what a run's method cannot be combined with. `mode`: of the run, where its charter comes later.

    Raises:
        BadConfig: codec, exchange, quorum and mode do not fit it or each other.
        MethodsError: it cannot train while means travel.
    """
    check_delay(run.delay, method, run.method)
    if run.charter and run.engine != NATIVE:
        raise BadConfig(
            f"engine {run.engine} averages with all that speak its protocol, whatever a charter says: leave"
            f" out --charter or --engine {run.engine}"
        )
    check_codec(run, method)
    if conflict := policy_of(run, masks=masks(method)).conflict:
        raise BadConfig(conflict)
    check_exchange(run, method)
    check_combine(run, method)
    check_bodies(run, method, mode or parse(run.charter).mode)
    check_secure(run, method, mode or parse(run.charter).mode)
    check_privacy(run, method)


def check_bodies(run: RunSettings, method: Method, mode: Mode) -> None:
    """Refuse a method that gathers and declares no bound, where not all members were chosen by founders.

    One of which is not known that it gathers is refused when it does (node/trainer/session.py).

    Raises:
        BadConfig: it is such a method.
    """
    if gathers(method) and (why_not := why_not_gather(run.method, method, mode)):
        raise BadConfig(why_not)


def check_exchange(run: RunSettings, method: Method) -> None:
    """Refuse pairwise averaging where it would mean nothing.

    Raises:
        BadConfig: the method needs the same state on all peers, or the run a quorum or a delay.
    """
    if not PATTERNS[run.exchange].has_own_states:
        return
    if not (method.mergeable and isinstance(method, Overlaps)):
        raise BadConfig(
            f"exchange pairwise: {run.method} does more than take a mean of params; leave out --exchange, or"
            " take --method fedavg or fedprox"
        )
    if run.quorum > 1:
        raise BadConfig("exchange pairwise has no groups that could have a quorum: leave out --quorum")
    if run.delay:
        raise BadConfig("exchange pairwise never waits for a mean: leave out --delay")


def check_combine(run: RunSettings, method: Method) -> None:
    """Refuse a way of combining where nobody would go by it, or where it would ruin what is averaged.

    Raises:
        BadConfig: it does not fit the exchange, the engine, the codec or the method.
    """
    if run.combine == "mean":
        return
    if PATTERNS[run.exchange].has_own_states:
        raise BadConfig(
            f"exchange {run.exchange} hands on sums, of which only means can be made: leave out --exchange,"
            " or take --combine mean"
        )
    if run.engine != NATIVE:
        raise BadConfig(f"engine {run.engine} makes means: take --combine mean, or leave out --engine")
    if run.combine not in TRIMMING:
        return
    if run.codec in ("topk", "int2"):
        raise BadConfig(
            f"combine {run.combine} leaves little of codec {run.codec}: most peers send zero for a number, so"
            " that the middle one is zero; take --combine clip, or --codec int4"
        )
    if weighs_peers(method):
        raise BadConfig(
            f"combine {run.combine} counts each peer once, and {run.method} works by what each counts: take"
            " --combine mean, or --method fedavg"
        )


def _check_port(family: socket.AddressFamily, host: str, port: int, flag: str) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            # Binding alone succeeds beside a listener that is reached by another address.
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise BadConfig(
                    f"port {port} on {host} is in use; choose another with {flag}, or 0 for any free one"
                ) from None
            if error.errno == errno.EACCES:
                raise BadConfig(f"port {port} is not for you; choose one above 1023 with {flag}") from None
            raise BadConfig(
                f"cannot listen on {host} port {port}: {error.strerror or error};"
                " choose an address of this machine"
            ) from None


def _check_task(task: str) -> None:
    """Look for the task's file without running it: it may take seconds, and is the trainer's business."""
    module, colon, name = task.partition(":")
    if not colon:
        if not task.isidentifier():
            raise BadConfig(f"--task {task}: write package.module:Class, or a built-in name such as digits")
        return
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise BadConfig(f"--task {task}: write package.module:Class, as one imports it")
    path: list[str] | None = [*sys.path, os.getcwd()]
    parts = module.split(".")
    for index, part in enumerate(parts):
        spec = PathFinder.find_spec(part, path)
        if spec is None:
            missing = ".".join(parts[: index + 1])
            raise BadConfig(
                f"--task {task}: no module {missing}; start in the folder that holds it, or install it"
            )
        path = list(spec.submodule_search_locations or ())
