"""Colours of the figures: safe for colour-blind readers, and for light and dark pages.

A figure is drawn with the colours named here. For a page they become CSS variables, so that the
page's theme decides; in a standalone file they stay as they are: middle tones that can be read on
white and on black alike. Arms and strengths are told apart by shape as well, never by colour only.
"""

INK = "#6f767d"
"""Text, titles and reference lines."""
QUIET = "#71787f"
"""Ticks, axes and secondary text."""
FAINT = "#9aa1a8"
"""Grid lines, whiskers and fills behind the data."""

BLUE = "#1f7fb8"
ORANGE = "#d1690f"
GREEN = "#0f9270"
PURPLE = "#b5689a"
GOLD = "#a67c00"
SLATE = "#7b7fb0"

VARIABLES = {
    INK: "--fig-ink",
    QUIET: "--fig-quiet",
    FAINT: "--fig-faint",
    BLUE: "--fig-blue",
    ORANGE: "--fig-orange",
    GREEN: "--fig-green",
    PURPLE: "--fig-purple",
    GOLD: "--fig-gold",
    SLATE: "--fig-slate",
}
"""CSS variable of every colour; the page that shows a figure gives their values."""

SERIES = ((BLUE, "o"), (GREEN, "^"), (ORANGE, "s"), (PURPLE, "D"), (GOLD, "v"), (SLATE, "P"))
"""Colour and marker shape of the first, second, ... series."""


def diverging(value: float) -> tuple[str, str]:
    """Fill and text colour of a number in -1 ... 1: orange, white, blue (Okabe-Ito ends)."""
    share = min(abs(value), 1.0)
    end = (0, 90, 140) if value >= 0 else (184, 84, 0)
    red, green, blue = (round(247 + (e - 247) * share) for e in end)
    fill = (red / 255, green / 255, blue / 255)
    light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in fill]
    luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]
    # White has the better contrast below this luminance (WCAG 2.2 contrast ratio).
    return f"#{red:02x}{green:02x}{blue:02x}", "#ffffff" if luminance < 0.179 else "#000000"
