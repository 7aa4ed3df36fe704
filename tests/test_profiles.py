import pytest

from t2ilib.errors import BadParameter, UnknownName
from t2ilib.profiles import PROFILES, resolve

TABLES = {"smoke": {"steps": 2}, "quick": {"steps": 20, "rate": 0.1, "name": "small", "limit": None, "sizes": (1, 2)},
          "full": {"steps": 2000, "name": "large"}}


@pytest.mark.parametrize(("profile", "steps", "name"), [("smoke", 2, "small"), ("quick", 20, "small"),
                                                        ("full", 2000, "large")])
def test_a_profile_lies_over_quick(profile, steps, name):
    settings = resolve(profile, **TABLES)
    assert vars(settings) == {"steps": steps, "rate": 0.1, "name": name, "limit": None, "sizes": (1, 2)}
    assert profile in PROFILES


def test_overrides_win_and_none_means_the_profiles_own():
    settings = resolve("full", **TABLES, overrides={"steps": 7, "rate": None, "limit": 3, "sizes": [4, 5, 6]})
    assert (settings.steps, settings.rate, settings.limit, settings.sizes) == (7, 0.1, 3, (4, 5, 6))
    rate = resolve("quick", **TABLES, overrides={"rate": 1}).rate
    assert rate == 1.0 and type(rate) is float
    assert TABLES["quick"]["steps"] == 20  # the tables themselves stay as they are


@pytest.mark.parametrize(("override", "message"), [
    ({"steps": "7"}, r"steps must be int, got '7' \(str\).*20"), ({"steps": 7.5}, "steps must be int"),
    ({"steps": True}, "steps must be int"), ({"rate": True}, "rate must be float"), ({"name": 3}, "name must be str"),
])
def test_another_type_is_refused(override, message):
    with pytest.raises(BadParameter, match=message):
        resolve("quick", **TABLES, overrides=override)


def test_unknown_names():
    with pytest.raises(UnknownName, match="profile 'fulll'; did you mean full"):
        resolve("fulll", **TABLES)
    with pytest.raises(UnknownName, match="setting 'step'; did you mean steps"):
        resolve("quick", **TABLES, overrides={"step": 1})
    with pytest.raises(UnknownName, match="missing in `quick`.*'stepz'"):
        resolve("quick", **{**TABLES, "smoke": {"stepz": 1}})
