"""Every setting of a node, put together from the configs of its parts.

A setting comes from a flag, else from the environment, else from ``config.toml`` in the home, else it has
its default. The environment names it by its path in capitals: ``run.rounds`` is ``SHOAL_RUN_ROUNDS``;
lists are divided by commas, tables written as ``key=value,key=value``.

`load` reads nothing but what it is handed and the file of the home, and says for every setting where it
came from.
"""

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from shoal.gossip.addresses import BadAddress, parse, parse_listen, with_advice
from shoal.gossip.admission.charter import canonical
from shoal.gossip.admission.errors import BadCharter, BadToken
from shoal.gossip.admission.tokens import MAX_TEXT as MAX_TOKEN
from shoal.gossip.admission.tokens import token_of
from shoal.gossip.membership.colleagues import LEAST_ROUNDS, LEAST_SECONDS
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.run_spec import Combine, RunSettings, Scalar, usual_combine
from shoal.node.errors import BadConfig
from shoal.node.service.schedule import BadSchedule, parse_hours
from shoal.node.storage.home import Home

Text = Annotated[str, msgspec.Meta(max_length=200)]


class RunConfig(RunSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is trained, and how: what peers agree on (gossip/run_spec.py), then this node's own."""

    combine: Combine = "clip"
    task_options: dict[str, Scalar] = msgspec.field(default_factory=dict)
    """Arguments of the task. They may differ between nodes, as a node's own share of the data does."""
    wait_for: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """The first round starts when this many peers are ready, ourselves included, or after `wait_seconds`."""
    wait_seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0
    """How long the first round waits for them at most; 0: twice the patience."""
    alone: Literal["wait", "wait-for-lost", "go-on"] = "wait"
    """Of a node that has trained with others and finds none of them. wait: keep what they agreed on until
    somebody is there. wait-for-lost: unless all of them said goodbye. go-on: train on alone."""
    device: Annotated[str, msgspec.Meta(max_length=32)] = "auto"
    """Where torch computes: auto (a GPU where there is one), cpu, cuda, cuda:1, mps."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    """Torch's threads; one, because several nodes may share a machine."""
    cpu_share: Annotated[float, msgspec.Meta(ge=0.01, le=1)] = 1.0
    """Share of the time in which the trainer computes while it trains: at 0.5 it rests after each step for as
    long as the step took. Who is waited for rests no longer. A training loop of your own is not slowed."""
    memory_gb: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """GB of memory, of node and trainer together, above which this node trains no more until shoal resume. A
    run that cannot fit is refused before the start. 0: no limit."""
    base: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")] = ""
    """The name of the frozen tensors, as shoal status of a node that has them shows it. They are fetched from
    peers where the task has other ones or none. Empty: the task brings them."""
    share_base: bool = True
    """Keep the frozen tensors in a file of this node, from which newcomers without them fetch them."""
    checkpoint_seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 60.0
    """A state of 64 MB or more is saved at most this often, and when the node ends. A node that is killed
    goes on from the last one saved, and fetches a newer one from its peers. 0: every state."""
    keep_states: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """So many earlier states of a run are kept, evenly over its rounds, with signed records of who was in
    which round: for shoal forget --retrain. Each is as large as the model. 0: none."""
    start_from: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    """A file of shoal forget --retrain: a run of which nothing is in this home begins with its state."""
    role: Annotated[str, msgspec.Meta(min_length=1, max_length=32)] = "auto"
    """Of a method with roles, such as a host's. auto: train, and take a role that nobody holds. client: train
    only. host, or the name of one role: hold it, and train nothing."""
    trainer: Literal["spawn", "external"] = "spawn"
    """spawn: the node starts its trainer. external: a process of yours attaches to this node."""

    @property
    def has_trainer(self) -> bool:
        """Whether a trainer attaches; without one the node only helps others."""
        return bool(self.task) or self.trainer == "external"


class GossipConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long peers wait for each other, and what they give to newcomers."""

    patience: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 15.0
    """Seconds to wait at most for a peer that shows nothing. Deadlines below it are learned. A peer whose
    bytes keep coming is waited for as long as they take over a line of 64 kbit/s, and an hour at most."""
    uplink_mbit: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """Mbit per second that your line carries up: the status then says before the first round which codec
    fits the model. 0: what the rounds measure. Nothing is limited by it."""
    state_upload_mbit: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """Mbit per second that this node gives to peers that fetch the model; 0: no limit. Averaging goes first
    in any case."""
    state_fetchers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Peers that fetch the model from this node at the same time; more wait for their turn."""


class TrustConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom this node goes by where peers hold different states: see docs/decisions/07-lineages.md."""

    colleague_rounds: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = LEAST_ROUNDS
    """A peer is a colleague of this node once they have finished so many rounds together,"""
    colleague_minutes: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = LEAST_SECONDS / 60
    """over so many minutes. A node never leaves the state of most of its colleagues for that of others."""


class PrivacyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much this node's data may tell, in a run with --privacy: see docs/privacy.md."""

    budget: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    """Epsilon of all that this node has given, at which it gives nothing more and goes on receiving; 0: no
    limit."""
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5
    """The delta of that epsilon: take less than one over the number of your examples."""


class ScheduleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When this node trains. At other times it helps others and takes part in no round."""

    hours: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """Hours of the day, by the clock of this machine, such as 22-7 or 12-13,22-6:30; empty: always."""
    on_battery: Literal["train", "help"] = "train"
    """help: do not train while the machine runs on its battery."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the engine of the run sits in the network, where it is not native."""

    hivemind_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    """The TCP port of hivemind's own network, on the addresses that the node listens on; 0: a free one."""


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The page, /status.json, /metrics and /healthz. They only show; commands go over a Unix socket."""

    enabled: bool = True
    """Serve them."""
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=253)] = "127.0.0.1"
    """The address to serve on. Anybody who reaches it sees peers and progress: keep to loopback, or put a
    proxy with a password before it."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 4711
    """The TCP port; 0 takes a free one, which `shoal status` tells."""


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written: events to standard output, the log of the program's parts to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "warning"
    """The least important lines of the log that are written."""
    format: Literal["auto", "text", "json"] = "auto"
    """text: a line per event. json: an object per event and per line of the log. auto: text, and a live view
    on a terminal."""
    quiet: bool = False
    """Write only events that a person should see to."""
    file: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    """Write all of it into this file, in the node's folder unless it begins with /."""
    max_mb: Annotated[float, msgspec.Meta(ge=0.001, le=1e6)] = 50.0
    """The size at which the file is put aside and a new one begun."""
    keep: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    """How many of the files that were put aside are left."""


class TestingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For tests only."""

    die_at: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Kill this process by SIGKILL at a point of a round, as in reduce-owner:3."""
    freezes: bool = False
    """Stop it by SIGSTOP there instead."""
    pid: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The process to stop or kill in place of this one, such as a proxy in front of it."""
    trainer: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] = "shoal.node.trainer.process"
    """The module that is run as the trainer; one without torch starts ten times as fast."""


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one node."""

    home: Path
    """The node's folder; not a setting of the file that lies in it."""
    name: Text = ""
    """What this node calls itself in its log; empty: the end of its peer id."""
    join: tuple[Annotated[str, msgspec.Meta(max_length=1000)], ...] = ()
    """Addresses of nodes to dial, host:port or multiaddrs. One that answers is enough, none is needed."""
    invite: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN)] = ""
    """An invite, as shoal invite prints it: it says the run, whom to dial, and by what this node may join."""
    check: bool = True
    """Find out before the start whether task, method and device fit each other. It takes some seconds."""
    network: HostConfig = HostConfig()
    """How the node sits in the network."""
    run: RunConfig = RunConfig()
    """What is trained, and how."""
    gossip: GossipConfig = GossipConfig()
    """How long peers wait for each other."""
    trust: TrustConfig = TrustConfig()
    """Whom this node goes by."""
    privacy: PrivacyConfig = PrivacyConfig()
    """How much this node's data may tell."""
    schedule: ScheduleConfig = ScheduleConfig()
    """When this node trains."""
    averaging: EngineConfig = EngineConfig()
    """How another engine sits in the network."""
    http: HttpConfig = HttpConfig()
    """The page and the figures."""
    log: LogConfig = LogConfig()
    """What is written."""
    testing: TestingConfig = TestingConfig()
    """For tests only."""


