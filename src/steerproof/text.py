"""Text that others wrote, made safe to show.

Completions, persona names, comments and error messages are hostile: a completion can carry an
escape sequence that writes the clipboard, a link that lies, or a mark that turns text around.
`clean` is for terminals, `reveal` for pages (nothing vanishes: a researcher sees what the model
emitted), `neutralise_csv` for spreadsheets. HTML is escaped by the templates, not here.
"""

import math
import re

# ECMA-48 strings (OSC, DCS, SOS, PM, APC) up to their terminator, in 7-bit and 8-bit form; then
# CSI sequences; then any other escape. An unterminated string loses only its introducer.
_SEQUENCE = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_]"
    r"|\x1b[ -/]*[0-~]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
# Beside the bidi marks: tag characters (invisible text) and the byte-order mark.
_INVISIBLE = re.compile(f"[{_BIDI}\ufeff\U000e0000-\U000e007f]")
_SEPARATOR = re.compile("[\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_REVEALED = re.compile(
    f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}\ufeff\u2028\u2029\ud800-\udfff\U000e0000-\U000e007f]"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def clean(text: str) -> str:
    """Remove what could act on a terminal or mislead its reader.

    Control characters other than newline and tab, escape sequences (CSI, OSC, DCS and the like,
    7-bit and 8-bit), bidirectional marks and invisible tag characters go; line and paragraph
    separators become spaces; lone surrogates become U+FFFD. Visible text stays.
    """
    text = _SEQUENCE.sub("", text)
    text = _CONTROL.sub("", text)
    text = _INVISIBLE.sub("", text)
    text = _SEPARATOR.sub(" ", text)
    return _SURROGATE.sub("\ufffd", text)


def clean_line(text: str) -> str:
    """`clean`, and on one line: a name in a table cannot forge another row."""
    return " ".join(clean(text).split())


def reveal(text: str) -> str:
    """Replace every invisible or direction-changing character by a visible name.

    C0 controls become their Unicode pictures (`␛`), the others `⟨U+202E⟩`; newline and tab stay.
    """
    return _REVEALED.sub(_picture, text)


def neutralise_csv(value: str) -> str:
    """Return a CSV field that a spreadsheet will not run as a formula.

    A field that starts with a formula character gets a leading apostrophe, unless it is a plain
    finite number (`-1.25` is data).
    """
    if value.startswith(_FORMULA) and not _is_number(value):
        return "'" + value
    return value


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def _is_number(value: str) -> bool:
    try:
        return value == value.strip() and "_" not in value and math.isfinite(float(value))
    except ValueError:
        return False


def duration(seconds: float) -> str:
    """A time span, to the second: `18 min 21 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "0 s"


def span(seconds: float) -> str:
    """A time span in one unit: `45 s`, `3 min`, `2.5 h`, `4 d`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} d"


def byte_unit(most: float | None) -> tuple[float, str]:
    """What bytes are multiplied by to be read, and in what: GB, or MB where that is less than 0.1.

    Args:
        most: The largest number of bytes that is shown in it.
    """
    return (1e-6, " MB") if most is not None and most < 1e8 else (1e-9, " GB")
