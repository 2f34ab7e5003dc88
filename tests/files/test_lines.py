"""JSON lines: whole rows stay, a torn one goes, what is appended follows."""

from pathlib import Path

from driftline.files.lines import continued, whole_lines, write_lines


def test_a_file_is_continued_after_its_last_whole_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert whole_lines(path) == []
    with continued(path) as rows:
        rows.append([{"a": 1}, {"a": "ü\n"}])
    with open(path, "ab") as file:
        file.write(b'{"a": 3')
    assert len(whole_lines(path)) == 2
    with continued(path) as rows:
        rows.append([{"a": 4}])
    assert path.read_text() == '{"a": 1}\n{"a": "ü\\n"}\n{"a": 4}\n'
    write_lines(path, [{"b": 1}])
    assert path.read_text() == '{"b": 1}\n'
