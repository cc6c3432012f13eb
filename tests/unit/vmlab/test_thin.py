from __future__ import annotations

from vmlab.thin import thin


def test_each_test_once_and_the_parameters_take_turns() -> None:
    families = ("v4", "v6", "mapped")
    names = [f"t.py::{name}[{family}]" for name in ("a", "b", "c", "d") for family in families]
    kept = [names[position] for position in thin(["t.py::x", *names, "t.py::y"]) if 0 < position <= len(names)]
    assert len(kept) == 4
    assert thin(names) == [0, 4, 8, 9]
    assert thin(["t.py::x", *names, "t.py::y"]) == [0, 1, 5, 9, 10, 13]


def test_the_same_name_in_another_file_is_another_test() -> None:
    assert thin(["a.py::x[1]", "a.py::x[2]", "b.py::x[1]", "b.py::x[2]"]) == [0, 3]
    assert thin([]) == []
