"""How many examples a property test draws, and what it draws of damage.

`./scripts/test -m hypothesis --hypothesis-profile=explore` draws 30 times as many (`tests/conftest.py`).
"""

import copy
import json

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

USUAL = 100
"""Examples of a profile that does not say how many: the one of Hypothesis itself."""
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just([]), st.just({}),
    st.sampled_from([-1, 0, 2**31, 2**63, 10**30, 1e308, "", "0", "../x", "/dev/null", "\x00", "e\u0301", [[[]]],
                     [None], [0, 0], {"": ""}, {"a": [1]}]),
)  # fmt: skip
"""What no field of a file was meant to hold."""


def examples(count):
    """Settings of a test of `count` examples, times what the profile asks for; a slow machine fails none."""
    wanted = max(1, count * settings.default.max_examples // USUAL)
    return settings(max_examples=wanted, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def damaged_bytes(draw, whole):
    """A file's bytes with up to eight faults: bytes changed, most of them near the beginning, stretches gone, said
    twice, or put in; perhaps cut."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 8))):
        end = min(len(data), 300 if draw(st.booleans()) else len(data))
        at, length = draw(st.integers(0, max(0, end - 1))), draw(st.integers(1, 64))
        fault = draw(st.sampled_from(["byte", "byte", "byte", "gone", "twice", "in", "ones", "zeros"]))
        if fault == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif fault == "gone":
            del data[at : at + length]
        elif fault == "twice":
            data[at:at] = data[at : at + length]
        elif fault == "in":
            data[at:at] = draw(st.binary(max_size=16))
        elif data:
            data[at : at + length] = (b"\xff" if fault == "ones" else b"\0") * len(data[at : at + length])
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@st.composite
def damaged_values(draw, whole):
    """A JSON value with one to three faults: an entry that is another, gone, or one too many."""
    values = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = values
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            fault = draw(st.sampled_from(["other", "other", "other", "gone", "more"]))
            if fault == "gone":
                del place[key]
            elif fault == "more" and isinstance(place, dict):
                place[draw(st.text(max_size=10))] = copy.deepcopy(draw(ODD))
            else:
                place[key] = copy.deepcopy(draw(ODD))
            break
    return values


def as_json(values):
    """Bytes, half characters and numbers that are none included, as other programs write them."""
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")
