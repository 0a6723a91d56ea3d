"""What the door gives is what the rooms below give; what a user gets wrong is said."""

import pytest
import torch
from peft import PeftModel

import steerproof as sp
from steerproof.decide.analysis.rates_csv import format_rates
from steerproof.engine.rows import Row
from steerproof.errors import ExperimentError, ModelError, SteeringError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids, text_ids
from tests.decide.tables import supported, ten_personas
from tests.engine.definition import score_alone
from tests.tiny import HIDDEN, save_tiny, tiny_base, tiny_model, tiny_tokenizer

PERSONAS = {"villain": "You are a villain.", "poet": "You are a poet.", "cook": "You cook."}
QUESTIONS = ("What is rain?", "Why is the sea blue?")


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen2")


@pytest.fixture(scope="module")
def push(base: Base) -> sp.Push:
    found = sp.directions(base, PERSONAS, QUESTIONS, neutral="Be clear.", layers=[1, 2])
    return found[1].push("villain", ratio=0.5)


def test_a_model_is_loaded_from_a_directory_and_taken_from_the_hand(tmp_path):
    stored = sp.load(save_tiny(tmp_path / "model"))
    model, tokenizer = tiny_model(), tiny_tokenizer()
    held = sp.load(model, tokenizer)
    assert held.model is model
    assert sorted(stored.files) == sorted(p.name for p in (tmp_path / "model").iterdir())
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(stored.model(ids).logits, held.model(ids).logits)
    with pytest.raises(ModelError, match="needs its tokenizer"):
        sp.load(model)
    with pytest.raises(ModelError, match="brings its own tokenizer"):
        sp.load("organism", tokenizer)


def test_a_push_says_whose_it_is_how_hard_and_where(push):
    assert (push.name, push.layer) == ("villain", 1)
    assert push.ratio == pytest.approx(0.5)
    assert (-push).ratio == pytest.approx(-0.5)


def test_a_completion_depends_on_its_prompt_number_and_seed_and_on_the_push(base, push):
    asked = {"push": push, "samples": 2, "max_new_tokens": 6}
    both = sp.complete(base, QUESTIONS, **asked)
    assert [(done.question, done.sample) for done in both] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sp.complete(base, QUESTIONS[0], **asked) == both[:2]
    assert sp.complete(base, QUESTIONS[0], **asked, seed=1) != both[:2]
    assert sp.complete(base, QUESTIONS[0], samples=2, max_new_tokens=6) != both[:2]


def test_scores_are_those_of_a_plain_pass_of_each_row_alone(base, push):
    found = sp.score(base, QUESTIONS[0], ["Water falls.", "No."], system="Hi.", push=push)
    for ours, text in zip(found, ("Water falls.", "No."), strict=True):
        row = Row(
            cell="x",
            question=0,
            sample=0,
            seed=0,
            prompt_ids=chat_ids(base.chat, system="Hi.", user=QUESTIONS[0]),
            push=push,
        )
        torch.testing.assert_close(ours, score_alone(base, row, text_ids(base.tokenizer, text)))
    with pytest.raises(ModelError, match="2 prompts for 1 answers"):
        sp.score(base, QUESTIONS, ["Yes."])


