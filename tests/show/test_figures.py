import warnings
from unittest.mock import Mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from t2ilib import show
from t2ilib.errors import BadParameter, MissingAsset, MissingInput, UnknownName
from t2ilib.media.film import FilmWriter


def pictures(n=5, size=16):
    return torch.linspace(0, 1, n * 3 * size * size).reshape(n, 3, size, size)


def test_to_pil_keeps_values_and_shapes():
    x = pictures(2, 8)
    made = show.to_pil(x)
    assert [p.size for p in made] == [(8, 8)] * 2 and made[0].mode == "RGB"
    np.testing.assert_array_equal(np.asarray(made[1]), (x[1] * 255).round().byte().permute(1, 2, 0).numpy())
    assert show.to_pil(x[0]).size == (8, 8) and show.to_pil(torch.zeros(1, 4, 6)).mode == "L"
    assert show.to_pil(made[0]) is made[0] and len(show.to_pil([x[0], made[0]])) == 2
    np.testing.assert_array_equal(np.asarray(show.to_pil((x[1] * 255).round().byte())), np.asarray(made[1]))
    assert np.asarray(show.to_pil(torch.full((3, 2, 2), 1.1))).max() == 255  # a small overshoot is clipped
    assert show.to_pil(x.bfloat16().requires_grad_())[0].size == (8, 8)


@pytest.mark.parametrize(("x", "message"), [
    (torch.full((3, 4, 4), -1.0), r"\(x \+ 1\) / 2"), (torch.full((3, 4, 4), float("nan")), r"\[0, 1\]"),
    (torch.zeros(4, 4), "shape"), (torch.zeros(2, 5, 4, 4), "shape"), (torch.full((3, 4, 4), 255.0), r"\[0, 1\]")])
def test_to_pil_refuses(x, message):
    with pytest.raises(BadParameter, match=message):
        show.to_pil(x)


def test_grid_has_one_axis_for_each_picture():
    figure = show.grid(pictures(5), [f"picture {i}" for i in range(5)], columns=3, title="all")
    shown = [axis for axis in figure.axes if axis.images]
    assert len(figure.axes) == 6 and len(shown) == 5 and shown[4].get_title() == "picture 4"
    with pytest.raises(BadParameter, match="2 titles for 5 pictures"):
        show.grid(pictures(5), ["a", "b"])
    with pytest.raises(BadParameter, match="no pictures"):
        show.grid([])


def test_figures_show_themselves_once_and_never_pile_up():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = [show.grid(pictures(1, 4)) for _ in range(30)]
    assert plt.get_fignums() == []
    assert figures[0]._repr_png_().startswith(b"\x89PNG")


def test_compare_labels_rows():
    figure = show.compare({"real": pictures(3), "reconstructed": pictures(2)}, titles=["a", "b", "c"])
    assert len(figure.axes) == 6 and sum(bool(axis.images) for axis in figure.axes) == 5
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()] == ["real", "reconstructed"]
    with pytest.raises(BadParameter, match="at least one row"):
        show.compare({})


def test_compare_wraps_titles_that_would_run_into_their_neighbours():
    figure = show.compare({"real": pictures(2)}, titles=["face with peeking eye", "house with garden"], scale=1.2)
    assert [axis.get_title() for axis in figure.axes] == ["face with\npeeking eye", "house with\ngarden"]


def test_curves_from_values_and_from_a_run(tmp_path):
    figure = show.curves({"loss": [3.0, 2.0, 1.0], "other": ([0, 10], [1.0, 2.0])}, smooth=2, log=True)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["loss", "other"]
    assert axis.get_yscale() == "log"
    smoothed = next(line for line in axis.lines if line.get_label() == "loss")
    np.testing.assert_allclose(smoothed.get_ydata(), [3.0, 2.5, 1.5])
    (tmp_path / "metrics.csv").write_text("step,name,value\n0,a,1\n0,b,5\n10,a,0.5\n")
    assert show.read_metrics(tmp_path) == {"a": ([0.0, 10.0], [1.0, 0.5]), "b": ([0.0], [5.0])}
    panels = show.curves(tmp_path, separate=True)
    assert [axis.get_ylabel() for axis in panels.axes] == ["a", "b"]
    with pytest.raises(UnknownName, match="did you mean loss"):
        show.curves({"loss": [1.0]}, names=["los"])
    with pytest.raises(MissingAsset, match="no metrics.csv"):
        show.curves(tmp_path / "nowhere")
    assert show.read_metrics(tmp_path / "nowhere", missing_ok=True) == {}
    with pytest.raises(BadParameter, match="at least one series"):
        show.curves({})


def test_contact_sheet_holds_every_picture():
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (10, 5), "blue")
    sheet = show.contact_sheet([red, blue, red], ["one", "a caption much longer than its picture is wide", "三"],
                               columns=2, size=64, title="a red heart")
    plain = show.contact_sheet([red, blue, red], columns=2, size=64)
    assert sheet.width == plain.width == 8 + 2 * 72 and sheet.height > plain.height
    pixels = np.asarray(plain).reshape(-1, 3)
    assert (pixels == (255, 0, 0)).all(1).sum() == 2 * 64 * 64 and (pixels == (0, 0, 255)).all(1).sum() == 64 * 32
    with pytest.raises(BadParameter, match="1 captions for 2"):
        show.contact_sheet([red, blue], ["x"])


