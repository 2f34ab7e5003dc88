"""Empty stand-ins for modules that need a GPU: imported by the trainers, not called by what is tested."""

import importlib.machinery
import sys
import types


class _Empty(types.ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing


def _nothing(*arguments: object, **options: object) -> None:
    raise NotImplementedError("a stub was called")


def stub(*names: str, **attributes: object) -> None:
    """`attributes` of each, for what is used when it is imported."""
    for name in names:
        sys.modules[name] = _Empty(name)
        vars(sys.modules[name]).update(attributes)
        parent, _, child = name.rpartition(".")
        if isinstance(sys.modules.get(parent), _Empty):
            setattr(sys.modules[parent], child, sys.modules[name])