def is_for_tests(testing: TestingConfig) -> bool:
    """Whether another trainer than ours is run, which need not know of tasks and methods."""
    return testing.trainer != TestingConfig().trainer


HIDDEN: Final = ("testing",)
"""Sections that the commented file and the lists of settings leave out."""

_FLAGS: Final = {
    "run.name": "--run",
    "run.start_from": "--from",
    "http.port": "--http-port",
    "http.enabled": "--no-http",
    "privacy.budget": "--privacy-budget",
    "privacy.delta": "--privacy-delta",
}


def settings() -> dict[str, msgspec.structs.FieldInfo]:
    """Return every setting by its dotted name, in the order of the file."""
    return dict(_settings(NodeConfig, ""))


def _settings(struct: Any, prefix: str) -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    for field in msgspec.structs.fields(struct):
        if is_struct(field.type):
            yield from _settings(field.type, f"{prefix}{field.name}.")
        elif prefix or field.name != "home":
            yield prefix + field.name, field


def is_struct(type_: object) -> bool:
    """Tell whether a field is a section of its own."""
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def variable(name: str) -> str:
    """Return the environment variable of a setting: run.rounds is SHOAL_RUN_ROUNDS."""
    return "SHOAL_" + name.upper().replace(".", "_")


def load(
    home: Path, flags: Mapping[str, object], environ: Mapping[str, str]
) -> tuple[NodeConfig, dict[str, str]]:
    """Return the settings of a home, and per dotted name where each came from.

    `flags` are by dotted name; the origins read flag, environment, file or default.

    Raises:
        BadConfig: a setting is unknown, of the wrong type or out of range.
    """
    known = settings()
    layers: list[tuple[str, dict[str, tuple[str, object]]]] = [
        ("file", _from_file(Home(home).config_file, known)),
        ("environment", _from_environment(environ, known)),
        ("flag", {name: (_FLAGS.get(name, _flag(name)), value) for name, value in flags.items()}),
    ]
    values: dict[str, object] = {}
    origins = dict.fromkeys(known, "default")
    layers.insert(2, ("invite", _from_invite(layers, known)))
    for origin, layer in layers:
        for name, (place, raw) in layer.items():
            if name == "join" and isinstance(raw, list | tuple) and (invited := layers[2][1].get(name)):
                # Whom an invite names is dialled beside whom its user names.
                raw = dict.fromkeys([*msgspec.convert(invited[1], list[str]), *raw])
                raw = list(raw)
            values[name] = _checked(place, name, known[name], raw, is_text=origin == "environment")
            origins[name] = origin
    config: NodeConfig = _built(NodeConfig, "", values, home=home)
    if origins["run.combine"] == "default":
        run = msgspec.structs.replace(config.run, combine=usual_combine(config.run))
        config = msgspec.structs.replace(config, run=run)
    return config, origins


