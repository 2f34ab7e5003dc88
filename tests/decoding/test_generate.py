"""Samples on disk: what a row holds, resumption, single models, and what is refused in a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import CONTEXT, pair, save, tokenizer

from driftline.decoding.generate import GenerateReport, generate, settings_file
from driftline.decoding.sampler import Sampler, row_seed
from driftline.decoding.settings import GenerationSettings
from driftline.decoding.sources import load_sampler
from driftline.errors import InputError


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    early, late = pair()
    return str(save(tmp_path / "early", early)), str(save(tmp_path / "late", late))


@pytest.fixture
def settings(models: tuple[str, str]) -> GenerationSettings:
    early, late = models
    return GenerationSettings(late=late, early=early, alpha=1.5, samples=3, max_new_tokens=10, seed=4)


def prompt_file(folder: Path, rows: list[dict]) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    chat = [{"role": "w20", "content": "w21 w22"}]
    return prompt_file(tmp_path, [{"prompt": f"w{5 + i} w7"} for i in range(4)] + [{"messages": chat}])


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rows_hold_the_samples_of_every_prompt(tmp_path, settings, asked):
    seen: list[int] = []
    report = generate(asked, tmp_path / "out.jsonl", settings, batch_size=4, advance=seen.append)
    rows = rows_of(tmp_path / "out.jsonl")
    assert [(row["index"], row["sample"]) for row in rows] == [(i, k) for i in range(5) for k in range(3)]
    assert set(rows[0]) == {"index", "sample", "prompt", "response", "response_ids", "finish_reason"}
    assert rows[0]["prompt"] == "w5 w7"
    assert rows[12]["prompt"] == "w20 w21 w22 w9"
    sampler = load_sampler(settings.late, early=settings.early, alpha=1.5)
    alone = sampler.sample([[20, 21, 22, 9]], temperature=0.6, top_p=0.95, max_new_tokens=10, seeds=[row_seed(4, 4, 2)])
    assert rows[14]["response_ids"] == alone[0].ids
    assert rows[14]["response"] == sampler.tokenizer.decode(alone[0].ids, skip_special_tokens=True)
    assert isinstance(report, GenerateReport)
    assert (report.rows, report.new_rows) == (15, 15)
    assert report.new_tokens == sum(len(row["response_ids"]) for row in rows)
    assert 0 < report.acceptance <= 1 <= report.tokens_per_early_pass
    assert sum(seen) == 15


def test_the_batch_size_does_not_change_the_rows(tmp_path, settings, asked):
    for size in (1, 7):
        generate(asked, tmp_path / f"{size}.jsonl", settings, batch_size=size)
    assert (tmp_path / "1.jsonl").read_text() == (tmp_path / "7.jsonl").read_text()


@pytest.mark.parametrize("torn", [b"", b'{"index": 2, "sam'])
def test_a_file_cut_short_is_continued(tmp_path, settings, asked, torn):
    out = tmp_path / "out.jsonl"
    generate(asked, out, settings)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:7]) + torn)
    assert generate(asked, out, settings).new_rows == 8
    assert out.read_bytes() == whole
    assert generate(asked, out, settings).new_rows == 0


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("state", ["no file", "no rows", "no rows, and no settings", "rows of a former call"])
def test_a_file_is_begun_whatever_a_killed_call_left(tmp_path, settings, asked, state, overwrite):
    """It empties the file, then puts the settings beside it; so a file with rows has the settings that made them."""
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    generate(asked, whole, settings)
    generate(asked, out, replace(settings, seed=5))
    if state == "no file":
        out.unlink()
    elif state != "rows of a former call":
        out.write_bytes(b"")
        (tmp_path / ".out.jsonl.settings.json.partial").write_text("{")
    if state.endswith("no settings"):
        settings_file(out).unlink()
    if state == "rows of a former call" and not overwrite:
        with pytest.raises(InputError, match="other settings"):
            generate(asked, out, settings)
        return
    generate(asked, out, settings, overwrite=overwrite)
    assert out.read_bytes() == whole.read_bytes()
    assert settings_file(out).read_bytes() == settings_file(whole).read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_single_model_is_sampled_without_an_early_one(tmp_path, models, asked):
    settings = GenerationSettings(late=models[1], temperature=0, max_new_tokens=6)
    generate(asked, tmp_path / "out.jsonl", settings)
    _, late = pair()
    wanted = Sampler(late, tokenizer()).sample([[5, 7]], temperature=0, max_new_tokens=6, seeds=[0])[0].ids
    assert rows_of(tmp_path / "out.jsonl")[0]["response_ids"] == wanted


@pytest.mark.parametrize(
    "changes", [{"alpha": 2.0}, {"seed": 5}, {"temperature": 1.0}, {"samples": 2}, {"max_new_tokens": 11}]
)
def test_a_file_made_with_other_settings_is_refused_unless_overwritten(tmp_path, settings, asked, changes):
    out = tmp_path / "out.jsonl"
    generate(asked, out, settings)
    before = out.read_bytes()
    other = replace(settings, **changes)
    with pytest.raises(InputError, match=f"other settings \\({next(iter(changes))} "):
        generate(asked, out, other)
    assert out.read_bytes() == before
    generate(asked, out, other, overwrite=True)
    assert out.read_bytes() != before


def test_other_prompts_or_other_weights_are_noticed(tmp_path, settings, asked):
    out = tmp_path / "out.jsonl"
    generate(asked, out, settings)
    save(Path(settings.late), pair(seed=3)[1])
    with pytest.raises(InputError, match="other settings \\(models "):
        generate(asked, out, settings)
    out.unlink()
    generate(asked, out, settings)
    prompt_file(tmp_path, [{"prompt": "w8"}])
    with pytest.raises(InputError, match="other settings \\(prompts "):
        generate(asked, out, settings)


def test_anyone_elses_file_is_left_alone(tmp_path, settings, asked):
    with pytest.raises(InputError, match="did not write it"):
        generate(asked, asked, settings, overwrite=True)
    out = tmp_path / "out.jsonl"
    generate(asked, out, settings)
    out.write_text("not JSON\n")
    with pytest.raises(InputError, match="line 1, is damaged"):
        generate(asked, out, settings)
    with pytest.raises(InputError, match="is a folder"):
        generate(asked, tmp_path, settings)
    assert settings_file(out).is_file()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"prompt": "w5"}, {"prompt": " ".join(["w5"] * CONTEXT)}], f"row 1, has {CONTEXT} tokens"),
        ([{"question": "w5"}], "row 0 has neither prompt"),
        ([{"prompt": 5}], "row 0 has neither prompt"),
        ([{"messages": []}], "row 0 has messages that are not"),
        ([{"messages": [{"role": "user"}]}], "row 0 has messages that are not"),
        ([], "has no rows"),
        ([[1, 2]], "line 1, is not a JSON object"),
    ],
)
def test_prompts_that_cannot_be_used_are_named(tmp_path, settings, rows, sentence):
    with pytest.raises(InputError, match=sentence):
        generate(prompt_file(tmp_path, rows), tmp_path / "out.jsonl", settings)
    assert not (tmp_path / "out.jsonl").exists()


def test_messages_need_a_chat_template(tmp_path, asked):
    _, late = pair()
    plain = str(save(tmp_path / "plain", late, tokenizer(template=None)))
    with pytest.raises(InputError, match="row 4 has messages, but the model has no chat template"):
        generate(asked, tmp_path / "out.jsonl", GenerationSettings(late=plain))
    strict = tokenizer(template="{{ raise_exception('roles must alternate') }}")
    refusing = str(save(tmp_path / "refusing", late, strict))
    with pytest.raises(InputError, match="row 4 does not fit the model's chat template"):
        generate(asked, tmp_path / "out.jsonl", GenerationSettings(late=refusing))


def test_unreadable_prompts_are_refused(tmp_path, settings):
    with pytest.raises(InputError, match="cannot be read"):
        generate(tmp_path / "absent.jsonl", tmp_path / "out.jsonl", settings)
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "w5"}\n{"prompt"\n')
    with pytest.raises(InputError, match="line 2, is not JSON"):
        generate(file, tmp_path / "out.jsonl", settings)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        generate(file, tmp_path / "out.jsonl", settings)


def test_models_that_do_not_belong_together_are_refused(tmp_path, models):
    early, late = models
    other = str(save(tmp_path / "other", pair(vocab_size=40)[0], tokenizer(words=40)))
    with pytest.raises(InputError, match="different vocabularies"):
        load_sampler(late, early=other, alpha=1.5)
    with pytest.raises(InputError, match="--alpha needs --early"):
        load_sampler(late, alpha=1.5)
    with pytest.raises(InputError, match="--early needs --alpha"):
        load_sampler(late, early=early)


@pytest.mark.parametrize("changes", [{"samples": 0}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 2.0}])
def test_settings_out_of_range_are_refused(settings, changes):
    with pytest.raises(InputError, match=f"--{next(iter(changes)).replace('_', '-')} is"):
        replace(settings, **changes)
