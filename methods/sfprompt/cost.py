"""What SFPrompt costs a client in a round, beside split learning and FedAvg of the same model.

    SFPrompt    epochs · gamma · n · (bytes of a + bytes of b + bytes of g)   +   2 · 4 · (prompt + tail)
    FedAvg      2 · 4 · params

Compute is counted as in methods/mpsl/estimate.py: multiplications with a parameter. Front and tail are passed
once, and the tail back twice; the front is frozen, so nothing goes back through it.
"""

from math import prod

from shoal.methods.mpsl.estimate import Cost, Sizes, fedavg_cost, short, split_cost
from shoal.methods.mpsl.tokens import BYTES, Number, token_bytes


def sfprompt_cost(
    sizes: Sizes, prompt: int, number: Number, gamma: float, local_epochs: int, epochs: int
) -> Cost:
    """Return the cost of a client and a round. `sizes.cut`: with the prompt; `prompt`: its numbers."""
    back = BYTES["float32"] if number == "float32" else BYTES["float16"]
    per_example = token_bytes(sizes.cut, number) + (back + 4) * prod(sizes.back)
    kept = epochs * gamma * sizes.examples
    tokens = prod(sizes.cut[:-1])
    passes = local_epochs * sizes.examples + kept
    work = passes * (sizes.front * tokens + 3 * sizes.head)
    return Cost(kept * per_example + 2 * 4 * (prompt + sizes.head), work)


def estimate(sizes: Sizes, prompt: int, number: Number, gamma: float, local_epochs: int, epochs: int) -> str:
    """Say in one line what a client's round costs beside split learning and FedAvg."""
    costs = {
        "sfprompt": sfprompt_cost(sizes, prompt, number, gamma, local_epochs, epochs),
        "split learning": split_cost(sizes, number, head="client"),
        "FedAvg": fedavg_cost(sizes),
    }
    said = ", ".join(
        f"{name} {short(cost.bytes)}B and {short(cost.multiplications)} multiplications"
        for name, cost in costs.items()
    )
    return f"a round over {sizes.examples} examples costs this client about: {said}"
