"""Typed records: what a command found, as one type that is written to JSON and read back from it.

In memory and on disk a record is the same: a figure that there is none of is None and `null`, a part that does not
apply is UNSET and absent. Fields are declared in the order in which they are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from typing_extensions import dataclass_transform

from driftline.errors import InputError, first_line
from driftline.files.atomic import replace_text
from driftline.files.json import LIMIT, finite, json_text
from driftline.files.regular import open_regular

__all__ = ["UNSET", "Figure", "Record", "UnsetType", "read_record", "record_text", "write_record"]

Figure: TypeAlias = float | None
"""A number, or None where there is none (or none that is finite)."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class _RecordType(msgspec.StructMeta):
    """What is true of every record, so that none has to say it."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any) -> Any:
        asked = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True, **config}
        return super().__new__(mcs, name, bases, namespace, **asked)


class Record(msgspec.Struct, metaclass=_RecordType):
    """The base of all records. `record["share_above_0.7"]` asks by the key that the JSON has."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not UNSET and not isinstance(value, (msgspec.Struct, str, bool)):
                msgspec.structs.force_setattr(self, name, finite(value))

    def __getitem__(self, key: str) -> Any:
        if key == self.__struct_config__.tag_field:
            return self.__struct_config__.tag
        for name, told in zip(self.__struct_fields__, self.__struct_encode_fields__, strict=True):
            if told == key and getattr(self, name) is not UNSET:
                return getattr(self, name)
        raise KeyError(key)

    def __contains__(self, key: str) -> bool:
        try:
            return self[key] is not UNSET
        except KeyError:
            return False


SomeRecord = TypeVar("SomeRecord", bound=Record)


def record_text(record: Any) -> str:
    """The JSON of a record, or of a list of them."""
    return json_text(msgspec.to_builtins(record))


def write_record(path: Path, record: Any) -> None:
    """Write a record in one piece."""
    replace_text(path, record_text(record))


def read_record(path: Path, kind: type[SomeRecord], *, what: str) -> SomeRecord:
    """The record in a file.

    Args:
        what: which command or what else writes such a file, for the sentence.

    Raises:
        InputError: the file cannot be read, or is no such record.
    """
    try:
        with open_regular(path) as file:
            text = file.read(LIMIT + 1)
        if len(text) > LIMIT:
            raise ValueError(f"more than {LIMIT >> 20} MiB")
        return msgspec.json.decode(text, type=kind)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give what {what} wrote") from error
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise InputError(f"{path} is not what {what} writes ({first_line(error)}): make it again") from error
