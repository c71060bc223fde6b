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
    masker: str = ""
    """The method that asks for masks by itself, if it does; then its sums are secure in every run."""
    combine: Combine = "mean"
    privacy: PrivacyKind = "none"

    @property
    def steps(self) -> tuple[Step, ...]:
        """What a sender does, in this order."""
        first: tuple[Step, ...] = ("clip", "noise") if self.privacy in ("local", "distributed") else ()
        if self.is_masked:
            return *first, "quantise", "mask"
        return first if self.codec == EXACT_CODEC else (*first, "quantise")

    @property
    def sees(self) -> Sees:
        """What the way of combining has to see."""
        return "sum" if self.combine == "mean" else "each"

    @property
    def is_masked(self) -> bool:
        """Whether contributions are masked."""
        return self.secure or bool(self.masker)

    @property
    def conflict(self) -> str:
        """Say what does not go together and what to change; empty where all does."""
        who = "secure" if self.secure else self.masker
        way_out = "leave out --secure" if self.secure else "another --method"
        # A method's own grid cuts every number, which is what an open run has clip for.
        if self.is_masked and self.sees == "each" and (self.secure or self.combine != "clip"):
            return (
                f"{who}: combine {self.combine} compares what peers give, and nobody sees it: take"
                f" --combine mean, or {way_out}"
            )
        if self.is_masked and self.codec != EXACT_CODEC:
            how = "--grid-bits" if self.secure else "--option bits"
            return (
                f"{who}: codec {self.codec} has scales of each peer's own, which do not add up: leave out"
                f" --codec, and say with {how} how fine numbers are"
            )
        if self.masker and self.privacy != "none":
            return (
                f"privacy: {self.masker} fixes the grid of its sums, on which noise has no room: take"
                " --method fedavg with --secure, or leave out --privacy"
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


def policy_of(run: RunSettings, *, masks: bool = False) -> Policy:
    """Return the policy of a run. `masks`: whether its method asks for masks by itself."""
    masker = run.method if masks else ""
    return Policy(codec=run.codec, secure=run.secure, masker=masker, combine=run.combine, privacy=run.privacy)
