from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.whole_run import decode, decode_engine, shapes
from bench.whole_run.cases import Place
from bench.whole_run.decode_engine import Batch, Found
from bench.whole_run.shapes import Costs
from bench.whole_run.slices import QWEN_7B, QWEN_32B_TP4, TINY
from fastsvs.architecture import read_architecture
from fastsvs.errors import UserError


@pytest.fixture
def place(tmp_path):
    return Place("smoke", "", tmp_path / "work", tmp_path / "out")


def test_slices_hold_the_published_parameters():
    whole = 4 * QWEN_32B_TP4.parameters  # without norms and biases
    assert whole == pytest.approx(32.76e9, rel=1e-3)
    assert QWEN_7B.parameters == pytest.approx(7.615e9, rel=1e-3)
    assert 4 * QWEN_32B_TP4.kv_bytes(2) == 262_144


@pytest.mark.parametrize("shape", [QWEN_7B, QWEN_32B_TP4, TINY])
def test_trainer_and_engine_read_the_same_shape(shape, tmp_path):
    architecture = read_architecture(shape.trainer_config())
    engine = shape.engine_config(4096)
    assert architecture.head_dim == engine.head_dim == shape.head_dim
    assert (architecture.qkv_bias, engine.qkv_bias, engine.attention_bias) == (True, True, False)
    assert (architecture.tied, engine.tie_word_embeddings) == (False, False)
    for ours, theirs in (
        (architecture.heads, engine.num_attention_heads),
        (architecture.groups, engine.num_key_value_heads),
        (architecture.ffn, engine.intermediate_size),
        (architecture.vocabulary, engine.vocab_size),
    ):
        assert ours == theirs
    shape.trainer_config().save_pretrained(tmp_path)
    assert '"head_dim"' in (tmp_path / "config.json").read_text()


def test_two_depths_tell_a_layer_from_the_rest():
    (plan,) = shapes.PLANS["smoke"]
    known = {
        2: Costs({"gradient": 5.0}, {"reserved": 3.0}, 0, 0.0),
        4: Costs({"gradient": 9.0}, {"reserved": 4.0}, 0, 0.0),
    }
    found = {(row.case.split("/")[-1], row.metric): row.value for row in shapes.differences(plan, known, None)}
    assert found["one layer", "gradient"] == 2.0
    assert found["embedding, head and fixed costs", "gradient"] == 1.0
    assert found["one layer", "reserved"] == 0.5
    del known[4]
    with pytest.raises(UserError, match=r"\[4\] layers"):
        list(shapes.differences(plan, known, None))


def test_the_trainer_s_points_are_measured(place):
    cases = shapes.cases(place)
    assert [case.name for case in cases] == [f"shapes/tiny/{name}" for name in ("2 layers", "4 layers", "one layer")]
    rows = [row for case in cases for row in case.measure(place.work)]
    metrics = {row.metric for row in rows if row.case == "shapes/tiny/4 layers/1024 tokens"}
    assert {"log-probs", "gradient", "update", "optimizer", "throughput"} <= metrics
    assert any(row.case == "shapes/tiny/one layer" for row in rows)


def test_bytes_of_a_step():
    bf16, fp8 = (plan for plan in decode.PLANS["h200"] if plan.shape is QWEN_7B)
    layers = QWEN_7B.layers * QWEN_7B.layer_parameters
    assert bf16.step_bytes(0, 0) - fp8.step_bytes(0, 0) == layers
    assert bf16.step_bytes(8, 512) - bf16.step_bytes(0, 0) == 8 * 512 * QWEN_7B.kv_bytes(2)


class Engine:
    """Gives one token to each sequence a step, from the step after it came on."""

    def __init__(self):
        self.names = []

    def add_request(self, name, prompt, parameters):
        self.names.append(name)

    def abort_request(self, names):
        self.names = [name for name in self.names if name not in names]

    def step(self):
        return [SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=[1])]) for name in self.names]


def test_decode_steps_are_counted():
    batch = Batch.__new__(Batch)
    batch._engine, batch._vocabulary, batch._made = Engine(), 8, 0
    batch._random = decode_engine.np.random.default_rng(0)
    batch._parameters = lambda tokens: None
    batch.context, batch.silent = {}, set()
    batch.join(3, prompt_tokens=10, new_tokens=100)
    found = decode_engine._decode(batch, steps=4)
    assert found.values["sequences"] == 3
    assert found.values["writing"] == 1
    assert found.values["context"] == 10 + 1 + decode_engine.SETTLING_STEPS + 2
    assert 0 < found.values["median"] <= found.values["longest"]
    batch.clear()
    assert not batch.step()


def test_a_way_that_fails_is_left_and_the_next_one_taken(monkeypatch, place):
    (plan,) = decode.PLANS["smoke"]
    ways = [replace(decode.WAYS["smoke"][0], name=name) for name in ("first", "second")]
    values = {"sequences": 4.0, "context": 9.0, "seconds": 0.5, "median": 0.4, "longest": 0.9, "writing": 1.0}

    def run(plan, way, folder):
        if way.name == "first":
            raise UserError("no such thing")
        yield Found("decode", values)
        raise UserError("broke off")

    monkeypatch.setattr(decode, "_run", run)
    monkeypatch.setattr(decode.importlib.util, "find_spec", lambda name: name)
    rows = []
    with pytest.raises(UserError, match=r"first: no such thing; second: broke off"):
        rows.extend(decode.measure(plan, ways, place.work))
    figures = {row.metric: row.value for row in rows}
    assert figures["first: failed"] == 1.0
    assert figures["decode"] == 8.0
    assert [way.name for way in ways] == ["second"]


def test_reason_of_an_engine_that_ended(tmp_path):
    log = tmp_path / "log"
    log.write_text("(pid=1) ValueError: no `skip_tokenizer_init=True`\n(pid=2) OSError: bad\n(pid=3) OSError: bad\n")
    assert decode._reason(log) == "OSError: bad"
    log.write_text("killed\n")
    assert decode._reason(log) == "killed\n"
