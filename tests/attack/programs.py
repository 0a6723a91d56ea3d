"""Functions that mark completions, as nobody should write them: what they give, raise and do."""

import random
from itertools import product

from tests.attack.mutations import NASTY, VALUES

NAMED = "readouts.py:shouts"
HEAD = "def shouts(answer, question):"
GOOD = "return 'e' in answer"
_GIVEN = (
    *map(repr, (v for v in VALUES if v == v and v not in (float("inf"), 1e308, 10**400))),
    *("float('nan')", "float('inf')", "10 ** 5000", "print", "lambda: True", "type", "object()"),
    *("(True for _ in 'a')", "'x' * 10 ** 7", "NotImplemented", "...", "bytearray(9)", "answer"),
)
_RAISED = (
    *(
        "SystemExit(0)",
        "SystemExit('\\ud800')",
        "SystemExit(77)",
        "GeneratorExit()",
        "StopIteration",
    ),
    *("BaseException('x' * 10 ** 6)", "MemoryError()", "RecursionError()", "OSError(28, 'full')"),
    *("UnicodeDecodeError('a', b'b', 0, 1, 'c')", "ValueError('\\ud800\\x1b[31m\\x00')", "5"),
    *("ExceptionGroup('a', [ValueError()])", "ImportError(name='torch')", "AssertionError"),
    *("ModuleNotFoundError('no', name='yaml')", "FileNotFoundError(2, 'no', '\\udcff')", "Warning"),
    *(
        "ValueError('x' * 10 ** 6)",
        "StopAsyncIteration",
        "BrokenPipeError()",
        "NotImplementedError",
    ),
)
_DONE = (
    "print('x' * 10 ** 5); return True",
    "import sys; sys.stdout.write('\\x1b]0;x\\x07{}'); return True",
    "import sys; sys.stderr.write('\\ud800'); return True",
    "import sys; sys.stdout.close(); return True",
    "import sys; sys.exit()",
    "import nowhere; return True",
    "import random; return random.random() < 0.5",
    "return shouts(answer, question)",
    "return True if question else 1",
    "yield True",
    "import threading; threading.Thread(target=print, daemon=True).start(); return True",
    "import warnings; warnings.warn('x'); return True",
    "import logging; logging.error('x'); return True",
    "import gc; gc.collect(); return answer == question",
    "import sys; sys.setrecursionlimit(60); return True",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); return True",
    "import decimal; decimal.getcontext().prec = 1; return True",
    "import locale; locale.setlocale(locale.LC_ALL, 'C'); return True",
    "import random; random.seed(0); return True",
    "import numpy; return numpy.bool_(True)",
    "import re; return re.search('e', answer)",
    "globals().clear(); return True",
    "return bool(answer) and not answer.nothing",
    "del answer",
)
_BODIES = (
    *(f"return {value}" for value in _GIVEN),
    *(f"raise {error}" for error in _RAISED),
    *_DONE,
)
_CLASS = "class Odd:\n    def {name}(self, *_):\n        {body}\n\n"
_OF_A_CLASS = tuple(
    _CLASS.format(name=name, body=body).encode() + f"{HEAD} return Odd()".encode()
    for name, body in product(
        ("__repr__", "__bool__", "__eq__", "__call__", "__format__", "__str__"),
        ("raise SystemExit(3)", "return 5", "raise ValueError(self)"),
    )
)
_LIARS = (
    b"class Odd:\n    __class__ = bool\n\nodd = Odd()\n" + f"{HEAD} return odd".encode(),
    b"class Odd(Exception):\n    def __repr__(self): raise self\n\n" + f"{HEAD} raise Odd".encode(),
    b"class Odd(Exception):\n    def __str__(self): raise SystemExit\n\n"
    + f"{HEAD} raise Odd".encode(),
)
_WHOLE = (
    *NASTY,
    *_OF_A_CLASS,
    *_LIARS,
    *(f"raise {error}".encode() for error in _RAISED),
    *(b"shouts = " + value for value in (b"5", b"bool", b"print", b"exit", b"type", b"int")),
    *(b"shouts = lambda: True", b"def shouts(a): return True", b"async def shouts(a, q): pass"),
    b"def shouts(*, answer, question): return True",
    b"def shouts(a, q, r=[]):\n    r.append(1)\n    return len(r) % 2 == 0",
    b"# coding: nothing\n" + f"{HEAD} {GOOD}".encode(),
    b"# coding: utf-16\n" + f"{HEAD} {GOOD}".encode(),
    b"\xef\xbb\xbf" + f"{HEAD} {GOOD}".encode(),
    f"{HEAD} {GOOD}".encode("utf-16"),
    f"{HEAD}\r    {GOOD}\r".encode(),
    f"{HEAD} {GOOD}\x00".encode(),
    f"{HEAD} {GOOD}\x1a".encode(),
    b"from dataclasses import dataclass\n\n@dataclass\nclass A:\n    x: 'int'\n\n"
    + f"{HEAD} {GOOD}".encode(),
    b"from __future__ import annotations\n" + f"{HEAD} {GOOD}".encode(),
    b"import sys; sys.modules['json'] = None\n" + f"{HEAD} {GOOD}".encode(),
    b"1" + b"+1" * 20_000,
    b"x = " + b"(" * 300 + b")" * 300,
    b"print('before')\n" + f"{HEAD} {GOOD}".encode(),
    b"if __name__ == '__main__': raise SystemExit\n" + f"{HEAD} {GOOD}".encode(),
    b"assert __file__\n" + f"{HEAD} {GOOD}".encode(),
)
_NAMES = (
    *("readouts.py", "readouts.py:", ":shouts", "readouts.py:none", "readouts.py:shouts.x"),
    *("../readouts.py:shouts", "/readouts.py:shouts", "readouts.txt:shouts", "other.py:shouts"),
    *("runs.py:shouts", "model:shouts", "readouts.py:__builtins__", "readouts.py:__name__"),
    *("a\x00.py:shouts", "x" * 300 + ".py:shouts", "./readouts.py:shouts", "readouts.py:ſhouts"),
    *("readouts.py:exit", "a/../readouts.py:shouts", "readouts.py:shouts ", "~/readouts.py:shouts"),
)
COUNT = len(_BODIES) + len(_WHOLE) + len(_NAMES)


def program(chance: random.Random) -> tuple[bytes, str]:
    """The source of a file, and what the experiment says that the function is called."""
    at = chance.randrange(COUNT)
    if at < len(_BODIES):
        return f"{HEAD} {_BODIES[at]}".encode(), NAMED
    if at < len(_BODIES) + len(_WHOLE):
        return _WHOLE[at - len(_BODIES)], NAMED
    return f"{HEAD} {GOOD}".encode(), _NAMES[at - len(_BODIES) - len(_WHOLE)]
