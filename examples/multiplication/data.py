"""Five digits times one digit, as tokens: `D4 D3 D2 D1 D0 x d =` and then the answer, its last digit first.

The task of "Dissecting Multiplication in Transformers" (arXiv 2407.15360), in its reversed format. One problem in ten, by a
hash of its two numbers, is kept for testing and never trained on.
"""

import numpy as np
import numpy.typing as npt

DIGITS = 5
TIMES, EQUALS = 10, 11
VOCABULARY = 12
ANSWER = 6
PROMPT = DIGITS + 3
LENGTH = PROMPT + ANSWER - 1
"""Tokens that the model sees; its last answer digit is only predicted."""

Numbers = npt.NDArray[np.int64]


def held_out(a: Numbers, b: Numbers) -> npt.NDArray[np.bool_]:
    """Which problems a x b are for testing: about one in ten (Knuth's multiplicative hash)."""
    return ((a * 10 + b) * 2654435761 % (1 << 32)) % 10 == 0


def draw(rng: np.random.Generator, count: int, testing: bool) -> tuple[Numbers, Numbers]:
    """Numbers a (five digits) and b (one digit) whose digits are uniform, of the training or of the test problems."""
    a, b = np.empty(0, np.int64), np.empty(0, np.int64)
    while len(a) < count:
        more = rng.integers(0, 10**DIGITS, 2 * count), rng.integers(0, 10, 2 * count)
        mine = held_out(*more) == testing
        a, b = np.append(a, more[0][mine]), np.append(b, more[1][mine])
    return a[:count], b[:count]


def digits(number: Numbers, count: int) -> Numbers:
    """[N] -> [N, count], the last digit first."""
    return number[:, None] // 10 ** np.arange(count) % 10


def encode(a: Numbers, b: Numbers) -> tuple[Numbers, Numbers]:
    """(tokens [N, 13], answers [N, 6]): the answer's first five digits are among the tokens, as when it is written down."""
    answers = digits(a * b, ANSWER)
    signs = np.broadcast_to([TIMES, EQUALS], (len(a), 2))
    tokens = np.concatenate(
        [digits(a, DIGITS)[:, ::-1], signs[:, :1], b[:, None], signs[:, 1:], answers[:, :-1]], axis=1
    )
    return tokens, answers


def subtasks(a: Numbers, b: Numbers) -> dict[str, npt.NDArray[np.bool_]]:
    """Which digits [N, 6] of the answer belong to which subtask (the paper's names); each digit to exactly one.

    Digit i is (D_i d + c_i) mod 10, c_i what the digits below carry. BM: c_i = 0, the digit of a product alone. CA: D_i d
    is 0, so that the digit is the carry itself. UC: a carry is added to a product, and the digit below had no carry of its
    own. UCFC: a carry is added that another carry made larger or made at all: the cascade.
    """
    product = digits(a, ANSWER) * b[:, None]
    carry = np.zeros((len(a), ANSWER + 1), np.int64)
    for i in range(ANSWER):
        carry[:, i + 1] = (product[:, i] + carry[:, i]) // 10
    into = carry[:, :-1]
    below = np.concatenate([np.zeros((len(a), 1), np.int64), product[:, :-1] // 10], axis=1)
    cascade = into != below  # the digit below alone would carry less
    return {
        "BM": into == 0,
        "CA": (into > 0) & (product == 0),
        "UC": (into > 0) & (product > 0) & ~cascade,
        "UCFC": (into > 0) & (product > 0) & cascade,
    }
