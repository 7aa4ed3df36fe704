import json
import re
from urllib.parse import unquote

import pytest
from PIL import Image

from t2ilib.runner import report


def fake_run(folder, name="03_vqgan_clip", when="10", **changes):
    run = folder / name / f"20261120-{when}0000_quick_s0_ab"
    (run / "figures").mkdir(parents=True)
    Image.new("RGB", (900, 300), "red").save(run / "figures" / "samples.png")
    record = {"name": name, "status": "ok", "started": f"2026-11-20T{when}:00:00+00:00", "seconds": 161.2, "seed": 0,
              "profile": "quick", "device": "CPU, 2 threads", "commit": "abc1234", "peak_memory_mib": 2048.0,
              "parameters": {"given": {"seed": 0}, "resolved": {"steps": 100}}, "versions": {"torch": "2.15.0"},
              "metrics": {"judge_top1": 0.312345, "kid": {"value": 0.01, "n": 512}}, "figures": ["figures/samples.png"],
              "artefacts": [{"file": "model.safetensors", "bytes": 2**20}], "fallbacks": [], "overrides": {}, **changes}
    (run / "run.json").write_text(json.dumps(record))
    (run / "notebook.html").write_text("notebook")
    return run


def test_the_page_shows_a_run_and_links_to_it(tmp_path):
    run = fake_run(tmp_path / "runs", overrides={"profile": "quick", "seed": 3})
    (run / "metrics.csv").write_text("step,name,value\n0,loss,3\n1,loss,2\n2,loss,nan\n3,loss,1\n4,lo")
    page = report.build_report(tmp_path / "runs", tmp_path / "index.html").read_text()
    for text in ("vqgan clip", "2 min 41 s", "0.3123", "0.01 (n 512)", "2.0 GB", "seed=3", "steps", "2.15.0",
                 "model.safetensors", "03_vqgan_clip --profile quick -p seed 3<",
                 "loss: 3 → 1", "data:image/webp;base64,"):
        assert text in page, text
    links = {unquote(link) for link in re.findall(r"href='([^']*)'", page)}
    assert len(links) == 3 and all((tmp_path / link).exists() for link in links)
    assert not re.search(r'(src|href)=["\'](https?:)?//', page) and "{{" not in page


def test_text_from_a_run_is_escaped_and_paths_are_short(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>{{cards}}"
    fake_run(tmp_path / "runs", status="failed", error=f"{evil} in {report.repo_root()}/t2ilib/x.py", fallbacks=[evil],
             metrics={evil: evil}, overrides={"prompt": evil}, device=evil, profile=evil)
    page = report.build_report(tmp_path / "runs", tmp_path / "index.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page and page.count("</script>") == 1
    assert str(report.repo_root()) not in page and "./t2ilib/x.py" in page


def test_newest_first_and_only_the_newest_counts_as_latest(tmp_path):
    for when in ("10", "12", "11"):
        fake_run(tmp_path / "runs", when=when)
    fake_run(tmp_path / "runs", name="00_playground", when="09", figures=["figures/gone.png"])
    runs = report.load_runs(tmp_path / "runs")
    assert [run["started"][11:13] for run in runs] == ["12", "11", "10", "09"]
    page = report.render(runs, tmp_path)
    assert re.findall(r'data-latest="(\d)"', page) == ["1", "0", "0", "1"] and "2 earlier" in page


def test_a_failed_run_stays_until_its_command_was_run_again(tmp_path):
    runs = tmp_path / "runs"
    fake_run(runs, when="08", status="failed")  # repeated at 10
    fake_run(runs, when="09", status="failed", overrides={"steps": 7})  # not repeated
    fake_run(runs, when="10")
    fake_run(runs, when="11", overrides={"seed": 1})
    fake_run(runs, when="12", overrides={"seed": 2})
    found = report.load_runs(runs)
    shown = [run["started"][11:13] for run, latest in zip(found, report.find_latest(found), strict=True) if latest]
    assert shown == ["12", "09"]
    assert "3 earlier" in report.render(found, tmp_path)


@pytest.mark.parametrize(("files", "label", "target"), [
    (["notebook.html", "script.py"], "notebook", "notebook.html"),
    (["notebook.ipynb"], "notebook file", "notebook.ipynb"),
    (["script.py"], "script", "script.py"), ([], "notebook source", "notebooks/03_vqgan_clip.ipynb")])
def test_every_run_links_to_what_was_run(tmp_path, files, label, target):
    run = fake_run(tmp_path / "runs")
    (run / "notebook.html").unlink()
    for name in files:
        (run / name).write_text("x")
    page = report.build_report(tmp_path / "runs", tmp_path / "index.html").read_text()
    link, = re.findall(f"<a href='([^']*)'>{label}</a>", page)
    assert unquote(link).endswith(target) and (tmp_path / unquote(link)).resolve().is_file()


@pytest.mark.parametrize("text", ["{", "", '{"status": "odd", "started": null, "metrics": {}}'])
def test_a_broken_record_does_not_break_the_page(tmp_path, text):
    fake_run(tmp_path / "runs")
    run = fake_run(tmp_path / "runs", name="01_gan_basics")
    (run / "run.json").write_text(text)
    (run / "figures" / "samples.png").write_bytes(b"not a picture")
    page = report.build_report(tmp_path / "runs", tmp_path / "index.html").read_text()
    assert "gan basics" in page and "vqgan clip" in page and 'data-status="failed"' in page


def test_no_runs(tmp_path):
    assert "No runs yet" in report.build_report(tmp_path / "runs", tmp_path / "index.html").read_text()


def test_the_page_works_in_a_browser(tmp_path, browser):
    fake_run(tmp_path / "runs", overrides={"prompt": "a red heart"})
    fake_run(tmp_path / "runs", when="12")
    fake_run(tmp_path / "runs", name="01_gan_basics", when="09", status="failed", error="ValueError: x")
    fake_run(tmp_path / "runs", name="01_gan_basics", when="11")
    path = report.build_report(tmp_path / "runs", tmp_path / "index.html")
    for width, scheme in ((1280, "light"), (390, "dark")):
        page, errors = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme), []
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.goto(path.as_uri())
        assert page.locator(".card:visible").count() == 2
        page.click(".chip.failed")  # the earlier one, too
        assert page.locator(".card:visible .pill").inner_text() == "failed"
        page.click(".chip.failed")
        assert page.locator(".card:visible").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        page.check("#older")
        assert page.locator(".card:visible").count() == 4
        page.fill("#find", "prompt")
        assert page.locator(".card:visible").count() == 1
        page.fill("#find", "")
        page.click(".chip.failed")
        assert page.locator(".card:visible h2").inner_text() == "01 gan basics"
        page.fill("#find", "nothing like it")
        assert page.locator("#none").is_visible() and errors == []
        page.close()
