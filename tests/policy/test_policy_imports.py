"""What a trainer does not load when it starts, and what it leaves as it was."""

import json
import subprocess
import sys

LOOK = """
import json, sys
import torch
compile = torch.compile
import fastsvs.training.loop
import megatron.core
assert torch.compile is compile
print(json.dumps(sorted(sys.modules)))
import wandb, torch.utils.tensorboard
"""


def test_a_trainer_loads_no_compiler_no_plots_and_no_loggers() -> None:
    found = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True).stdout
    loaded = set(json.loads(found))
    assert "megatron.core.transformer" in loaded
    assert not loaded & {"torch._inductor.compile_fx", "matplotlib", "tensorboard", "wandb"}
