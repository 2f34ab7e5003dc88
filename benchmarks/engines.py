"""Tokens a second by vLLM's engine and by driftline's own loop, of one model and of two; log-probs by both.

    python benchmarks/engines.py [--early MODEL --late MODEL] [--keep]    in the environment that make test-vllm makes

Every way draws the same number of tokens from the same prompts, and nothing ends a completion. The ways take turns, and
of each the fastest round counts. vLLM is called as `--backend vllm` calls it: seeds of single requests, two models as
one engine. Without models, the pair of generate_speed.py whose distance is that of neighbours in a real run is made.
"""

if __name__ == "__main__":  # vLLM's processes import this file again: on a CPU they fail where numba is loaded
    from engine_speed import main

    main(__doc__)