def _from_invite(
    layers: list[tuple[str, dict[str, tuple[str, object]]]], known: Mapping[str, object]
) -> dict[str, tuple[str, object]]:
    """Return what an invite says of the run; flags come before it, as before all else."""
    place, raw = "", ""
    for _, layer in layers:
        place, given = layer.get("invite", (place, raw))
        raw = given if isinstance(given, str) else ""
    if not raw:
        return {}
    try:
        token = token_of(raw)
    except BadToken as error:
        raise BadConfig(f"{place}: {error}") from None
    # It leaves out what is as everywhere, and of this the default depends on the rest.
    said: dict[str, object] = {"run.combine": RunSettings().combine}
    said |= {f"run.{name}": value for name, value in token.settings.items()}
    said |= {"network.swarm": token.swarm}
    said |= {"join": [f"{address}/p2p/{token.anchor}" for address in token.addresses]}
    if unknown := sorted(said.keys() - known.keys()):
        raise BadConfig(f"{place}: it names {unknown[0]}, which this shoal does not know; update shoal")
    return {name: (f"{place}: {name}", value) for name, value in said.items()}


def _built(struct: Any, prefix: str, values: Mapping[str, object], **more: object) -> Any:
    chosen = dict(more)
    for field in msgspec.structs.fields(struct):
        name = prefix + field.name
        if is_struct(field.type):
            chosen[field.name] = _built(field.type, name + ".", values)
        elif name in values:
            chosen[field.name] = values[name]
    return struct(**chosen)


def _flag(name: str) -> str:
    return "--" + name.rpartition(".")[2].replace("_", "-")


def _from_file(path: Path, known: Mapping[str, object]) -> dict[str, tuple[str, object]]:
    try:
        document = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(
            f"{path}: not TOML: {error}; put that right, or remove the file to use defaults"
        ) from None
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}; make it readable, or choose another --home") from None
    return {name: (f"{path}: {name}", value) for name, value in _leaves(document, "", path, known)}


