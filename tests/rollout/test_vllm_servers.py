"""The engine on real vLLM servers (CPU): what it samples, and what it survives. Run by `make test-vllm`."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from server_routes import ask
from standalone_servers import EOS, TINY, collect, publish, spec_of
from transformers import AutoModelForCausalLM

from fastsvs import leftovers
from fastsvs.config import DataConfig, ServerConfig
from fastsvs.data import encode_problems, load_problems, load_tokenizer
from fastsvs.rollout import EngineSpec, LocalEngine, Request, Rollout, SamplingParams, VllmEngine
from fastsvs.rollout.vllm import ExternalServer
from fastsvs.rollout.vllm import server as server_module
from fastsvs.sync import SERVER_ENVIRONMENT, Endpoint

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm installs it"),
]
STALL_SECONDS = 15.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """Two servers with the weights of models/tiny; the first port that they try is taken."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1]]
        free_port = server_module.free_port
        patch.setattr(server_module, "free_port", lambda host: ports.pop() if ports else free_port(host))
        made = VllmEngine.build(spec(tmp_path_factory.mktemp("servers"), count=2))
        try:
            publish(made, 1)
            assert not ports
            yield made
        finally:
            made.close()


def spec(folder: Path, count: int, tensor_parallel: int = 1) -> EngineSpec:
    return spec_of(
        TINY,
        folder,
        {"disable-log-stats": False},  # some tests read vLLM's statistics
        max_sequences=32,
        count=count,
        tensor_parallel=tensor_parallel,
        stall_timeout_seconds=STALL_SECONDS,
    )


@pytest.fixture(scope="module")
def prompts() -> list[tuple[int, ...]]:
    config = DataConfig(path="tiny:train", limit=24)
    problems, _ = load_problems(config)
    encoded, _ = encode_problems(problems, load_tokenizer(str(TINY)), config, "train")
    return [ids for _, ids in encoded]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager").eval()


def requests(prompts: list[tuple[int, ...]], samples: int, **sampling: float) -> list[Request]:
    params = SamplingParams(**{"max_tokens": 48, **sampling})  # type: ignore[arg-type]
    return [Request(f"r{i}", prompt, samples, params, seed=1000 + i) for i, prompt in enumerate(prompts)]


def answer(engine: VllmEngine, asked: list[Request]) -> dict[str, list[Rollout]]:
    engine.submit(asked)
    return collect(engine)


def test_an_urgent_request_does_not_wait_behind_what_servers_have_queued(
    engine: VllmEngine, prompts: list[tuple[int, ...]]
) -> None:
    """Both servers hold twice as many requests as they decode at a time, and the urgent one comes last."""
    endpoints = engine.endpoints(240)
    for endpoint in endpoints:
        ask(endpoint, "POST", "/pause?mode=keep")
    slow, short = SamplingParams(temperature=2.0, max_tokens=200), SamplingParams(max_tokens=2)
    many = [Request(f"m{i}", prompts[0], 1, slow, seed=i, priority=7) for i in range(126)]
    engine.submit([*many, Request("urgent", prompts[1], 1, short, seed=0, priority=3)])
    time.sleep(3.0)  # until the servers have them; what comes later is queued all the same
    for endpoint in endpoints:
        ask(endpoint, "POST", "/resume")
    order = list(collect(engine))
    assert len(order) == 127
    assert order.index("urgent") < 24  # in the order of arrival, its server would end 32 others first


def test_greedy_samples_are_those_of_the_local_engine(
    engine: VllmEngine, prompts: list[tuple[int, ...]], model: torch.nn.Module
) -> None:
    local = LocalEngine(
        model.config, dtype=torch.float32, device=torch.device("cpu"), eos_token_ids=[EOS], max_sequences=32
    )
    local.load_weights([(name, tensor.detach()) for name, tensor in model.named_parameters()], 1)
    local.submit(requests(prompts, 2, temperature=0.0))
    greedy = {}
    while local.pending():
        greedy |= dict(local.poll(10))
    got = answer(engine, requests(prompts, 2, temperature=0.0))

    def written(groups: dict[str, list[Rollout]]) -> dict[str, list[tuple[tuple[int, ...], tuple[float, ...]]]]:
        return {key: [(rollout.response_ids, rollout.logprobs) for rollout in group] for key, group in groups.items()}

    assert written(got) == written(greedy)


