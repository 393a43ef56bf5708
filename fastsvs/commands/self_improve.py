"""`fastsvs self`: SELF's rounds (arXiv 2310.00533). In a round the model answers, comments and mends. It learns what it
approves of, with a share of the dialogues that taught it to comment and mend, and becomes the next round's model.

A run folder holds metrics.jsonl with a row for every round, and a folder for every round: `chains.jsonl` (all responses
and what became of them), `dialogues.jsonl` (what is learned), `counters.json`, `sft/` (a run of `fastsvs sft`),
`model/`. What is there is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import perf_counter

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from fastsvs import distributed, fingerprints, rank_log
from fastsvs.commands.sft import sft
from fastsvs.commands.stored_engine import OpenEngine, check_placement, open_engine
from fastsvs.config import DataConfig, ModelConfig, SelfJob, SftDataConfig, SftJob, TrainedModelConfig
from fastsvs.data import (
    EncodedProblem,
    Message,
    check_tokenizer,
    encode_prompt,
    load_dialogues,
    load_tokenizer,
    lone_message,
    longest_prompt,
    messages_of,
    read_problems,
    reads_clock,
    stop_token_ids,
)
from fastsvs.errors import UserError
from fastsvs.files import read_mapping, write_json, write_jsonl
from fastsvs.policy import DTYPES, open_model
from fastsvs.rollout import ENGINES, Asked, EnginePlan, Inference, sampling_params
from fastsvs.seeding import derive_seed
from fastsvs.selfplay import FATES, Chain, Group, SelfStage, collect, original_tasks
from fastsvs.stored_run import RunLayout
from fastsvs.telemetry import RunFolder, StepProgress, give_back
from fastsvs.training import check_policy, check_room
from fastsvs.verify import AnswerVerifier, check_verifier

Counters = Mapping[str, float]


@dataclass(frozen=True)
class Inputs:
    """Inputs of every round, checked before anything is built."""

    hf_config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    problems: Sequence[EncodedProblem]
    replay: Sequence[Sequence[Message]]
    """Dialogues from which every round learns a share again; none without `evolution.replay`."""
    stage: SelfStage
    folder: RunFolder
    facts: Sequence[str]


@dataclass(frozen=True)
class Round:
    """One round's model and files."""

    number: int
    model: ModelConfig
    folder: Path

    @property
    def dialogues(self) -> Path:
        return self.folder / "dialogues.jsonl"

    @property
    def counters(self) -> Path:
        """Return the file of the counters. It is written last: with it the round has been played."""
        return self.folder / "counters.json"

    @property
    def result(self) -> Path:
        """Return the folder of the model that comes out of the round."""
        return self.folder / "model"


def run_self(job: SelfJob) -> Path:
    """Run all rounds that are not done yet, and return the folder of the last one's model."""
    distributed.initialize(job.run.timeout_seconds)
    main = distributed.is_main()
    inputs = preflight(job, distributed.world_size())
    folder = inputs.folder
    rank_log.start(folder.layout.logs)
    done = distributed.gather(len(folder.metrics()))[0]  # every rank looks at the folder before the main one writes
    folder.begin(done)
    total = job.evolution.rounds
    with closing(folder), StepProgress("self", total, done, enabled=main, what="round") as progress:
        for fact in inputs.facts:
            progress.say(fact)
        for number in range(done + 1, total + 1):
            began = perf_counter()
            this = open_round(job, number)
            counters = play(job, this, inputs)
            progress.say(describe(number, counters))
            sft(tuning(job, this))
            give_back()
            folder.log({"step": number, **counters, "time/step": perf_counter() - began})
            progress.advance(number, f"{this.result}")
    return open_round(job, total).result


def open_round(job: SelfJob, number: int) -> Round:
    """Return a round. Round 1 begins with the job's model, every other with the result of the round before it."""
    folder = RunLayout(Path(job.run.dir)).round(number)
    model = job.model if number == 1 else ModelConfig(path=str(open_round(job, number - 1).result))
    return Round(number, model, folder)


def preflight(job: SelfJob, processes: int | None, *, at_disk: bool = True) -> Inputs:
    """Read and check what the rounds need. Raises UserError for what cannot be read or used, by an engine or by the
    rounds' fine-tuning on `processes` processes (None: on as many as their layout takes, wherever they are), or has no
    room on the disk, if `at_disk`. Needs no weights and writes nothing."""
    check_placement(job.rollout, "fastsvs self")
    check_verifier(job.verifier)
    engine = ENGINES.get(job.rollout.engine)
    hf_config = check_policy(job.model, job.policy, processes, job.run.steps)
    if job.policy.lora.adapter is not None:
        raise UserError(
            "policy.lora.adapter: a round of fastsvs self begins with the model alone, and merges what it learned into "
            "it: leave the key out"
        )
    folder = RunFolder(job, Path(job.run.dir), writable=distributed.is_main())
    if at_disk:
        check_room(job, RunLayout(folder.layout.round(1) / "sft").checkpoints, hf_config)
    tokenizer = load_tokenizer(job.model.tokenizer or job.model.path, job.data)
    check_tokenizer(tokenizer, hf_config)
    problems, facts = read_problems(job.data, tokenizer, "train")
    replay, more = read_replay(job.evolution.replay)
    inputs = {"data": fingerprints.of_problems(problems, reads_clock(tokenizer, job.data.template))}
    folder.check_inputs(inputs | ({"evolution.replay": fingerprints.of_dialogues(replay)} if replay else {}))
    stage = SelfStage(
        job.evolution,
        lambda text: encode_prompt(tokenizer, lone_message(text), job.data.template),
        job.link_tokens,
    )
    stop = stop_token_ids(job.model.path, tokenizer)
    asked = Asked(job.rollout.temperature, longest_prompt(problems) + job.rollout.max_response_tokens)
    dtype = DTYPES[job.policy.dtype]
    engine.check(EnginePlan(hf_config, stop, dtype, job.rollout, {"rollout": asked}, here=processes is not None))
    return Inputs(hf_config, tokenizer, problems, replay, stage, folder, [*facts, *more])


