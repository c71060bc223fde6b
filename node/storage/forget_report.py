"""Forget report: evidence of forgetting that a person can show, signed by the node, and what it is not.

forget-report.json      {"document": ..., "public_key": hex, "signature": hex}
signed                  "shoal/forget-report/1" 00 | BLAKE2b-256(document as it stands, bytes of JSON)
"""

from typing import Final

import msgspec
from nacl.signing import SigningKey

from shoal.crypto.keys import peer_id_of
from shoal.methods.learning.forgetting import Note, Request
from shoal.node import signed_document
from shoal.node.errors import BadConfig
from shoal.node.signed_document import BadDocument
from shoal.node.storage.forget_file import Forgotten

DOMAIN: Final = b"shoal/forget-report/1\x00"
NOT_PROMISED: Final = (
    "The figures are this node's own, on its own examples. The signature says who reports them, not that they"
    " are true.",
    "Bad accuracy on the forgotten examples does not prove that nothing of them is left in the model.",
    "Single examples are hard to unlearn: where other peers have the same patterns, the model may know them"
    " again after some rounds. Only training anew without them is exact.",
    "Peers may keep older states and files of the model. Nobody can make them delete these.",
    "The examples themselves lie where the task reads them. They are left out of training, and not deleted.",
    "What each peer sent was not seen by others, but the common model changed for all to see.",
)


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed."""

    peer: str
    """The node's peer id."""
    run: str
    """The name and id of the run that the rounds were of; empty where the node no longer knows."""
    request: Request
    rounds: tuple[Note, ...]
    not_promised: tuple[str, ...] = NOT_PROMISED


def sign(key: SigningKey, found: Forgotten, run: str = "") -> bytes:
    """Return a signed report as JSON."""
    peer = peer_id_of(bytes(key.verify_key))
    document = Document(peer=peer, run=run, request=found.request, rounds=found.notes)
    return signed_document.sign(key, DOMAIN, msgspec.json.encode(document))


def check(data: bytes) -> Document:
    """Return the document of a report, whose signature is its peer's.

    Raises:
        BadConfig: it is no report, or was altered.
    """
    try:
        peer, text = signed_document.opened(DOMAIN, data)
        document = msgspec.json.decode(text, type=Document)
    except (msgspec.MsgspecError, BadDocument) as error:
        raise BadConfig(f"this is no report that its peer signed ({error}); ask for the file anew") from None
    if peer != document.peer:
        raise BadConfig("this report names another peer than the one that signed it; ask for the file anew")
    return document


def text_of(document: Document) -> str:
    """Return a report for people."""
    rounds, request = document.rounds, document.request
    unlearned = [note for note in rounds if note.unlearned]
    lines = [f"Report of {document.peer} on what it was asked to forget: {wish(request)}."]
    if document.run:
        lines.append(f"Run: {document.run}.")
    if not rounds:
        lines.append("No round was finished since. There is nothing to show yet.")
    else:
        first, last = rounds[0], rounds[-1]
        lines += [
            f"Rounds that unlearned: {len(unlearned)} of {request.rounds}. Rounds without these examples"
            f" since: {len(rounds) - len(unlearned)}.",
            f"Own examples to forget: {first.forgotten}. Accuracy on them: {first.before:.3f} before round"
            f" {first.round}, {last.after:.3f} after round {last.round}.",
        ]
        if first.kept_before is not None and last.kept_after is not None:
            lines.append(
                f"On the node's other examples: {first.kept_before:.3f} before, {last.kept_after:.3f} after."
            )
        lines += ["", "round  unlearned  forgotten before  after  peers  state before        state after"]
        lines += [
            f"{note.round:5}  {'yes' if note.unlearned else 'no':9}  {note.before:16.3f}  {note.after:5.3f}"
            f"  {len(note.peers):5}  {note.state_before[:16]}  {note.state_after[:16]}"
            for note in rounds
        ]
    return "\n".join(
        [*lines, "", "What this does not promise:", *(f"- {line}" for line in document.not_promised)]
    )


def wish(request: Request) -> str:
    """Return a request in words."""
    parts = []
    if request.peer_data:
        parts.append("all examples of this node")
    if request.classes:
        parts.append("its examples of class " + ", ".join(map(str, request.classes)))
    if request.places:
        parts.append(f"its examples with a trigger of {len(request.places)} numbers")
    return " and ".join(parts)
