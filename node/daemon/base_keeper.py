"""BaseKeeper: between a trainer without the frozen base, the member that fetches it, and the disk.

    trainer  --FetchBase-->  map the .part file --FetchBase--> member
    member   --BaseArriving, first--> keep the leaves       --BaseFetched--> rename --path--> trainer
    attached with a base whose file lies here --HoldBase--> member, which hands it out

The disk is used in a thread, one thing after the other. What is mapped counts as memory of this process until
the pages are let go, so they are, now and again; they stay in the cache of the system.
"""

import logging
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from shoal.gossip.member.commands import BaseArriving, BaseFetched, FetchBase, HoldBase
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.gossip.state.base_blocks import BaseBlocks, NoBlocks
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.storage.base_file import BaseFile

log = logging.getLogger(__name__)

LET_GO_EVERY: Final = 2.0
"""Seconds after which the pages of a mapped base are let go."""
After = Callable[[], None]


class BaseKeeper:
    """The base of a node's run, on its disk. See the module's docstring."""

    def __init__(self, folder: Path, around: Surroundings) -> None:
        """`folder`: where the file lies. `around`: the node."""
        self._folder, self._command, self._problem = folder, around.command, around.problem
        self._file: BaseFile | None = None
        self._base: BaseBlocks | None = None
        """What is mapped."""
        self._has_leaves = False
        self._ready: Callable[[str, str], None] = lambda path, reason: None
        self._put, self._take = trio.open_memory_channel[Callable[[], After]](1000)

    def fetch(self, name: bytes, specs: Sequence[TensorSpec], ready: Callable[[str, str], None]) -> None:
        """Fetch a base; `ready(path, reason)` is told where it lies, or why it never will."""
        self._ready = ready
        if self._base is not None and self._base.name == name and self._file is not None:
            # The trainer was started anew meanwhile.
            if self._file.is_whole:
                ready(str(self._file.path), "")
            return
        try:
            file = BaseFile(self._folder, name, specs)
        except NoBlocks as error:
            ready("", str(error))
            return
        self._problem("base", "the frozen base is fetched from peers")
        self._put.send_nowait(lambda: self._open(file))

    def hold(self, spec: RunSpec) -> None:
        """Hand out the base of a run, if a file of it lies here."""
        if not spec.pinned or (self._base is not None and self._base.name == spec.pinned_hash):
            return
        try:
            file = BaseFile(self._folder, spec.pinned_hash, spec.pinned)
        except NoBlocks:
            return
        self._put.send_nowait(lambda: self._hold(file))

    def notice(self, notice: Any) -> None:
        """Take note of what the member says."""
        base, file = self._base, self._file
        if base is None or file is None:
            return
        match notice:
            case BaseArriving(name=base.name):
                n = base.tree.n_chunks
                here, givers = n - notice.missing, len(notice.givers)
                text = f"the frozen base is fetched: {here} of {n} blocks are here, from {givers} peers"
                self._problem("base", text)
                if not self._has_leaves:
                    self._has_leaves = True
                    self._put.send_nowait(lambda: self._keep(file, notice.leaves))
            case BaseFetched(name=base.name):
                log.info("the frozen base is here, from %d peers", len(notice.givers))
                self._put.send_nowait(lambda: self._finish(file, base))

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._let_go)
            async for job in self._take:
                try:
                    after = await trio.to_thread.run_sync(job)
                except OSError as error:
                    self._problem("base", "")
                    self._base = None
                    self._ready("", f"the frozen base cannot be kept in {self._folder}: {error.strerror}")
                    continue
                after()

    # --- in the thread ----------------------------------------------------------------------------

    def _open(self, file: BaseFile) -> After:
        whole = file.open()
        base = whole or file.begin()

        def opened() -> None:
            self._file, self._base, self._has_leaves = file, base, bool(base.leaves)
            if whole is not None:
                self._is_here(file)
            self._command(HoldBase(base) if whole is not None else FetchBase(base))

        return opened

    def _hold(self, file: BaseFile) -> After:
        base = file.open()

        def opened() -> None:
            if base is not None:
                self._file, self._base = file, base
                self._command(HoldBase(base))

        return opened

    def _keep(self, file: BaseFile, leaves: bytes) -> After:
        file.keep_leaves(leaves)
        return lambda: None

    def _finish(self, file: BaseFile, base: BaseBlocks) -> After:
        file.finish(base)
        return lambda: self._is_here(file)

    # --- inside -----------------------------------------------------------------------------------

    def _is_here(self, file: BaseFile) -> None:
        self._problem("base", "")
        self._ready(str(file.path), "")

    async def _let_go(self) -> None:
        while True:
            await trio.sleep(LET_GO_EVERY)
            mapped = self._base.data.obj if self._base is not None else None
            if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise"):
                mapped.madvise(mmap.MADV_DONTNEED)