def read_replay(path: str | None) -> tuple[list[Sequence[Message]], list[str]]:
    """Return the dialogues that every round learns a share of again, and facts about what was left out; none without a
    path."""
    if path is None:
        return [], []
    dialogues, loaded = load_dialogues(SftDataConfig(path=path))
    return [dialogue.messages for dialogue in dialogues], loaded.describe()


def play(job: SelfJob, this: Round, inputs: Inputs) -> Counters:
    """Make the round's dialogues if they are not there, and return its counters. Raises UserError when the model
    approved of nothing."""
    if not distributed.broadcast(this.counters.exists()):
        with hold(job, this, inputs.tokenizer) as opened:
            opened.run(lambda engine, cancelled: make(job, this, inputs, engine, opened.verifier, cancelled))
        give_back()
    counters = distributed.broadcast(read_mapping(this.counters) if distributed.is_main() else {})
    if not counters["kept"]:
        raise UserError(
            f"{describe(this.number, counters)}: there is nothing to learn; see {this.folder}/chains.jsonl, and "
            "evolution.approval for what counts as approval"
        )
    return counters


@contextmanager
def hold(job: SelfJob, this: Round, tokenizer: PreTrainedTokenizerBase) -> Iterator[OpenEngine]:
    """Open an engine with the round's model."""
    stored = open_model(this.model, job.run.seed)
    with open_engine(
        stored,
        tokenizer,
        job.rollout,
        job.verifier,
        dtype=DTYPES[job.policy.dtype],
        longest=max(job.data.max_prompt_tokens, job.link_tokens) + job.rollout.max_response_tokens,
        folder=this.folder,
        timeout_seconds=job.run.timeout_seconds,
    ) as opened:
        yield opened


def make(
    job: SelfJob,
    this: Round,
    inputs: Inputs,
    engine: Inference,
    verifier: AnswerVerifier,
    cancelled: Callable[[], bool],
) -> None:
    """Play all chains and write them."""
    tasks = original_tasks(inputs.problems, job.rollout.samples_per_prompt)
    total = sum(task.samples for task in tasks)
    main = distributed.is_main()
    ended = 0
    with StepProgress("chains", total, 0, enabled=main, what=f"round {this.number}: chain", lines=10) as progress:

        def watch(group: Group, asked: int) -> None:
            nonlocal ended
            for _ in range(inputs.stage.ended(group)):
                ended += 1
                progress.advance(ended, "")

        played = collect(
            inputs.stage,
            tasks,
            engine,
            verifier,
            lambda ids: inputs.tokenizer.decode(ids, skip_special_tokens=True),
            sampling_params(job.rollout),
            derive_seed(job.run.seed, "self", this.number),
            progress=watch,
            cancelled=cancelled,
        )
    if main:
        groups = sorted([*played.groups, *played.discarded], key=lambda group: group.task.key)
        chains = inputs.stage.chains(groups)
        random = Random(derive_seed(job.run.seed, "replay", this.number))
        learned = [lesson(chain, job.data) for chain in chains if chain.fate == "kept"]
        again = replayed(inputs.replay, len(learned), job.evolution.replay_share, random)
        write_jsonl(this.folder / "chains.jsonl", [chain.as_row() for chain in chains])
        write_jsonl(this.dialogues, [{"messages": list(messages)} for messages in [*learned, *again]])
        write_json(this.counters, {**played.counters, "replayed": len(again)})


def lesson(chain: Chain, data: DataConfig) -> list[Message]:
    """Return the question as the model is asked it, and the refinement that it approved of."""
    assert chain.refinement is not None
    asked = messages_of(chain.question, data, "train", chain.system)
    return [*asked, {"role": "assistant", "content": chain.refinement}]


def replayed(
    dialogues: Sequence[Sequence[Message]], learned: int, share: float, random: Random
) -> list[Sequence[Message]]:
    """Draw so many dialogues that they are `share` of all beside `learned` others, as far as there are so many."""
    return random.sample(dialogues, min(len(dialogues), round(learned * share / (1 - share))))


def tuning(job: SelfJob, this: Round) -> SftJob:
    """Return the job of the round's fine-tuning."""
    return SftJob(
        model=TrainedModelConfig(**this.model.model_dump()),
        data=SftDataConfig(
            path=str(this.dialogues),
            max_tokens=job.evolution.max_example_tokens,
            template_name=job.data.template_name,
            template_arguments=job.data.template_arguments,
        ),
        policy=job.policy,
        run=job.run.model_copy(update={"dir": str(this.folder / "sft")}),
        export=str(this.result),
    )


def describe(number: int, counters: Counters) -> str:
    """Say in a line what a round made."""

    def share(name: str) -> str:
        return f"{counters[name]:.0%}" if name in counters else "-"

    fates = ", ".join(f"{counters[fate]:,.0f} {fate.replace('_', ' ')}" for fate in FATES)
    return (
        f"round {number}: {share('solve_rate/original')} of the responses right, {share('solve_rate/refinement')} of "
        f"the refinements; {fates}; {share('kept_right')} of the kept right; {counters['replayed']:,.0f} replayed"
    )
