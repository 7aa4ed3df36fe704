import pytest

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.runner.parameters import Parameter, check, parse_cell

CELL = '''profile: str = "quick"  # smoke, quick or full
steps: int | None = None  # None: the profile's own
rate: float = -1e-3
flag: bool = True
words: list[str] = ["a", "b"]
sampler: Literal["ddim", "ddpm"] = "ddim"
plain = 3
'''


def test_parse_cell():
    known = parse_cell(CELL, "03_x")
    assert list(known) == ["profile", "steps", "rate", "flag", "words", "sampler", "plain"]
    assert known["steps"] == Parameter("steps", None, "int | None", "None: the profile's own")
    assert known["rate"].default == -1e-3 and known["plain"].annotation == "int"


@pytest.mark.parametrize("line", ["twice = steps * 2", "import os", "x: int", "a, b = 1, 2", "print(1)",
                                  "x: int = f(2)"])
def test_a_cell_with_more_than_literals_is_refused(line):
    with pytest.raises(BadParameter, match="03_x must hold literals only"):
        parse_cell("steps = 1\n" + line, "03_x")


@pytest.mark.parametrize(("annotation", "value", "expected"), [
    ("bool", "false", False), ("bool", "True", True), ("bool", "0", False), ("bool", True, True),
    ("int", "1_000", 1000), ("int", "1e3", 1000), ("int", "-7", -7), ("int", 5.0, 5),
    ("int", str(2**60 + 1), 2**60 + 1),
    ("float", "5", 5.0), ("float", 5, 5.0), ("float", "1e-3", 1e-3),
    ("str", "1e3", "1e3"), ("str", "007", "007"), ("str", "false", "false"), ("str", "", ""),
    ("int | None", "none", None), ("int | None", "3", 3), ("Optional[float]", None, None),
    ("Optional[float]", "2", 2.0),
    ("str | None", "none", None), ("str | int", "3", 3), ("str | None", "a heart", "a heart"),
    ("Union[int, str]", "x", "x"), ("typing.Optional[int]", "null", None),
    ("list[str]", "a,b c", ["a", "b c"]), ("list[int]", "[1, 2]", [1, 2]), ("list[float]", "1,2", [1.0, 2.0]),
    ("list[int]", (1, 2), [1, 2]), ("list", "['x']", ["x"]), ("tuple[int, int]", "(3, 4)", [3, 4]),
    ("dict", "{'a': 1}", {"a": 1}), ("dict", '{"a": true}', {"a": True}),
    ("Literal['a', 'b']", "b", "b"), ("Literal[1, 2]", "2", 2), ("NoneType", "3", 3), ("NoneType", "a b", "a b"),
])
def test_read_converts(annotation, value, expected):
    result = Parameter("x", None, annotation).read(value)
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(("annotation", "value"), [
    ("bool", "maybe"), ("bool", 1), ("int", "1.5"), ("int", True), ("int", "nan"), ("int", "inf"), ("int", "three"),
    ("float", "x"), ("float", False), ("str", 3), ("list[int]", "a,b"), ("list[int]", 3), ("dict", "[1]"),
    ("dict", "{"), ("Literal['a']", "c"), ("int | None", "x"), ("list[int]", "[1"), ("int", None),
])
def test_read_refuses(annotation, value):
    with pytest.raises(BadParameter, match="parameter x must be"):
        Parameter("x", None, annotation).read(value)


def test_check_names_the_nearest():
    known = parse_cell(CELL, "03_x")
    assert check(known, {"steps": "5", "flag": "no"}, "03_x") == {"steps": 5, "flag": False}
    with pytest.raises(UnknownName, match="parameter of 03_x 'step'; did you mean steps"):
        check(known, {"step": "5"}, "03_x")
