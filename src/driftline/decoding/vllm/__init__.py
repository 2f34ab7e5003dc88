"""Extrapolated decoding inside vLLM: the plugin that its processes load, and how `driftline serve` starts one.

Nothing here imports vLLM, torch or transformers before it is needed: vLLM looks at the plugin in every process.
"""