def test_save_takes_pictures_and_figures(tmp_path):
    assert Image.open(show.save(pictures(1)[0], tmp_path / "new" / "one.png")).size == (16, 16)
    assert Image.open(show.save(pictures(4), tmp_path / "four.png")).size[0] > 256
    assert show.save(show.grid(pictures(2)), tmp_path / "figure.png").stat().st_size > 500


def test_widgets_fall_back_to_pictures_where_nobody_watches(monkeypatch):
    calls = []

    def draw(value):
        calls.append(value)
        return torch.full((3, 8, 8), value / 10)

    figure = show.slider(draw, [1, 5, 9], label="guidance_scale")
    assert calls == [1, 5, 9] and figure.axes[1].get_title() == "guidance_scale = 5"
    assert len(show.gallery(pictures(3)).axes) == 3
    monkeypatch.setenv("T2I_INTERACTIVE", "1")
    calls.clear()
    widget = show.slider(draw, [1, 5, 9], label="guidance_scale")
    control, picture = widget.children
    first = picture.value
    assert calls == [1] and bytes(first[:4]) == b"\x89PNG"
    control.value = 2
    assert calls == [1, 9] and picture.value != first
    control.value = 0
    assert calls == [1, 9] and picture.value == first  # drawn once each
    assert len(show.gallery(pictures(3), ["a", "b", "c"]).children) == 3


def test_live_redraws_one_display_and_only_for_a_person(monkeypatch):
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(("update", figure))

    def display(figure, display_id):
        shown.append(("display", figure))
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    live = show.Live()
    live.update("first")
    assert not live.watched and shown == []
    monkeypatch.setenv("T2I_INTERACTIVE", "1")
    live = show.Live()
    for figure in ("first", "second", "third"):
        live.update(figure)
    assert live.watched and shown == [("display", "first"), ("update", "second"), ("update", "third")]


def test_a_slider_that_does_nothing_is_warned_of():
    with pytest.warns(UserWarning, match="'size' does nothing between 5 and 9: the picture changes by 0.00%"):
        show.slider(lambda value: torch.full((3, 8, 8), min(value, 5) / 10), [1, 5, 9], label="size")
    with pytest.warns(UserWarning) as caught:
        show.slider(lambda value: torch.zeros(3, 8, 8), [1, 5, 9], label="size")
    assert str(caught[-1].message) == "the slider 'size' does nothing at any stop"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        show.slider(lambda value: torch.full((3, 8, 8), value / 10), [1, 5, 9])
        show.slider(lambda value: torch.zeros(3, value, value), [1, 5, 9])  # another size is another picture


def test_scatter_names_its_points():
    figure = show.scatter({"one": (1.0, 0.5), "two": (10.0, 0.7)}, bars={"one": (0.4, 0.6)}, log=True, xlabel="s")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == ["one", "two"]
    assert axis.get_xscale() == "log"
    with pytest.raises(BadParameter, match="at least one point"):
        show.scatter({})
    with pytest.raises(UnknownName, match="thre"):
        show.scatter({"three": (0.0, 0.0)}, bars={"thre": (0.0, 1.0)})


def test_clouds_share_their_axes_and_mark_what_is_aimed_at():
    ring = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
    figure = show.clouds({"one": [torch.zeros(5, 2), torch.ones(3, 2)], "two": [9 * torch.ones(1, 2)]}, around=ring,
                         titles=["step 1", "step 2"])
    filled = [axis for axis in figure.axes if axis.lines]
    assert len(figure.axes) == 4 and len(filled) == 3  # the second row has one cloud only
    assert {axis.get_xlim() for axis in filled} == {axis.get_ylim() for axis in filled} == {(-4.0, 4.0)}
    points, marks = filled[0].lines
    assert len(points.get_xdata()) == 5 and len(marks.get_xdata()) == 4
    assert [axis.get_title() for axis in figure.axes] == ["step 1", "step 2", "", ""]
    with pytest.raises(BadParameter, match="at least one cloud"):
        show.clouds({}, around=ring)


def test_a_training_draws_at_once_and_then_for_a_tenth_of_the_time(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("t2ilib.show.widgets.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("IPython.display.display", lambda figure, display_id: Mock())
    drawn = []

    def draw(seconds):
        drawn.append(clock[0])
        clock[0] += seconds
        return "figure"

    show.Live().refresh(lambda: draw(0.1))
    assert drawn == []  # nobody watches
    monkeypatch.setenv("T2I_INTERACTIVE", "1")
    live = show.Live()
    for _ in range(400):  # 40 seconds of steps and 5 figures
        live.refresh(lambda: draw(1.0))
        clock[0] += 0.1
    assert [round(second) for second in drawn] == [100, 110, 120, 130, 140]
    drawn.clear()
    quick = show.Live()
    began = clock[0]
    for _ in range(100):  # 10 seconds
        quick.refresh(lambda: draw(0.0))
        clock[0] += 0.1
    assert [round(second - began) for second in drawn] == [0, 2, 4, 6, 8]


def test_a_film_plays_in_the_notebook(tmp_path):
    with FilmWriter(tmp_path / "film.webp", fps=4) as film:
        for shade in (0.0, 1.0):
            film.add(torch.full((3, 16, 16), shade))
    shown = show.film(film.path)
    assert shown.data == film.path.read_bytes()
    assert "image/webp" in InteractiveShell.instance().display_formatter.format(shown)[0]
    with pytest.raises(BadParameter, match="play .webp and .gif"):
        show.film(tmp_path / "film.mp4")
    with pytest.raises(MissingInput, match="no film"):
        show.film(tmp_path / "none.webp")
