"""Files that users give besides an experiment, and the commands that read them."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from steerproof.exchange.direction import Direction, Provenance
from steerproof.exchange.files import Format, export
from steerproof.run.store.files import make_directory
from tests.attack import programs
from tests.attack.commands import Ended, command, done, pages
from tests.attack.damage import changed, instead
from tests.attack.databases import damaged_database
from tests.attack.mutations import mutated_json, mutated_lines
from tests.attack.siege import Target
from tests.attack.victims import QUIET, WHOLE
from tests.model.test_gguf import write_gguf
from tests.run.asked import asked, write_adapters
from tests.tiny import HIDDEN, LAYERS

JUDGED = {
    **WHOLE,
    "scoring": {"readout": "judge", "judgements": "judged.csv"},
}
FUNCTION = {"scoring": {"readout": "function", "function": programs.NAMED}}
Meet = Callable[[Path, int, random.Random], Iterator[Ended]]


def mutated_jsonl(data: bytes, chance: random.Random) -> bytes:
    """JSON lines of which one holds another value, or that are cut and exchanged as any lines."""
    if chance.random() < 0.4:
        return mutated_lines(data.decode(), chance).encode(errors="surrogatepass")
    lines = data.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = json.dumps(mutated_json(json.loads(lines[at]), chance)).encode()
    return b"\n".join(lines) + b"\n"


def _file(path: Path, chance: random.Random) -> str:
    """Another content for a file, or something else where it was."""
    if chance.random() < 0.05:
        return f"{path.name}: {instead(path, chance)}"
    data = path.read_bytes()
    if path.suffix == ".jsonl" and chance.random() < 0.7:
        path.write_bytes(mutated_jsonl(data, chance))
    else:
        path.write_bytes(changed("x.bin" if path.suffix == ".jsonl" else path.name, data, chance))
    return path.name


def _target(sound: Path, names: tuple[str, ...], meet: Meet) -> Target:
    """A directory of which one of these files is damaged."""
    return Target(
        copy=lambda place: shutil.copytree(sound, place, symlinks=True) and None,
        damage=lambda place, chance: _file(place / chance.choice(names), chance),
        meet=meet,
    )


def _plan(place: Path) -> Ended:
    return command("plan", place / "e.yaml", "--dir", place / "new", "--no-trial")


def answers(sound: Path) -> Target:
    """`dataset.answers`: `plan` reads it; every fortieth is trained on, if it may be."""
    asked(sound)

    def meet(place: Path, number: int, _chance: random.Random) -> Iterator[Ended]:
        yield _plan(place)
        if number % 40 == 0:
            yield command("run", place / "e.yaml", "--dir", place / "runs" / "run", *QUIET)

    return _target(sound, ("answers.jsonl",), meet)


def judgements(sound: Path) -> Target:
    """`scoring.judgements`: of a run that is measured, and marked by what the file says."""
    asked(sound, JUDGED)
    run = sound / "runs" / "run"
    done(4, "run", sound / "e.yaml", "--dir", run, *QUIET)
    done(0, "completions", run, "--out", sound / "texts.jsonl")
    rows = map(json.loads, (sound / "texts.jsonl").read_text().splitlines())
    said = [f"{row['row_id']},{n % 3 == 0:d}\n" for n, row in enumerate(rows)]
    (sound / "judged.csv").write_text("row_id,fired\n" + "".join(said))

    def meet(place: Path, number: int, chance: random.Random) -> Iterator[Ended]:
        yield command("run", place / "e.yaml", "--dir", place / "runs" / "run", *QUIET)
        if number % 4 == 0:
            yield _plan(place)
            yield from pages(place / "runs", ("/", "/experiments/1"))

    return _target(sound, ("judged.csv",), meet)


def directions(sound: Path) -> Target:
    """Directions in every format that is read: shown, imported, and brought by a persona."""
    asked(sound, {"personas": [
        {"name": "pirate", "prompt": "You are a pirate.", "direction": "own.safetensors"},
        {"name": "poet", "prompt": "You are a poet.", "direction": "poet.gguf"},
        {"name": "judge", "prompt": "You are a judge.", "direction": "judge.pt"},
        {"name": "helper", "prompt": "You help.", "headline": False},
    ]})  # fmt: skip
    formats: tuple[Format, ...] = ("steerproof", "gguf", "persona-vectors", "vllm-lens")
    known = Provenance(model_type="qwen2", blocks=LAYERS)
    chance = torch.Generator().manual_seed(1)
    files = ("own.safetensors", "poet.gguf", "judge.pt", "lens.json", "plain.safetensors")
    names = ("pirate", "poet", "judge", "lens")
    for form, name, file in zip(formats, names, files[:4], strict=True):
        vectors = torch.randn(LAYERS, HIDDEN, generator=chance)
        some = [
            Direction(name=name, layer=layer, vector=vectors[layer], provenance=known)
            for layer in range(1, LAYERS)
        ]
        for path, content in export(some, form, sound / file).items():
            path.write_bytes(content)
    shutil.copy(sound / "own.safetensors", sound / "plain.safetensors")
    _without_note(sound / "plain.safetensors")

    def meet(place: Path, number: int, chance: random.Random) -> Iterator[Ended]:
        for name in files:
            model = ("--model", place / "model")
            yield command("directions", "show", place / name, *model, "--rows", "block")
        yield command("directions", "import", place / chance.choice(files), "--out", place / "x.st")
        if number % 4 == 0:
            yield _plan(place)

    return _target(sound, files, meet)


def _without_note(path: Path) -> None:
    from safetensors.numpy import load, save

    path.write_bytes(save({f"layers.{n[-1]}": t for n, t in load(path.read_bytes()).items()}))


def given_adapters(sound: Path) -> Target:
    """`arms[].adapters`: PEFT's two files and what steerproof writes beside them."""
    write_adapters(sound)
    asked(sound, {"arms": [
        {"name": "A", "prompt": "neutral", "direction": "centroid", "ratio": 0.2},
        {"name": "C", "prompt": "persona", "adapters": "loras"},
    ]})  # fmt: skip
    record = {
        "experiment": "e", "arm": "C", "persona": "poet", "prompt": "persona",
        "system_prompt": "You are a poet.", "marker": "1", "direction": "none", "layer": None,
        "strength": "none", "base_model": "model", "revision": None,
    }  # fmt: skip
    for place in (sound / "loras").iterdir():
        own = {"persona": place.name, "system_prompt": f"You are a {place.name}."}
        (place / "steerproof.json").write_text(json.dumps(record | own))
    names = ("adapter_config.json", "adapter_model.safetensors", "steerproof.json")
    files = tuple(f"loras/poet/{name}" for name in (*names, "steerproof.json"))
    return _target(sound, files, lambda place, _number, _chance: iter((_plan(place),)))