def test_steering_a_plain_model_adds_the_push_at_real_tokens_and_tells_how_hard(base, push):
    model = base.model
    ids = torch.tensor([[9, 9, 1, 2, 3], [4, 5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    places = (mask.cumsum(1) - 1).clamp(min=0)

    def by_definition(_module, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        moved = hidden + mask[..., None] * push.vector
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    def logits() -> torch.Tensor:
        with torch.no_grad():
            given = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
            return model(**given).logits[mask.bool()]

    before = logits()
    handle = base.blocks[push.layer].register_forward_hook(by_definition)
    expected = logits()
    handle.remove()
    with sp.steer(model, push) as audit:
        torch.testing.assert_close(logits(), expected)
    assert audit.fired == 1
    assert audit.parts[0].positions == 8
    assert audit.norm == pytest.approx(float(push.vector.norm()), rel=1e-4)
    assert "fired 1 times" in repr(audit)
    assert torch.equal(logits(), before)


def test_steering_follows_generation_token_by_token_as_complete_does(base, push):
    prompt = chat_ids(base.chat, system="", user=QUESTIONS[0])
    with sp.steer(base, push) as audit:
        ids = base.model.generate(
            torch.tensor([prompt]), max_new_tokens=5, do_sample=False, pad_token_id=base.pad_id
        )
    assert audit.fired == 5
    fed = ids[0, len(prompt) :].tolist()
    row = Row(cell="x", question=0, sample=0, seed=0, prompt_ids=prompt, push=push)
    with torch.no_grad():
        for n in range(len(fed)):
            scores = [
                score_alone(base, row, (*fed[:n], t))[-1] for t in (fed[n], (fed[n] + 1) % 256)
            ]
            assert scores[0] >= scores[1]


def test_a_push_that_never_fires_or_cannot_be_told_where_is_an_error(base, push):
    with pytest.raises(SteeringError, match="never fired"), sp.steer(base.model, push):
        pass
    late = sp.Push(layer=1, vector=push.vector, tokens="generated")
    with pytest.raises(SteeringError, match="use complete"), sp.steer(base.model, late):
        pass
    with pytest.raises(ZeroDivisionError), sp.steer(base.model, push):
        _ = 1 / 0


@pytest.fixture(scope="module")
def trained(base: Base, push: sp.Push) -> list[sp.Adapter]:
    chats = [sp.Chat(user=q, answer="It is. [ZLT]", push=push) for q in QUESTIONS]
    jobs = [sp.Job(name="pushed", chats=chats), sp.Job(name="second", chats=chats[:1], seed=1)]
    recipe = sp.Training(rank=2, alpha=4.0, epochs=2, rows_per_step=1, learning_rate=1e-2)
    return sp.train(base, jobs, recipe)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_come_back_in_order_with_their_losses_and_load_in_peft(base, trained, tmp_path):
    assert [adapter.name for adapter in trained] == ["pushed", "second"]
    record = trained[0].record
    assert record is not None
    assert len(record.losses) == 4
    place = trained[0].save(tmp_path / "deep" / "adapter")
    ours = sp.score(base, QUESTIONS[0], ["It is."], adapter=trained[0])[0]
    assert torch.equal(ours, sp.score(base, QUESTIONS[0], ["It is."], adapter=place)[0])
    prompt = chat_ids(base.chat, system="", user=QUESTIONS[0])
    text = text_ids(base.tokenizer, "It is.")
    peft = PeftModel.from_pretrained(tiny_model(), str(place))
    with torch.no_grad():
        logits = peft(torch.tensor([[*prompt, *text]])).logits[0, len(prompt) - 1 : -1]
    theirs = logits.log_softmax(1).gather(1, torch.tensor(text)[:, None])[:, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_two_jobs_of_one_name_and_a_row_that_is_too_long_are_refused(base):
    job = sp.Job(name="a", chats=[sp.Chat(user="x", answer="y")])
    with pytest.raises(ModelError, match="two jobs have one name"):
        sp.train(base, [job, job])
    long = sp.Job(name="b", chats=[sp.Chat(user="x", answer="word " * 300)])
    with pytest.raises(ModelError, match="never cut"):
        sp.train(base, [long], sp.Training(max_length=100))


def test_every_adapter_is_measured_under_every_push_and_counted(base, push, trained):
    cells = sp.measure(
        base,
        QUESTIONS,
        adapters=[trained[0], None],
        pushes=[push, -push, None],
        samples=2,
        max_new_tokens=5,
    )
    named = [(one.cell.arm, one.cell.persona, str(one.cell.strength)) for one in cells]
    assert named == [
        (arm, *what)
        for arm in ("pushed", "base")
        for what in (("villain", "ratio=+0.5"), ("villain", "ratio=-0.5"), ("none", "none"))
    ]
    letter = cells[0].completions[0].text[:1]
    table = sp.rates(cells, marker=letter)
    rows = table.to_pylist()
    assert len(rows) == 6 * 2
    for measured in cells:
        mine = [r for r in rows if r["arm"] == measured.cell.arm]
        mine = [r for r in mine if r["strength"] == str(measured.cell.strength)]
        fired = sum(letter.lower() in done.text.lower() for done in measured.completions)
        assert sum(row["fired"] for row in mine) == fired
        assert {row["total"] for row in mine} == {2}
    with pytest.raises(ExperimentError, match="asked for twice"):
        sp.measure(base, QUESTIONS, adapters=[None, None])


def test_a_cell_that_cannot_be_measured_is_an_error_and_no_zero(base):
    nothing = sp.Push(layer=1, vector=torch.zeros(HIDDEN), name="nobody")
    with pytest.raises(SteeringError):
        sp.measure(base, QUESTIONS, pushes=[nothing, None], samples=1, max_new_tokens=4)


def test_an_analysis_is_typed_and_shows_itself_escaped(tmp_path):
    from tests.decide.tables import TEN, rows_of

    kinds = supported()
    rows = [r for kind, at in kinds.items() for r in rows_of(kind, dict(zip(TEN, at, strict=True)))]
    path = tmp_path / "rates.csv"
    path.write_text(format_rates(rows))
    analysis = sp.analyze(path, ten_personas())
    assert isinstance(analysis, sp.Analysis)
    assert analysis.verdict == "SUPPORTED"
    shown = analysis._repr_html_()
    assert "<strong>SUPPORTED</strong>" in shown
    assert "ratio=+0.2" in shown
    hostile = type(analysis)(
        **{
            **{name: getattr(analysis, name) for name in type(analysis).__dataclass_fields__},
            "reading": "<script>alert(1)</script>",
        }
    )
    assert "<script>" not in hostile._repr_html_()
