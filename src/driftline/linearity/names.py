"""Where a tensor sits in the model, by its name: layer number and module."""

from __future__ import annotations

_PREFIXES = ("model", "transformer", "module", "language_model", "backbone", "base_model")


def layer_and_module(name: str) -> tuple[int | None, str]:
    """`model.layers.3.mlp.down_proj.weight` -> (3, "mlp.down_proj"); outside layers the number is None.

    A final `.weight` is dropped, a `.bias` kept; further numbers (experts) become `*`.
    """
    parts = name.split(".")
    if parts[-1] == "weight" and len(parts) > 1:
        parts = parts[:-1]
    number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    if number is None or number == len(parts) - 1:
        while len(parts) > 1 and parts[0] in _PREFIXES:
            parts = parts[1:]
        return None, ".".join(parts)
    return int(parts[number]), ".".join("*" if part.isdigit() else part for part in parts[number + 1 :])
