"""Which samples share a row and its prompt, and that the row says so."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policy_cases import make_batch
from shared_cases import GROUPS, make_groups

from fastsvs.errors import UserError
from fastsvs.policy.bundles import Sizes, plan_rows
from fastsvs.policy.row import Packer

BUDGET = 130
groups = st.lists(st.integers(1, 9), min_size=1, max_size=12)
ranks = st.integers(1, 4)


def flops(tokens, predicted):
    return 8000 * tokens + tokens * tokens + 100 * predicted


def planned(batch, data_parallel=1, share=True, budget=BUDGET):
    sizes = Sizes.of(batch, share=share)
    return sizes, plan_rows(sizes, batch.kinds, flops, budget, data_parallel)


def packer(batch, sizes, multiple=1, rank=0, ranks=1):
    """With the position of each token in place of its angles."""
    positions = torch.arange(200).expand(2, 200)[..., None]
    return Packer(batch, sizes, positions, multiple, rank=rank, ranks=ranks)


@given(groups, ranks, st.integers(0, 99))
def test_every_sample_is_in_one_row_within_the_budget(sizes_of_groups, data_parallel, seed):
    batch = make_groups(sizes_of_groups, seed)
    sizes, plan = planned(batch, data_parallel)
    assert sorted(chain.from_iterable(chain.from_iterable(plan))) == list(range(len(batch)))
    assert len({len(rows) for rows in plan}) == 1
    tokens = [len(packer(batch, sizes).pack(row).tokens) for row in chain.from_iterable(plan) if row]
    assert max(tokens) <= BUDGET
    whole = sum(len(p) + len(r) for p, r in zip(batch.prompt_ids, batch.response_ids, strict=True))
    assert sizes.saved(chain.from_iterable(plan)) == pytest.approx(1 - sum(tokens) / whole)


@given(groups, st.integers(0, 99), st.sampled_from([1, 4]))
def test_a_row_holds_what_precedes_each_response(sizes_of_groups, seed, multiple):
    """Each response token finds the one before it in the row, at its position, in a sequence that begins with the
    prompt or continues one that holds nothing else."""
    batch = make_groups(sizes_of_groups, seed)
    sizes, plan = planned(batch)
    for samples in filter(None, plan[0]):
        row = packer(batch, sizes, multiple).pack(samples)
        assert len(row.tokens) % multiple == 0
        positions = row.sequences.rotary[0, :, 0]
        assert sorted(row.samples) == samples
        sequences = row.tokens.split(row.sequences.lengths)
        contexts = list(sequences)
        if shared := row.sequences.shared:
            counts = [len(b) for b in sizes.bundles(row.samples) if len(b) > 1]
            assert shared.responses == [int(sizes.responses[b].sum()) for b in sizes.bundles(row.samples) if len(b) > 1]
            assert shared.prompt_bounds.diff().tolist() == shared.prompts == row.sequences.lengths[: len(counts)]
            assert shared.response_bounds.diff().tolist() == shared.responses
            prompts = sequences[: len(counts)]
            heads = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
            contexts = [torch.cat(pair) for pair in zip(heads, sequences[len(counts) :], strict=False)]
            contexts += sequences[len(counts) + sum(counts) :]
        for place, sample in enumerate(row.samples):
            prompt, response = batch.prompt_ids[sample], batch.response_ids[sample]
            assert contexts[place].tolist() == [*prompt, *response]
            mine = row.predictors[row.own.sequence == place]
            assert row.tokens[mine].tolist() == [*prompt, *response][len(prompt) - 1 : -1]
            assert positions[mine].tolist() == list(range(len(prompt) - 1, len(prompt) + len(response) - 1))
            assert row.targets[row.own.sequence == place].tolist() == response.tolist()


@given(groups, st.integers(0, 99), st.sampled_from([1, 4]), st.integers(2, 5))
def test_ranks_that_share_out_a_row_have_it_together(sizes_of_groups, seed, multiple, ranks):
    batch = make_groups(sizes_of_groups, seed)
    sizes, plan = planned(batch)
    for samples in plan[0]:
        row = packer(batch, sizes, multiple * ranks).pack(samples)
        parts = [packer(batch, sizes, multiple, rank, ranks).pack(samples) for rank in range(ranks)]
        assert {len(part.tokens) for part in parts} == {len(row.tokens) // ranks}
        assert torch.equal(torch.cat([part.tokens for part in parts]), row.tokens)
        assert torch.equal(torch.cat([part.sequences.rotary for part in parts], dim=1), row.sequences.rotary)
        preceding = torch.cat([part.tokens[part.predictors] for part in parts])
        for part in parts:
            assert part.sequences.lengths == row.sequences.lengths
            assert torch.equal(part.whole.places, row.own.places)
            assert part.own.counts == part.own.sequence.bincount(minlength=len(samples)).tolist()
            assert torch.equal(preceding[part.gather.order], row.tokens[row.predictors])
        gathered = torch.cat([part.own.places for part in parts])
        assert torch.equal(gathered[parts[0].gather.order], row.own.places)


def test_without_groups_nothing_changes():
    batch = make_batch(samples=30)
    found = []
    for share in (True, False):
        sizes, plan = planned(batch, data_parallel=2, share=share)
        found.append([packer(batch, sizes, 4).pack(row) for row in chain.from_iterable(plan)])
        assert sizes.saved(chain.from_iterable(plan)) == 0
    for one, other in zip(*found, strict=True):
        assert one.samples == other.samples
        assert one.sequences.shared is other.sequences.shared is None
        assert one.sequences.lengths == other.sequences.lengths
        for name in ("tokens", "predictors", "targets"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for name in ("places", "sequence"):
            assert torch.equal(getattr(one.own, name), getattr(other.own, name)), name


def test_only_equal_prompts_of_one_kind_are_shared():
    batch = make_groups()
    sizes = Sizes.of(batch, share=True)
    by_size = sorted(map(len, sizes.bundles(range(len(batch)))))
    assert by_size == [1, 1, 3, 6, 6], "the first and the fourth group have one prompt"
    batch.kinds[:4] = ["variant"] * 4
    assert len(Sizes.of(batch, share=True).bundles(range(len(batch)))) == len(GROUPS)
    assert len(Sizes.of(batch, share=False).bundles(range(len(batch)))) == len(batch)


def test_a_prompt_is_shared_where_that_saves_a_sixteenth_of_the_tokens():
    def shared(prompt, responses):
        batch = make_batch(len(responses))
        batch.prompt_ids[:] = [np.arange(prompt)] * len(responses)
        batch.response_ids[:] = [np.arange(length) for length in responses]
        batch.kinds[:] = ["original"] * len(responses)
        return len(Sizes.of(batch, share=True).bundles(range(len(responses)))) == 1

    assert shared(10, [75, 65])
    assert not shared(10, [75, 66])
    assert shared(1, [1, 1])
    assert not shared(8, [128] * 8)


def test_a_group_stays_in_one_row_or_is_cut_where_it_must():
    prompts, responses = np.full(8, 50), np.full(8, 20)
    sizes = Sizes(prompts, responses, [0] * 8)
    kinds = ["original"] * 8

    def cut(budget, data_parallel=1):
        plan = plan_rows(sizes, kinds, flops, budget, data_parallel)
        return [sorted(map(len, rows)) for rows in plan]

    assert cut(210) == [[8]]
    assert cut(209) == [[4, 4]]
    assert cut(109) == [[2, 2, 2, 2]]
    assert cut(70) == [[1] * 8]
    assert cut(210, data_parallel=2) == [[4], [4]], "no rank waits for the other"
    assert cut(209, data_parallel=4) == [[2], [2], [2], [2]]
    with pytest.raises(UserError, match="8 of 8 sequences are longer"):
        cut(69)
    assert sizes.saved([range(8)]) == pytest.approx(1 - 210 / 560)
    assert sizes.saved([range(4), range(4, 8)]) == pytest.approx(1 - 260 / 560)
