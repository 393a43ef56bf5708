"""Figures of a rehearsed job, and whether its phases grow as its data does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.rehearsal.phases import Phase
from bench.report import Row

PROVIDER = "fastsvs"
ALLOWED = 1.3
"""Growth of what a unit of data costs, from a size to twice the size: the whole may grow 2.6 times."""
FLOORS = {"s CPU": 0.5, "bytes": 4 << 20}
"""Excess over what is allowed that counts as none, by unit: what the clock, the machine, and the answers to a rollout
beside the phase add to a step."""
UPDATE = "update"
"""Last phase of a step."""
RARE = ("resume", "save", "evaluation")
"""Phases that are not part of a step's row: all of them count, the resumption of a new run excepted."""
EVALUATING = "while nothing but responses is on its way"
"""Name of what evaluations show: all that rank 0 does for a response that is not learned from."""

Data = Literal["learned", "sampled", "none"]
"""Data that a phase grows with: tokens learned from, tokens sampled, or none but the model's."""
DATA: dict[str, Data] = {
    "rollout": "sampled",
    "generation": "sampled",
    "samples written": "sampled",
    "credit": "sampled",
    "diagnostics": "learned",
    UPDATE: "learned",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one start of a job, as rank 0 saw it."""

    metrics: Mapping[str, float]
    """Row of metrics.jsonl."""
    sample_bytes: int
    """Size of the step's samples in the run folder."""
    phases: Sequence[Phase]
    """Phases from the end of the update before to the end of this one's."""
    last: bool = False
    """True for the last step of the job."""

    def data(self, kind: Data) -> float:
        """Return the amount of the step's data, in tokens; 1 where there is none."""
        if kind == "sampled":
            return self.metrics["throughput/response_tokens_per_second"] * self.metrics["time/step"]
        if kind == "learned":
            return self.metrics["throughput/trained_tokens_per_second"] * self.metrics["time/update"]
        return 1.0


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a job, as rank 0 saw it."""

    phases: Sequence[Phase]
    steps: Sequence[Step]
    """Its complete steps."""

    @property
    def warm(self) -> Sequence[Step]:
        """Return its steps without the first, in which connections are made and caches filled, and without the last of
        the job, which publishes no weights and begins no rollout for a next one."""
        return [step for step in self.steps[1:] if not step.last]


@dataclass(frozen=True, slots=True)
class Cost:
    """The costs of a phase, over all times that count."""

    total: float
    data: float
    times: int

    @property
    def each(self) -> float:
        """Return the cost of one time."""
        return self.total / self.times

    @property
    def of_data(self) -> float:
        """Return the cost of a unit of data."""
        return self.total / self.data


Costs = dict[tuple[str, str], Cost]
"""Cost by name of the phase and unit."""


def start_of(
    phases: Sequence[Phase], metrics: Mapping[int, Mapping[str, float]], samples: Mapping[int, int], last: int
) -> Start:
    """Return one start of a job, whose newest complete step has the number `last`. `metrics` and the bytes of `samples`
    are by step, of all steps of the job."""
    ends = [index + 1 for index, phase in enumerate(phases) if phase.name == UPDATE]
    first = last - len(ends) + 1
    parts = [phases[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    end = max(metrics)
    steps = [Step(metrics[step], samples[step], part, step == end) for step, part in enumerate(parts, first)]
    return Start(phases, steps)


def costs(starts: Sequence[Start]) -> Costs:
    """Return what each phase took on rank 0."""
    taken: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for step in (step for start in starts for step in start.warm):
        found = added(phase for phase in step.phases if phase.name not in RARE)
        found["generation", "s"] = step.metrics["time/generation"]
        found["weights sent", "bytes"] = step.metrics.get("sync/bytes", 0.0)
        found["samples written", "bytes"] = step.sample_bytes
        for (name, unit), value in found.items():
            taken[name, unit].append((value, step.data(DATA.get(name, "none"))))
    for number, start in enumerate(starts):
        for phase in start.phases:
            if phase.name in RARE and (number or phase.name != "resume"):
                for key, value in added([phase]).items():
                    taken[key].append((value, 1.0))
    return {
        key: Cost(sum(value for value, _ in pairs), sum(data for _, data in pairs), len(pairs))
        for key, pairs in taken.items()
    }


def added(phases: Iterable[Phase]) -> dict[tuple[str, str], float]:
    """Return what the phases took together, by name and unit."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for phase in phases:
        found[phase.name, "s"] += phase.seconds
        found[phase.name, "s CPU"] += phase.processor
        found[phase.name, "bytes"] += phase.received
    return found


def growth(before: Costs, after: Costs) -> Iterator[Row]:
    """Yield by how much the cost of each phase for a unit of its data grew from one size to the other."""
    for (name, unit), cost in sorted(after.items()):
        earlier = before.get((name, unit))
        if earlier and earlier.total:
            judged = ALLOWED if unit in FLOORS else None
            data = f"for each unit of its data: {DATA.get(name, 'none')}"
            ratio = cost.of_data / earlier.of_data
            yield Row("from one size to twice", PROVIDER, f"{name}: growth of {unit}", ratio, "x", judged, data)


def too_steep(before: Costs, after: Costs) -> list[str]:
    """Return a sentence for each phase that grew faster than its data. Seconds of the clock are not judged, since other
    work on the machine moves them."""
    found = []
    for (name, unit), cost in sorted(after.items()):
        earlier = before.get((name, unit))
        if unit not in FLOORS or earlier is None:
            continue
        allowed = ALLOWED * earlier.of_data * cost.data
        if cost.total - allowed > FLOORS[unit] * cost.times:
            found.append(
                f"phase {name!r} took {cost.each:,.4g} {unit} where {allowed / cost.times:,.4g} are allowed: it "
                f"took {earlier.each:,.4g} with {earlier.data / earlier.times:,.0f} of its data, which are "
                f"{cost.data / cost.times:,.0f} now"
            )
    return found


def rows(case: str, starts: Sequence[Start], evaluated: int, note: str) -> Iterator[Row]:
    """Yield what each phase took, and the processor time of rank 0 for a response token. `evaluated` is the number of
    tokens of all evaluations."""
    warm = [step for start in starts for step in start.warm]
    for name, kind in (("sampled", "sampled"), ("learned from", "learned")):
        tokens = sum(step.data(kind) for step in warm) / len(warm)
        yield Row(case, PROVIDER, f"response tokens {name}, a step", tokens, "tokens", note=note)
    yield Row(case, PROVIDER, "responses, a step", sum(map(responses, warm)) / len(warm), "responses")
    found = costs(starts)
    for (name, unit), cost in sorted(found.items()):
        yield Row(case, PROVIDER, name, cost.each, unit)
    per_token = processor_per_token(starts[-1].steps) | {EVALUATING: found["evaluation", "s CPU"].total / evaluated}
    for name, seconds in per_token.items():
        yield Row(case, PROVIDER, f"CPU of rank 0 per response token, {name}", 1e6 * seconds, "us")


def responses(step: Step) -> float:
    return sum(value for name, value in step.metrics.items() if name.startswith("samples/"))


def processor_per_token(steps: Sequence[Step]) -> dict[str, float]:
    """Return the processor time of rank 0 for each response token of one whole start, in seconds: of its main thread,
    which trains, and of its other threads, which drive the rollouts, send weights and talk to ranks."""
    first, last = steps[0].phases[0].begin, steps[-1].phases[-1].end
    tokens = sum(step.data("sampled") for step in steps)
    main = last.thread - first.thread
    return {"main thread": main / tokens, "other threads": (last.processor - first.processor - main) / tokens}
