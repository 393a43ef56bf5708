"""What an engine checks of requests before it queues them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from fastsvs.errors import UserError
from fastsvs.rollout.engine import Request


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds on the requests that an engine can serve."""

    vocabulary: int
    """Number of token ids."""
    tokens: int
    """Longest prompt with its response, in tokens."""
    tokens_of: str
    """Name of the bound `tokens`, for messages."""
    temperature: Callable[[float], bool]
    """Function that tells whether the engine can sample at a temperature."""
    temperatures: str
    """Words for the temperatures at which it can, for messages."""

    def check(self, requests: Sequence[Request], pending: Collection[str]) -> None:
        """Check new requests beside those `pending`. Raises UserError for one that cannot be served, ValueError for two
        with one key."""
        keys = [*pending, *(request.key for request in requests)]
        if len(set(keys)) < len(keys):
            raise ValueError("request keys must be unique among those pending")
        for request in requests:
            if faults := self._faults(request):
                raise UserError(f"request {request.key!r}: {'; '.join(faults)}")

    def _faults(self, request: Request) -> list[str]:
        sampling, prompt = request.sampling, request.prompt_ids
        checks = (
            (not prompt, "the prompt is empty"),
            (request.samples < 1, f"samples={request.samples} must be at least 1"),
            (request.first_sample < 0, f"first_sample={request.first_sample} must be at least 0"),
            (sampling.max_tokens < 1, f"max_tokens={sampling.max_tokens} must be at least 1"),
            (
                not self.temperature(sampling.temperature),
                f"temperature={sampling.temperature} must {self.temperatures}",
            ),
            (not 0 < sampling.top_p <= 1, f"top_p={sampling.top_p} must lie in (0, 1]"),
            (
                len(prompt) + sampling.max_tokens > self.tokens,
                f"a prompt of {len(prompt)} tokens and max_tokens={sampling.max_tokens} go over {self.tokens_of}"
                f"{self.tokens}",
            ),
            (
                not all(0 <= token < self.vocabulary for token in prompt),
                f"the prompt has token ids outside the model's vocabulary of {self.vocabulary}",
            ),
        )
        return [fault for wrong, fault in checks if wrong]
