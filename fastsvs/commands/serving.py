"""A node of the job that trains nothing: it runs rollout servers as the main rank orders."""

from __future__ import annotations

from fastsvs import distributed
from fastsvs.architecture import load_hf_config
from fastsvs.config import TrainJob
from fastsvs.rollout import Nodes, announced
from fastsvs.rollout.vllm import serve_node
from fastsvs.training import training_spec


def serve(job: TrainJob, nodes: Nodes) -> None:
    """Run this node's servers until the main rank says that the job is over. The first process of the node does it; the
    others have nothing to do.

    Raises EngineFailure when the main rank falls silent.
    """
    if not nodes.leads:
        return
    with announced(job.rollout) as control:
        assert control is not None
        distributed.choose_network()
        serve_node(training_spec(job, load_hf_config(job.model.path), stop=()), nodes, control)
