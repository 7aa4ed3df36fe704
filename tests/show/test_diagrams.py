import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch

from t2ilib import show
from t2ilib.errors import BadParameter, UnknownName
from t2ilib.show.figures import COLOURS

ROWS = [["noise", "generator", "picture"], ["", "", "loss"]]


def boxes(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]


def arrows(figure):
    return [text.arrow_patch for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]


def test_a_diagram_has_a_box_for_each_name_and_an_arrow_for_each_link():
    figure = show.diagram(ROWS, ["noise > generator > picture > loss"], learns=["generator"], losses=["loss"])
    assert len(boxes(figure)) == 4 and len(arrows(figure)) == 3
    names = {text.get_text() for text in figure.axes[0].texts if text.get_text()}
    assert names == {"noise", "generator", "picture", "loss"}
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["what passes through", "learns", "loss"]  # nothing is frozen, no gradient is drawn


def test_gradients_are_dashed_and_go_the_other_way():
    figure = show.diagram(ROWS, ["generator > picture"], gradients=["loss > picture > generator"])
    dashed = [arrow for arrow in arrows(figure) if arrow.get_linestyle() not in ("-", "solid")]
    assert len(dashed) == 2
    assert {to_hex(arrow.get_edgecolor()) for arrow in dashed} == {COLOURS[0]}


def test_boxes_of_a_row_stand_at_one_height_from_left_to_right():
    first, second, third, below = [box.get_bbox() for box in boxes(show.diagram(ROWS, []))]
    assert first.x0 < second.x0 < third.x0 and first.y0 == second.y0 == third.y0
    assert below.x0 == third.x0 and below.y1 < third.y0


@pytest.mark.parametrize(("rows", "settings", "error", "message"), [
    ([], {}, BadParameter, "at least one box"),
    ([["", ""]], {}, BadParameter, "at least one box"),
    ([["a", "a"]], {}, BadParameter, "two places"),
    (ROWS, {"arrows": ["noise > generatr"]}, UnknownName, "generator"),
    (ROWS, {"gradients": ["noise > nobody"]}, UnknownName, "nobody"),
    (ROWS, {"frozen": ["encoder"]}, UnknownName, "encoder")])
def test_a_diagram_that_cannot_be_drawn_says_why(rows, settings, error, message):
    with pytest.raises(error, match=message):
        show.diagram(rows, **({"arrows": []} | settings))
