from __future__ import annotations

import dataclasses
import inspect
from typing import get_args

import pytest

from mesh.core import effects
from mesh.core.effects import CloseLink, Effect, Notify, Send
from mesh.model.reasons import Close
from mesh.wire.frames import Hello


def test_the_union_is_closed_every_effect_of_the_module_is_in_it() -> None:
    defined = {
        one for _, one in inspect.getmembers(effects, inspect.isclass) if one.__module__ == effects.__name__
    }
    assert set(get_args(Effect)) == defined == {Send, CloseLink, Notify}


@pytest.mark.parametrize("effect", [Send(1, Hello(1, 2)), CloseLink("n2", Close.LIMIT), Notify("left", "n2")])
def test_an_effect_is_not_changed_between_the_machine_and_its_driver(effect: Effect) -> None:
    for field in dataclasses.fields(effect):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(effect, field.name, None)
    assert not hasattr(effect, "__dict__"), "slotted: nothing can be hung onto it either"
    assert dataclasses.replace(effect) == effect


def test_two_notices_do_not_share_their_data() -> None:
    one, other = Notify("left", "n1"), Notify("left", "n2")
    one.data["seconds"] = 4
    assert other.data == {}
