"""What driftline adds to vLLM's workers: other weights in place of those that a model was loaded with.

vLLM reads weights again layer by layer. Where a layer keeps something that it made of its weights, such as a packed
copy for a CPU, that may stay the former model's without a word: so did a mixture of experts, and a head that shares
the embeddings' weights. Hence only models all of whose parts are known to take other weights whole are given any.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

WORKS_FOR = "DRIFTLINE_ENGINE_OF"  # the process whose engine this is, as an environment variable


class SwappingWorker:
    """Mixed into vLLM's own worker (`worker_extension_cls`)."""

    def driftline_swap(self, folder: str) -> None:
        """Read a checkpoint of the same tensors into the model that runs.

        Raises:
            ValueError: it has parts that may keep something of the former weights.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

        worker: Any = self
        runner = worker.model_runner
        model = runner.get_model()
        _must_be_plain(model)
        tables = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
        shared = {module.weight.data_ptr() for module in tables if not isinstance(module, ParallelLMHead)}
        heads = [m for m in tables if isinstance(m, ParallelLMHead) and m.weight.data_ptr() in shared]
        if heads and not getattr(runner.model_config.hf_text_config, "tie_word_embeddings", False):
            raise ValueError("head and embeddings were joined as they happened to be the same")
        runner.reload_weights(weights_path=folder)
        for head in heads:  # it has no tensor of its own, so that vLLM passes it over
            head.quant_method.process_weights_after_loading(head)


def _must_be_plain(model: Any) -> None:
    """Nothing but linear layers, embeddings, norms and attention, none of them quantised."""
    from vllm.model_executor.layers.attention import Attention
    from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding

    whole = UnquantizedLinearMethod, UnquantizedEmbeddingMethod
    for name, module in model.named_modules():
        if isinstance(module, (LinearBase, VocabParallelEmbedding)):
            plain = type(module.quant_method) in whole
        elif type(module) is Attention:
            plain = True
        else:
            matrices = any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
            plain = not matrices and not hasattr(module, "process_weights_after_loading")
        if not plain:
            raise ValueError(f"{name} ({type(module).__name__}) is not known to take other weights")


def _end_with(owner: int) -> None:
    """End this worker, and the engine that it belongs to, when the process `owner` is there no more."""
    engine = os.getppid()  # or the owner itself, where the engine has no process of its own for a worker
    with suppress(ProcessLookupError):
        while True:
            os.kill(owner, 0)
            time.sleep(1)
    if engine not in (owner, 1) and os.getppid() == engine:
        os.kill(engine, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


if (_owner := os.environ.get(WORKS_FOR, "")) not in ("", str(os.getpid())):
    # vLLM imports this in each of its workers and nowhere else; a process that is killed outright can end nothing itself
    threading.Thread(target=_end_with, args=(int(_owner),), daemon=True, name="driftline").start()
