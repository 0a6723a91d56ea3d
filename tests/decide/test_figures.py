import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from steerproof.decide.analysis.kinds import bridge_kind, steered_kind
from steerproof.decide.analysis.rates import lookup
from steerproof.decide.report.figures import Drawing, Shown
from steerproof.decide.report.figures.canvas import Layout, drawing, panels, style
from steerproof.decide.report.figures.fluency import fluency
from steerproof.decide.report.figures.geometry import reference
from steerproof.decide.report.figures.learning import POINTS, achieved, thinned
from steerproof.decide.report.figures.marks import number_points, tipped
from steerproof.decide.report.figures.palette import FAINT, VARIABLES, diverging
from steerproof.decide.report.figures.ranking import ranking
from steerproof.spec.strength import NONE, Strength
from tests.decide import report_example as example

C2 = Strength.parse("c=+2")

NAMES = [
    "dose", "ranking", "ranking-co-primary", "estimates", "bootstrap", "strengths", "controls",
    "pushes", "fluency", "cosines", "reference", "losses", "achieved",
]  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def drawn() -> tuple[dict[str, Shown], list[Figure]]:
    return example.drawn()


def test_every_figure_of_the_report_is_drawn_in_order(drawn):
    assert list(drawn[0]) == NAMES


def test_every_axis_says_what_it_shows_or_names_its_ticks(drawn):
    for figure in drawn[1]:
        for axes in (a for a in figure.axes if a.axison):
            for side in "xy":
                shared = getattr(axes, f"get_shared_{side}_axes")().get_siblings(axes)
                labels = [getattr(one, f"get_{side}label")() for one in shared]
                ticks = [text.get_text() for text in getattr(axes, f"get_{side}ticklabels")()]
                assert any(labels) or any(re.search("[a-z]{2}", tick) for tick in ticks)
                assert not re.search(r"\((name|label|dimensionless)\)", " ".join(labels))


def test_a_standalone_figure_is_well_formed_and_needs_nothing_else(drawn):
    for found in drawn[0].values():
        root = ElementTree.fromstring(found.svg)
        assert root.tag == f"{SVG}svg"
        assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
            "svg", "title", "desc", "g", "defs", "path", "use", "text", "clipPath", "rect",
        }  # fmt: skip
        attributes = [(k, v) for e in root.iter() for k, v in e.attrib.items()]
        assert not [k for k, _ in attributes if k == "style" or k.startswith("on")]
        assert all(v.startswith("#") for k, v in attributes if k == "href")
        assert all("url(" not in v or v.startswith("url(#") for _, v in attributes)
        assert "var(" not in found.svg


def test_every_reference_inside_a_figure_has_its_target_and_no_identifier_repeats(drawn):
    seen = [
        e.get("id")
        for found in drawn[0].values()
        for e in ElementTree.fromstring(found.svg).iter()
        if e.get("id")
    ]
    assert len(seen) == len(set(seen))
    for found in drawn[0].values():
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', found.svg)
        assert set(used) <= set(seen)


def test_a_figure_says_what_it_shows_to_a_screen_reader(drawn):
    for found in drawn[0].values():
        root = ElementTree.fromstring(found.svg)
        label, description = (root.find(f"{SVG}{tag}") for tag in ("title", "desc"))
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == f"{label.get('id')} {description.get('id')}"
        assert (label.text, description.text) == (found.title, found.description)


def test_the_colours_of_a_page_are_variables_and_those_of_a_file_are_not(drawn):
    found = drawn[0]["ranking"]
    for colour, variable in VARIABLES.items():
        assert f'"{colour}"' not in found.inline
        if f'"{colour}"' in found.svg:
            assert f"var({variable},{colour})" in found.inline
    assert "var(--fig-blue" in found.inline


def test_the_same_inputs_give_the_same_bytes(drawn):
    again = ranking(example.inputs(), C2, "ranking")
    assert again == drawn[0]["ranking"]


def test_the_scatter_states_the_counts_of_every_headline_persona(drawn):
    given = example.inputs()
    tips = "\n".join(
        e.text or "" for e in ElementTree.fromstring(drawn[0]["ranking"].svg).iter(f"{SVG}title")
    )
    for persona in given.experiment.headline:
        for arm in ("A", "C"):
            steered = lookup(given.rates, steered_kind(given.experiment, arm, C2), persona)
            bridge = lookup(given.rates, bridge_kind(given.experiment), persona)
            words = rf"{persona.replace('_', ' ')}: steered {sum(steered.fired)} of 40, .*; "
            assert re.search(words + rf"bridge {sum(bridge.fired)} of 40, ", tips)


def test_a_cell_that_was_not_measured_is_named_and_not_drawn():
    given = example.without_cells(example.inputs(), "A", "villain")
    found = ranking(given, C2, "ranking")
    assert found.missing == ("A, neutral prompt, centroid L4 c=+2: not measured for villain",)
    tips = [e.text for e in ElementTree.fromstring(found.svg).iter(f"{SVG}title")]
    assert sum(tip.startswith("villain:") for tip in tips) == 1  # arm C only