def _leaves(
    table: Mapping[str, object], prefix: str, path: Path, known: Mapping[str, object]
) -> Iterator[tuple[str, object]]:
    sections = {name.rpartition(".")[0] + "." for name in known if "." in name}
    for key, value in table.items():
        name = prefix + key
        if name in known:
            yield name, value
        elif name + "." in sections and isinstance(value, dict):
            yield from _leaves(value, name + ".", path, known)
        elif name + "." in sections:
            raise BadConfig(f"{path}: {name} is a section; write its keys under [{name}]")
        else:
            raise BadConfig(f"{path}: unknown key {name}; {_nearest(name, known)}")


def _from_environment(
    environ: Mapping[str, str], known: Mapping[str, object]
) -> dict[str, tuple[str, object]]:
    names = {variable(name): name for name in known}
    found: dict[str, tuple[str, object]] = {}
    for key, value in environ.items():
        if key in names:
            found[names[key]] = (f"environment {key}", value)
        elif key.startswith("SHOAL_") and key != "SHOAL_HOME":
            # Unheard, a slip of the pen would train with other settings than its author believes.
            raise BadConfig(f"environment: unknown variable {key}; {_nearest(key, names)}")
    return found


def _nearest(name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        last = name.rpartition(".")[2]
        close = [other for other in known if other.rpartition(".")[2] == last][:1]
    return f"did you mean {close[0]}?" if close else "remove it; `shoal config show` lists all"


def _checked(
    place: str, name: str, field: msgspec.structs.FieldInfo, raw: object, *, is_text: bool
) -> object:
    kind = msgspec.inspect.type_info(field.type)
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    value: object = raw
    if is_text:
        assert isinstance(raw, str)
        value = _from_text(place, kind, raw)
    try:
        checked = msgspec.convert(value, field.type, strict=not is_text)
    except msgspec.ValidationError as error:
        raise BadConfig(
            f"{place}: {_reason(error, kind, raw)}; write {_example(place, name, field)}"
        ) from None
    try:
        if name == "join":
            return tuple(str(parse(address)) for address in checked)
        if name == "network.listen":
            return tuple(str(parse_listen(address)) for address in checked)
        if name == "network.announce":
            return tuple(str(parse(address)) for address in checked)
        if name == "run.charter":
            return canonical(checked)
        if name == "schedule.hours":
            parse_hours(checked)
    except (BadCharter, BadSchedule) as error:
        raise BadConfig(f"{place}: {error}") from None
    except BadAddress as error:
        raise BadConfig(f"{place}: {with_advice(error)}") from None
    return checked


def _from_text(place: str, kind: msgspec.inspect.Type, text: str) -> object:
    if isinstance(kind, msgspec.inspect.VarTupleType):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(kind, msgspec.inspect.DictType):
        return scalars([part for part in text.split(",") if part.strip()], place)
    return text


def scalars(pairs: list[str], place: str) -> dict[str, Scalar]:
    """Read ``key=value`` texts; a value is a number or true or false where it looks like one.

    Raises:
        BadConfig: a text has no ``=``.
    """
    found: dict[str, Scalar] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise BadConfig(f"{place}: {pair!r} is no setting; write key=value, such as lr=0.1")
        found[key.strip()] = _scalar(value.strip())
    return found


def _scalar(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _reason(error: msgspec.ValidationError, kind: msgspec.inspect.Type, raw: object) -> str:
    if isinstance(kind, msgspec.inspect.LiteralType):
        return f"{raw!r} is not one of {', '.join(sorted(map(str, kind.values)))}"
    text = str(error).replace("`", "")
    return f"{text[:1].lower()}{text[1:]}, found {str(raw)[:80]!r}"


def _example(place: str, name: str, field: msgspec.structs.FieldInfo) -> str:
    """Say how a right value looks in the place where the wrong one stood."""
    value = toml_value(default_of(field))
    if place.startswith("--"):
        return f"{place} {value}"
    return f"{variable(name)}={value}" if place.startswith("environment") else f"{name} = {value}"


def default_of(field: msgspec.structs.FieldInfo) -> object:
    """Return what a setting is where nobody set it."""
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


def toml_value(value: object) -> str:
    """Return a value as TOML writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
        case tuple() | list():
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
        case str():
            return msgspec.json.encode(value).decode()
        case _:
            return str(value)
