"""Policy: how a run protects and combines what its methods reduce, read from its run spec in one place.

    sender      clip -> noise -> quantise -> mask    in this order; a run may leave out some
    receiver    sum | each                           of which only the sum is seen, or every contribution

A person chooses by flat fields of `RunSettings`, one flag each. Here they become steps, and what does not
go together is refused with what to change, before anything is sent. A method opts out of nothing.
"""

from typing import Final, Literal, TypeAlias

import msgspec

from shoal.gossip.run_spec import Combine, PrivacyKind, RunSettings

Step: TypeAlias = Literal["clip", "noise", "quantise", "mask"]
"""What a sender does to a contribution. clip, noise: see privacy.py. quantise: by the codec,
or under masks on a grid."""
Sees: TypeAlias = Literal["sum", "each"]
"""What a receiver needs of contributions to combine them."""
EXACT_CODEC: Final = "float32"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a run does with contributions."""

    codec: str = EXACT_CODEC
    secure: bool = False
    combine: Combine = "mean"
    privacy: PrivacyKind = "none"

    @property
    def steps(self) -> tuple[Step, ...]:
        """What a sender does, in this order."""
        first: tuple[Step, ...] = ("clip", "noise") if self.privacy in ("local", "distributed") else ()
        if self.secure:
            return *first, "quantise", "mask"
        return first if self.codec == EXACT_CODEC else (*first, "quantise")

    @property
    def sees(self) -> Sees:
        """What the way of combining has to see."""
        return "sum" if self.combine == "mean" else "each"

    @property
    def conflict(self) -> str:
        """Say what does not go together and what to change; empty where all does."""
        if "mask" in self.steps and self.sees == "each":
            return (
                f"secure: combine {self.combine} compares what peers give, and nobody sees it: take"
                " --combine mean, or leave out --secure"
            )
        if "mask" in self.steps and self.codec != EXACT_CODEC:
            return (
                f"secure: codec {self.codec} has scales of each peer's own, which do not add up: leave out"
                " --codec, and say with --grid-bits how fine numbers are"
            )
        if self.privacy == "distributed" and not self.secure:
            return (
                "privacy distributed: a node's share of the noise hides nothing where its change is seen: add"
                " --secure, or take --privacy local"
            )
        if self.privacy == "local" and self.secure:
            return (
                "privacy local: under masks only the sum is seen, and shares of the noise are enough: take"
                " --privacy distributed, or leave out --secure"
            )
        if self.privacy != "none" and self.combine in ("trimmed", "median"):
            return (
                f"privacy: combine {self.combine} takes numbers from the edge, where noise is largest: take"
                " --combine mean"
            )
        return ""


def policy_of(run: RunSettings) -> Policy:
    """Return the policy of a run."""
    return Policy(codec=run.codec, secure=run.secure, combine=run.combine, privacy=run.privacy)