def in_a_corner(given, arm, strength, rate):
    """The run with one rate for all personas of an arm at a strength."""
    cells = {
        cell: replace(counts, fired=tuple(round(rate * n) for n in counts.total))
        if (cell.arm, cell.strength, cell.prompt) == (arm, strength, "neutral")
        else counts
        for cell, counts in given.rates.cells.items()
    }
    return replace(given, rates=replace(given.rates, cells=cells))


def test_a_panel_with_all_its_points_in_a_corner_is_a_sentence():
    found = ranking(in_a_corner(example.inputs(), "C", C2, 0.0), C2, "ranking")
    assert isinstance(found, Drawing)
    (words,) = found.missing
    assert words.startswith("Arm C at c=+2")
    assert words.endswith("not drawn, since the steered rate is 0.00 for all 10 personas")
    assert "Arm C" not in found.svg.partition("</desc>")[2]


def test_a_bridge_that_ranks_nothing_leaves_one_sentence_and_no_figure():
    given = example.inputs()
    cells = {
        cell: replace(counts, fired=counts.total) if cell.prompt == "persona" else counts
        for cell, counts in given.rates.cells.items()
    }
    flat = replace(given, rates=replace(given.rates, cells=cells))
    assert ranking(flat, C2, "ranking") == (
        "Steered against prompted firing rate at c=+2: not drawn, since the bridge is 1.00 for all "
        "10 personas, so there is no ranking to compare with."
    )
    assert reference(flat) == (
        "Closeness to the reference persona: not drawn, since the bridge is 1.00 for all 12 "
        "personas."
    )


def test_pushes_that_are_exact_are_told_and_not_drawn():
    given = example.inputs()
    exact = tuple(replace(one, achieved=one.asked) for one in given.detail.training)
    assert achieved(replace(given, detail=replace(given.detail, training=exact))) == (
        "Every adapter got the push that was asked for, within 0.00%."
    )
    assert isinstance(achieved(given), Drawing)


def test_an_arm_without_any_cell_leaves_a_panel_that_says_so():
    given = example.inputs()
    kept = {c: v for c, v in given.rates.cells.items() if c.arm != "A" or c.strength == NONE}
    found = ranking(replace(given, rates=replace(given.rates, cells=kept)), C2, "ranking")
    assert "no measured values" in found.svg
    assert len(found.missing) == 1


def test_a_quantity_that_no_cell_has_is_reported_and_gets_no_panel():
    given = example.inputs()
    assert fluency(given).missing == ()
    rows = tuple(replace(row, repetition=None) for row in given.detail.fluency)
    found = fluency(replace(given, detail=replace(given.detail, fluency=rows)))
    assert found.missing == ("Repetition: not measured",)
    assert "repeated 3-grams" not in found.svg
    assert fluency(replace(given, detail=replace(given.detail, fluency=()))) is None


def test_numbers_beside_crowded_points_do_not_cover_each_other():
    rng = np.random.default_rng(0)
    for _ in range(40):
        with style():
            _, (axes,) = panels(Layout(height=3.4, width=3.4))
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            points = rng.uniform(0.2, 0.8, size=(10, 2))
            number_points(axes, points, [str(i + 1) for i in range(10)])
        at = axes.transData.transform(points) * 72 / axes.figure.dpi
        centres = at + np.array([text.xyann for text in axes.texts])
        for (i, a), (j, b) in itertools.combinations(enumerate(centres), 2):
            width = 6.2 * (len(str(i + 1)) + len(str(j + 1))) / 2
            assert abs(a - b)[0] >= width - 1e-9 or abs(a - b)[1] >= 9


def test_a_tip_becomes_a_title_and_hostile_text_in_it_stays_text():
    with style():
        figure, (axes,) = panels(Layout(height=2.0, width=2.0))
        axes.plot([0, 1], [0, 1], gid=tipped("<script>alert(1)</script> & 'x'"))
        found = drawing(figure, "probe", "a <b> title", "d")
    tips = [e.text for e in ElementTree.fromstring(found.svg).iter(f"{SVG}title")]
    assert tips == ["a <b> title", "<script>alert(1)</script> & 'x'"]
    assert "<script" not in found.inline


@pytest.mark.parametrize("paper", ["#ffffff", "#121619"])
def test_standalone_colours_can_be_told_from_light_and_dark_paper(paper):
    for colour in set(VARIABLES) - {FAINT}:
        assert contrast(colour, paper) >= 3.0, colour


def test_numbers_in_the_heat_map_have_the_contrast_of_text():
    for value in np.linspace(-1, 1, 201):
        assert contrast(*diverging(float(value))) >= 4.5


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio, written out from its definition."""
    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_short_loss_curve_is_kept_and_a_long_one_is_averaged():
    steps, values = thinned([3.0, 2.0, 1.0])
    assert (steps.tolist(), values.tolist()) == ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
    steps, values = thinned(np.arange(2 * POINTS, dtype=float))
    assert len(values) == POINTS
    assert (steps[0], values[0]) == (1.5, 0.5)  # steps 1 and 2, losses 0 and 1
    assert (steps[-1], values[-1]) == (2 * POINTS - 0.5, 2 * POINTS - 1.5)