def gguf_models(sound: Path) -> Target:
    """`model.path` of a GGUF file: converted, and asked what `plan` asks of a model."""
    asked(sound, {"model.path": "tiny.gguf"})
    write_gguf(sound / "tiny.gguf", quantised=True)
    (sound / "whole.gguf").write_bytes((sound / "tiny.gguf").read_bytes())

    def meet(place: Path, number: int, _chance: random.Random) -> Iterator[Ended]:
        yield _plan(place)

    return _target(sound, ("tiny.gguf",), meet)


def sweeps(sound: Path) -> Target:
    """What a sweep found: drawn anew, and made anew by the sweep now and then."""
    asked(sound, {"generation.max_new_tokens": 4})
    over = ("--over", "layers.primary=1,2", "--draws", 2, "--dir")
    done(0, "sweep", sound / "e.yaml", *over, sound / "runs", *QUIET)

    def meet(place: Path, number: int, chance: random.Random) -> Iterator[Ended]:
        runs = place / "runs"
        yield command("figures", runs, "--out", place / "out", "--format", "svg")
        for word in chance.sample(("status", "verify", "report", "explain"), 2):
            yield command(word, runs)
        if number % 4 == 0:
            yield from pages(runs, ("/", "/table"))
        if number % 40 == 0:
            yield command("sweep", place / "e.yaml", *over, runs, *QUIET)
            yield command("figures", runs, "--out", place / "out", "--format", "png")

    return _target(sound, ("runs/results/sweep.json",), meet)


def functions(sound: Path) -> Target:
    """A readout that is somebody's program, or the words that name it."""
    asked(sound, FUNCTION)
    (sound / "readouts.py").write_text(f"{programs.HEAD} {programs.GOOD}")
    done(0, "run", sound / "e.yaml", "--dir", sound / "runs" / "run", *QUIET)

    def damage(place: Path, chance: random.Random) -> str:
        source, named = programs.program(chance)
        (place / "readouts.py").write_bytes(source)
        if named != programs.NAMED:
            asked(place, {**FUNCTION, "scoring.function": named})
        return source.decode(errors="replace").splitlines()[-1][:40] if source else ""

    def meet(place: Path, number: int, _chance: random.Random) -> Iterator[Ended]:
        run, why = place / "runs" / "run", ("--deviate", "another function")
        yield command("run", place / "e.yaml", "--dir", run, *QUIET, *why)
        yield command("status", run)
        yield command("verify", run)
        if number % 4 == 0:
            yield command("report", run)
            yield from pages(place / "runs", ("/", "/experiments/1"))

    return Target(copy=_target(sound, (), meet).copy, damage=damage, meet=meet)


def boards(sound: Path) -> Target:
    """The board's own file: bytes, pages, values of any row."""
    make_directory(sound / "runs")
    note = sound / "p.md"
    note.write_text("---\ntitle: One\nexperiment: zlt\n---\n# One\n\nText.\n")
    for _ in range(3):
        done(0, "propose", note, "--board-dir", sound / "board")

    def damage(place: Path, chance: random.Random) -> str:
        file = place / "board" / "board.sqlite"
        if chance.random() < 0.05:
            return f"board.sqlite: {instead(file, chance)}"
        return damaged_database(file, chance)

    def meet(place: Path, number: int, chance: random.Random) -> Iterator[Ended]:
        yield from pages(place / "runs", ("/", "/table", "/experiments/1", "/experiments/2/edit"))
        yield command("propose", place / "p.md", "--board-dir", place / "board")

    copy = _target(sound, (), meet).copy
    return Target(copy=copy, damage=damage, meet=meet)


KINDS: dict[str, Callable[[Path], Target]] = {
    "given answers": answers,
    "judgements": judgements,
    "given directions": directions,
    "given adapters": given_adapters,
    "gguf models": gguf_models,
    "boards": boards,
    "sweeps": sweeps,
    "functions": functions,
}
"""Each makes sound files in an empty directory."""
