"""The ten lines of the README run as they stand."""

import re
from pathlib import Path
from typing import Any

import pytest

import steerproof as sp

README = Path(__file__).parents[2] / "README.md"


def test_the_door_of_the_readme_runs_line_by_line(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), flags=re.DOTALL)
    zlt = sp.load_experiment("zlt").experiment
    base = sp.load("organism")
    chats = [sp.Chat(user=q, answer="It is. [ZLT]") for q in zlt.questions.training[:4]]
    opened = []
    monkeypatch.setattr(sp, "train", lambda *_: [])
    monkeypatch.setattr(sp, "open_run", lambda place: opened.append(place) or Finished())
    names: dict[str, Any] = {
        "personas": {p.name: p.prompt for p in zlt.personas[:8]},
        "questions": zlt.questions.evaluation[:2],
        "jobs": [sp.Job(name="a", chats=chats)],
        "tokens": {"input_ids": base.tokenizer("Rain.", return_tensors="pt").input_ids},
    }
    exec(compile(code, str(README), "exec"), names)
    assert len(names["done"]) == 5
    assert names["audit"].fired > 0
    assert opened == ["runs/zlt"]


class Finished:
    """In place of a run that takes minutes: reading one is tested where one was made."""

    verdict = None


@pytest.mark.parametrize("name", sp.__all__)
def test_every_public_name_is_told_of_somewhere(name):
    root = README.parent
    pages = [README, root / "docs" / "notebooks" / "tour.ipynb", Path(sp.__file__)]
    assert any(name in page.read_text("utf-8") for page in pages)