@pytest.mark.parametrize("top_k", [-1, 5])
def test_logprobs_are_those_of_transformers_at_the_temperature(
    engine: VllmEngine, prompts: list[tuple[int, ...]], model: torch.nn.Module, top_k: int
) -> None:
    asked = requests(prompts, 4, temperature=0.7, top_k=top_k)
    got = answer(engine, asked)
    assert len(got) == len(asked)
    for request in asked:
        for rollout in got[request.key]:
            ids = torch.tensor([[*request.prompt_ids, *rollout.response_ids]])
            with torch.no_grad():
                logits = model(ids).logits[0, len(request.prompt_ids) - 1 : -1].float() / 0.7
            if top_k > 0:
                logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
            expected = logits.log_softmax(-1).gather(1, torch.tensor(rollout.response_ids)[:, None]).squeeze(1)
            torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-4, rtol=0)
            assert (rollout.weight_version, rollout.mixed_versions) == (1, False)


def test_samples_depend_on_seed_and_number(engine: VllmEngine, prompts: list[tuple[int, ...]]) -> None:
    asked = requests(prompts[:6], 40)  # each takes two HTTP requests
    first, second = answer(engine, asked), answer(engine, asked)
    ids = {key: [rollout.response_ids for rollout in group] for key, group in first.items()}
    assert ids == {key: [rollout.response_ids for rollout in group] for key, group in second.items()}
    other = answer(engine, [Request(r.key, r.prompt_ids, r.samples, r.sampling, r.seed + 10**6) for r in asked])
    assert all(len(set(group)) > 1 for group in ids.values())
    assert ids != {key: [rollout.response_ids for rollout in group] for key, group in other.items()}


def test_both_servers_work_and_restarts_come_from_nowhere(engine: VllmEngine, prompts: list[tuple[int, ...]]) -> None:
    engine.metrics()
    engine.submit(requests(prompts, 8))
    running = engine.metrics()
    assert running["rollout/samples_running/server-0"] > 0
    assert running["rollout/samples_running/server-1"] > 0
    got = collect(engine)
    assert all(len(group) == 8 for group in got.values())
    tokens = sum(len(rollout.response_ids) for group in got.values() for rollout in group)
    done = engine.metrics()
    assert running["rollout/generated_tokens"] + done["rollout/generated_tokens"] == tokens
    assert running["rollout/restarts"] == done["rollout/restarts"] == 0


def long_requests(prompts: list[tuple[int, ...]]) -> list[Request]:
    """More than the servers can do in some seconds."""
    return requests(prompts * 4, 16, temperature=2.0, max_tokens=256)


def test_aborted_requests_stop_on_the_servers(engine: VllmEngine, prompts: list[tuple[int, ...]]) -> None:
    asked = long_requests(prompts)
    engine.submit(asked)
    endpoints = engine.endpoints(60)
    deadline = time.monotonic() + 60
    while busy(endpoints) == 0:
        assert time.monotonic() < deadline
    engine.abort([request.key for request in asked])
    assert engine.pending() == 0
    while busy(endpoints) > 0:
        assert time.monotonic() < deadline, "the servers work on what nobody wants"
        time.sleep(0.1)
    assert engine.metrics()["rollout/samples_waiting"] == 0


def busy(endpoints: list[Endpoint]) -> float:
    """Sequences that the servers say they work on."""
    total = 0.0
    for endpoint in endpoints:
        lines = ask(endpoint, "GET", "/metrics").splitlines()
        total += sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))
    return total


def test_a_sample_of_two_versions_says_so(engine: VllmEngine, prompts: list[tuple[int, ...]]) -> None:
    asked = long_requests(prompts)[:40]
    engine.submit(asked)
    while not (got := dict(engine.poll(1.0))):
        pass
    publish(engine, 2)
    got |= collect(engine, refresh=False)
    assert len(got) == len(asked)
    rollouts = [rollout for group in got.values() for rollout in group]
    assert {rollout.weight_version for rollout in rollouts if not rollout.mixed_versions} == {1, 2}
    assert {rollout.weight_version for rollout in rollouts if rollout.mixed_versions} == {1}
    publish(engine, 1)  # back, for the other tests


