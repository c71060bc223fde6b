"""Top: a node's status over a whole terminal, drawn by Textual.

    Source --every second, in a thread--> Status, events --> head, peers, rounds, events

All that is drawn are `Text`s: a peer's words are never taken for markup.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import ClassVar, Final, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import (
    DataTable,
    Footer,
    Input,
    ProgressBar,
    RichLog,
    Sparkline,
    Static,
    TabbedContent,
    TabPane,
)

from shoal.crypto.keys import PeerId, short
from shoal.node.errors import UserError
from shoal.node.status import PeerStatus, RoundStatus, Status
from shoal.node.text import duration, figure, printable, size
from shoal.node.web.client import KeptEvent

EVERY: Final = 1.0
"""Seconds between two looks."""
MAX_EVENTS: Final = 500
"""Lines of events that are kept."""
PEER_COLUMNS: Final = ("peer", "link", "does", "round", "state", "seen", "sent", "received", "address")
ROUND_COLUMNS: Final = ("round", "ended", "outcome", "loss", "took", "sent", "who")
QUIET: Final = ("starting", "finished", "stopping")
"""Phases in which it is no news that nobody is linked."""
LINK_STYLES: Final = {"direct": "green", "relayed": "yellow", "none": "dim"}
OUTCOME_STYLES: Final = {"averaged": "green", "alone": "yellow", "failed": "red"}
LEVEL_STYLES: Final = {"warning": "yellow", "error": "bold red"}


class Source(Protocol):
    """Where the application gets what it draws. Both block, and may raise a `UserError`."""

    def status(self) -> Status:
        """Return the status now."""
        ...

    def events(self, after: int) -> list[KeptEvent]:
        """Return the events since one."""
        ...


def head_line(status: Status) -> Text:
    """Return two lines: who this is and what it does, and with how many."""
    linked = sum(peer.link != "none" for peer in status.peers)
    same = sum(peer.state_hash == status.state_hash for peer in status.peers if peer.state_hash)
    words = [status.name or short(PeerId(status.peer_id))]
    if status.run is not None:
        of = f" of {status.run.rounds}" if status.run.rounds else ""
        words.append(f"round {status.round}{of}")
        words += [f"{name} {figure(value)}" for name, value in list(status.metrics.items())[:2]]
        words.append(f"loss {figure(status.loss)}")
    moved = f"{size(status.bytes_sent)} out, {size(status.bytes_received)} in"
    swarm = [f"{linked} peers linked, {same} hold this model", moved, f"up {duration(status.uptime_seconds)}"]
    if status.calls is not None:
        me = status.peer_id
        names = [
            f"{role} {' '.join('this node' if each == me else short(PeerId(each)) for each in peers)}"
            for role, peers in status.calls.hosts.items()
            if peers
        ]
        swarm.insert(1, f"{status.calls.per_second:.1f} calls a second" + ", ".join(["", *names]))
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f" {printable(status.phase)} ", style="reverse")
    text.append(" " + printable(" · ".join(words)) + "\n")
    return text.append(" · ".join(swarm), style="dim")


def notice(status: Status) -> Text:
    """Return what a person should know first; empty where all is well."""
    lines = list(status.problems)
    if not any(peer.link != "none" for peer in status.peers) and status.phase not in QUIET:
        lines.append(
            f"This node is alone. On another device: {status.join_command or 'nobody can reach it yet'}"
        )
    if status.refused_lineages:
        other = status.refused_lineages[0]
        lines.append(f"The swarm is split: {other.n_peers} peers hold another model, of round {other.round}")
    if status.phase == "finished":
        lines.append(f"The run is finished. Save the model: shoal model save model.safetensors{status.home}")
    return Text("\n".join(printable(line) for line in lines[:4]), style="bold yellow")


def progress_line(status: Status) -> tuple[str, float | None]:
    """Return what is under way, and how much of it is done."""
    if status.fetch is not None:
        return f"fetching the model of round {status.fetch.round}", status.fetch.share_done
    if status.exchange is not None:
        members = status.exchange.members
        done = sum(each.is_done for each in members)
        lost = sum(each.is_lost for each in members)
        gone = f", {lost} lost" if lost else ""
        return f"exchanging: {done} of {len(members)} members have all{gone}", status.exchange.share_done
    return "nothing is exchanged now", None


def peer_cells(status: Status, peer: PeerStatus) -> list[Text]:
    """Return one row of the table of peers."""
    same = peer.state_hash and peer.state_hash == status.state_hash
    other_run = peer.run and status.run is not None and not status.run.run_id.startswith(peer.run)
    does = "helps" if peer.role == "helper" else f"run {peer.run_name}" if other_run else peer.phase
    cells = (
        (short(PeerId(peer.peer)), ""),
        ("not linked" if peer.link == "none" else peer.link, LINK_STYLES.get(peer.link, "")),
        (does, ""),
        (str(peer.round), ""),
        (peer.state_hash[:6] or "-", "green" if same else ""),
        (duration(peer.age_seconds), ""),
        (size(peer.bytes_sent), ""),
        (size(peer.bytes_received), ""),
        (peer.address or "-", "dim"),
    )
    return [Text(printable(text), style=style) for text, style in cells]


def round_cells(status: Status, done: RoundStatus) -> list[Text]:
    """Return one row of the table of rounds."""
    mine = short(PeerId(status.peer_id))
    who = ["this node" if each == mine else each for each in done.members]
    has_loss = done.outcome in ("averaged", "alone")
    cells = (
        (str(done.round + 1), ""),
        (time.strftime("%H:%M:%S", time.localtime(done.finished_at)), ""),
        (done.outcome, OUTCOME_STYLES.get(done.outcome, "")),
        (figure(done.loss) if has_loss else "-", ""),
        (duration(done.work_seconds + done.matchmaking_seconds + done.exchange_seconds), ""),
        (size(done.bytes_sent), ""),
        (done.reason or " ".join(who) or "-", ""),
    )
    return [Text(printable(text), style=style) for text, style in cells]


class Top(App[None]):
    """The application. `show` draws a status; `look` fetches one first."""

    TITLE = "shoal"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { overflow: hidden; } #tabs { height: 1fr; } TabPane { padding: 0; }
    #head { height: 2; } #notice { height: auto; max-height: 6; }
    #way { height: 1; layout: horizontal; } #doing { width: 1fr; }
    Sparkline { height: 2; } #find { display: none; } #find.on { display: block; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("p", "pause", "Pause"),
        Binding("slash", "find", "Find a peer"),
        Binding("j", "join", "Join command"),
        Binding("1", "tab('peers')", "Peers"),
        Binding("2", "tab('rounds')", "Rounds"),
        Binding("3", "tab('events')", "Events"),
        Binding("escape", "leave", "Back", show=False),
    ]

    def __init__(self, source: Source, first: Status, *, every: float | None = EVERY) -> None:
        """`every`: seconds between two looks; None: never by itself."""
        super().__init__()
        self._source, self._status, self._every = source, first, every
        self._seen = 0
        """The last event that was told."""
        self._words = ""
        self._is_paused = self._shows_join = False

    def compose(self) -> ComposeResult:
        """See `textual.app.App`."""
        yield Static(id="head", markup=False)
        yield Static(id="notice", markup=False)
        yield Static(id="doing", markup=False)
        yield ProgressBar(id="way", total=1.0, show_eta=False)
        yield Sparkline([], id="course")
        yield Input(placeholder="part of a peer's id, address or state; Esc ends it", id="find")
        with TabbedContent(id="tabs"):
            with TabPane("Peers", id="peers"):
                yield DataTable(id="peer-table", cursor_type="row", zebra_stripes=True)
            with TabPane("Rounds", id="rounds"):
                yield DataTable(id="round-table", cursor_type="row", zebra_stripes=True)
            with TabPane("Events", id="events"):
                yield RichLog(id="log", max_lines=MAX_EVENTS, wrap=True)
        yield Footer()

    async def on_mount(self) -> None:
        """See `textual.app.App`."""
        self.query_one("#peer-table", DataTable).add_columns(*PEER_COLUMNS)
        self.query_one("#round-table", DataTable).add_columns(*ROUND_COLUMNS)
        self.show(self._status, [])
        self.query_one("#peer-table").focus()
        await self.look()
        if self._every is not None:
            self.set_interval(self._every, self.look)

    async def look(self) -> None:
        """Fetch the status and draw it, unless it is paused; a node that is gone is said so."""
        if self._is_paused:
            return
        try:
            status, events = await asyncio.to_thread(self._ask)
        except UserError as error:
            self._say(Text(printable(str(error)), style="bold red"))
            return
        self.show(status, events)

    def _ask(self) -> tuple[Status, list[KeptEvent]]:
        return self._source.status(), self._source.events(self._seen)

    def show(self, status: Status, events: Sequence[KeptEvent]) -> None:
        """Draw a status, and add events."""
        self._status = status
        self.query_one("#head", Static).update(head_line(status))
        said = [Text("paused: p goes on", style="bold")] if self._is_paused else []
        if self._shows_join:
            said.append(Text(printable(status.join_command) or "nobody can reach this node yet"))
        self._say(Text("\n").join(each for each in (*said, notice(status)) if each.plain))
        doing, share = progress_line(status)
        self.query_one("#doing", Static).update(Text(doing, style="dim"))
        self.query_one("#way", ProgressBar).update(progress=share or 0.0)
        self.query_one("#way", ProgressBar).display = share is not None
        self.query_one("#course", Sparkline).data = _course(status)
        self._fill("#peer-table", [peer_cells(status, peer) for peer in self._peers()])
        self._fill("#round-table", [round_cells(status, done) for done in reversed(status.history)])
        for event in events:
            self._seen = event.id
            self._write_event(event)

    def _say(self, text: Text) -> None:
        self.query_one("#notice", Static).update(text)
        self.query_one("#notice", Static).display = bool(text.plain)

    def _peers(self) -> list[PeerStatus]:
        words = self._words.lower()
        found = [
            peer
            for peer in self._status.peers
            if not words
            or any(words in each.lower() for each in (peer.peer, peer.address, peer.state_hash, peer.link))
        ]
        return sorted(
            found, key=lambda peer: (peer.link == "none", peer.role == "helper", -peer.round, peer.peer)
        )

    def _fill(self, name: str, rows: list[list[Text]]) -> None:
        """Put rows into a table, and leave the reader where he was."""
        table = self.query_one(name, DataTable)
        row, top = table.cursor_row, table.scroll_y
        table.clear()
        table.add_rows(rows)
        table.move_cursor(row=min(row, max(0, len(rows) - 1)), animate=False, scroll=False)
        table.scroll_to(y=top, animate=False)

    def _write_event(self, event: KeptEvent) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(event.told.time))
        style = LEVEL_STYLES.get(event.told.level, "")
        # What a node says when it is up has several lines; the first names it.
        said = printable(event.told.text.split("\n")[0])
        self.query_one("#log", RichLog).write(Text(f"{clock}  {said}", style=style))

    # --- keys -------------------------------------------------------------------------------------

    def action_pause(self) -> None:
        """Stop to look, or go on."""
        self._is_paused = not self._is_paused
        self.show(self._status, [])

    def action_tab(self, name: str) -> None:
        """Show one of the three tables."""
        self.query_one("#tabs", TabbedContent).active = name
        self.query_one({"peers": "#peer-table", "rounds": "#round-table", "events": "#log"}[name]).focus()

    def action_join(self) -> None:
        """Say what to type on another device, or no more."""
        self._shows_join = not self._shows_join
        self.show(self._status, [])

    def action_find(self) -> None:
        """Ask for words that a peer must have."""
        field = self.query_one("#find", Input)
        field.add_class("on")
        field.focus()

    def action_leave(self) -> None:
        """Show all peers again."""
        field = self.query_one("#find", Input)
        field.value = ""
        field.remove_class("on")
        self.action_tab("peers")

    def on_input_changed(self, changed: Input.Changed) -> None:
        """See `textual.widgets.Input`."""
        self._words = changed.value
        self._fill("#peer-table", [peer_cells(self._status, peer) for peer in self._peers()])

    def on_input_submitted(self) -> None:
        """See `textual.widgets.Input`."""
        self.action_tab("peers")


def _course(status: Status) -> list[float]:
    """Return the first metric, or the loss, of the rounds that are remembered."""
    rounds = [done for done in status.history if done.outcome in ("averaged", "alone")]
    name = next(iter(status.metrics), "")
    values = [done.metrics.get(name) if name else done.loss for done in rounds]
    return [value for value in values if value is not None and abs(value) < float("inf")]
