"""What the tests of the arithmetic share."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest


@pytest.fixture
def refuses() -> Callable[[str], AbstractContextManager]:
    """`with refuses(sentence):` passes only if the block raises ValueError with exactly this sentence."""
    return lambda sentence: pytest.raises(ValueError, match=rf"\A{re.escape(sentence)}\Z")