def test_servers_that_somebody_else_runs(engine: VllmEngine, prompts: list[tuple[int, ...]]) -> None:
    """The same servers through their URLs: the same samples, and they stay when the engine closes."""
    publish(engine, 1)
    endpoints = engine.endpoints(60)
    external = VllmEngine(
        [ExternalServer(f"url-{i}", endpoint.url) for i, endpoint in enumerate(endpoints)],
        ServerConfig(start_timeout_seconds=60),
        api_key=endpoints[0].api_key,
        eos_token_ids=[EOS],
        vocabulary=576,
        max_sequences=32,
        max_sequence_tokens=512,
    )
    try:
        publish(external, 1)
        assert answer(external, requests(prompts, 4)).keys() == {f"r{i}" for i in range(len(prompts))}
    finally:
        external.close()
    publish(engine, 1)
    assert answer(engine, requests(prompts, 1)).keys() == {f"r{i}" for i in range(len(prompts))}


ROUTES = """
import json, sys
from vllm.entrypoints.launchers.app import build_app
try:
    from vllm.entrypoints.common.cli_args import make_arg_parser
except ImportError:  # vLLM 0.32
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", sys.argv[1], "--tokens-only"])
routes = build_app(arguments, ("generate",)).routes
print(json.dumps([[getattr(r, "path", ""), sorted(getattr(r, "methods", None) or ["GET", "POST"])] for r in routes]))
"""
"""Lists the routes of the application that vLLM builds, those that its schema leaves out and mounted ones included."""


