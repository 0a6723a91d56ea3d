"""Numbers in print: what rounds to nothing has no sign."""

import re
from pathlib import Path

import steerproof
from steerproof import tables
from steerproof.decide.report import wording

SIGNED = re.compile(r"\{[^{}\"]*:\+\.\d[f%]\}|\"\{:\+\.\d[f%]\}\"")


def test_what_rounds_to_nothing_has_no_sign():
    assert wording.percent(-0.001) == "0%"
    assert wording.fixed(-0.001) == "0.00"
    assert wording.signed(-0.001) == "+0.00"
    assert wording.bounds((-0.004, 0.2)) == "+0.00 to +0.20"
    assert wording.signed(-0.006) == "−0.01"
    assert tables._bounds((-0.004, 0.2)) == "[+0.00, +0.20]"
    assert tables._number(-0.0001) == "+0.000"


def test_no_signed_number_is_written_that_could_be_minus_nothing():
    root = Path(steerproof.__file__).parent
    written = [
        f"{file.relative_to(root)}: {found[0]}"
        for file in root.rglob("*.py")
        for found in SIGNED.finditer(file.read_text(encoding="utf-8"))
    ]
    assert not written, f"write z after the sign, as in {{value:+z.2f}}: {written}"