@pytest.fixture(scope="module")
def routes(engine: VllmEngine) -> list[tuple[str, str]]:
    """Every method and path of a server."""
    built = subprocess.run(
        [sys.executable, "-c", ROUTES, str(TINY)],
        env=os.environ | SERVER_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = {(method, path) for path, methods in json.loads(built.stdout.splitlines()[-1]) for method in methods}
    schema = json.loads(ask(engine.endpoints(60)[0], "GET", "/openapi.json"))
    found |= {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}
    return sorted((method, re.sub(r"{.*?}", "x", path)) for method, path in found)


def status(url: str, method: str, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path, "{}", {"Content-Type": "application/json", **headers})
        return connection.getresponse().status
    finally:
        connection.close()


def test_every_route_but_health_asks_for_the_key(engine: VllmEngine, routes: list[tuple[str, str]]) -> None:
    [endpoint, *_] = engine.endpoints(60)
    assert {
        ("POST", "/collective_rpc"),
        ("POST", "/invocations"),
        ("POST", "/update_weights"),
        ("POST", "/init_weight_transfer_engine"),
        ("GET", "/server_info"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
    } <= set(routes), routes
    asked = [*routes, ("GET", "/no/such/route"), *((method, path + "/") for method, path in routes)]
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        let_in = {(method, path) for method, path in asked if status(endpoint.url, method, path, **headers) != 401}
        assert let_in <= {("GET", "/health"), ("HEAD", "/health")}
    assert status(endpoint.url, "GET", "/health") == 200
    engine.weights_loaded(["server-0", "server-1"], 1)


def test_a_web_page_reaches_nothing_even_with_the_key(engine: VllmEngine) -> None:
    [endpoint, *_] = engine.endpoints(60)
    bearer = {"Authorization": f"Bearer {endpoint.api_key}"}
    assert status(endpoint.url, "POST", "/is_sleeping", **bearer, Host="evil.example:80") == 421
    assert status(endpoint.url, "POST", "/collective_rpc", **bearer | {"Content-Type": "text/plain"}) == 415
    assert status(endpoint.url, "OPTIONS", "/collective_rpc", Origin="http://evil.example") == 401  # no preflight
    engine.weights_loaded(["server-0", "server-1"], 1)


def test_servers_listen_on_their_address_alone(engine: VllmEngine) -> None:
    import psutil

    family = [p for child in psutil.Process().children() for p in (child, *child.children(recursive=True))]
    servers = [process for process in family if "vllm" in " ".join(process.cmdline()).lower()]
    ports = {
        (connection.laddr.ip, connection.laddr.port)
        for process in servers
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {f"http://{host}:{port}" for host, port in ports} >= {endpoint.url for endpoint in engine.endpoints(60)}
    assert {host for host, _ in ports} == {"127.0.0.1"}
    engine.weights_loaded(["server-0", "server-1"], 1)


def server_pids(engine: VllmEngine, index: int) -> tuple[int, int]:
    """The HTTP front and the engine behind it."""
    import psutil

    [supervisor] = [
        child
        for child in psutil.Process().children()
        if "supervisor.py" in " ".join(child.cmdline())
        and f":{child.cmdline()[child.cmdline().index('--port') + 1]}" in engine.endpoints(60)[index].url
    ]
    [front] = supervisor.children()
    [core] = [
        child for child in front.children() if "EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline())
    ]
    return front.pid, core.pid


def kill_front(front: int, _core: int) -> None:
    os.kill(front, signal.SIGKILL)


def kill_core(_front: int, core: int) -> None:
    os.kill(core, signal.SIGKILL)


def stop_core(_front: int, core: int) -> None:
    os.kill(core, signal.SIGSTOP)


@pytest.mark.parametrize(("harm", "generating"), [(kill_front, True), (kill_core, False), (stop_core, True)])
def test_a_server_that_fails(
    engine: VllmEngine, prompts: list[tuple[int, ...]], harm: Callable[[int, int], None], generating: bool
) -> None:
    """Its requests go elsewhere, every sample comes once, and it comes back, and nothing is left of what it was."""
    publish(engine, 1)
    engine.metrics()
    front, core = server_pids(engine, 0)
    engine.weights_loaded(["server-0", "server-1"], 1)
    asked = long_requests(prompts)[:60]
    got: dict[str, list[Rollout]] = {}
    if generating:
        engine.submit(asked)
        while not got:
            got = dict(engine.poll(1.0))
    harm(front, core)
    if not generating:
        wait_for_servers(engine, 1)
        engine.submit(asked)
    got |= collect(engine)
    assert got.keys() == {request.key for request in asked}
    assert all(len(group) == 16 for group in got.values())
    publish(engine, 1)
    metrics = engine.metrics()
    assert metrics["rollout/servers"] == 2
    assert (metrics["rollout/requests_resent"] > 0) == generating
    for pid in (front, core):
        assert not Path(f"/proc/{pid}").exists()


def wait_for_servers(engine: VllmEngine, count: int) -> None:
    deadline = time.monotonic() + 60
    while engine.metrics()["rollout/servers"] != count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


OWNER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fastsvs.rollout import VllmEngine
from test_vllm_servers import spec
engine = VllmEngine.build(spec(Path(sys.argv[2]), count=1, tensor_parallel=2))
print(engine.endpoints(240)[0].url, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("also_supervisor", [False, True], ids=["trainer", "trainer_and_supervisor"])
def test_a_trainer_that_is_killed_leaves_no_process_port_segment_or_file(also_supervisor: bool) -> None:
    import psutil

    with tempfile.TemporaryDirectory(dir="/tmp") as path:  # short enough for sockets
        folder = Path(path)
        command = [sys.executable, "-c", OWNER, str(Path(__file__).parent), path]
        owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        port = int(owner.stdout.readline().strip().rpartition(":")[2])
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) >= 5  # supervisor, front, engine, two workers
        time.sleep(2.0)  # an inventory is taken every second
        record = leftovers.read(folder / "server-0.running.json")
        assert record is not None
        assert record.segments
        assert Path(record.folder) == folder / "server-0.tmp"
        assert any(file.is_socket() for file in Path(record.folder).iterdir())
        if also_supervisor:
            os.kill(record.processes[0][0], signal.SIGKILL)
        owner.kill()
        owner.wait()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
        if also_supervisor:
            leftovers.sweep_orphans(folder)  # as the next start does
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
        assert [name for name, _ in record.segments if Path("/dev/shm", name).exists()] == []
        assert [file.name for file in folder.iterdir() if file.suffix not in (".log", "")] == []
