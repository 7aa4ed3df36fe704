"""Windows of long texts, with a count of words that is known by hand and with open_clip's own tokenizer."""

from itertools import pairwise
from statistics import fmean

import pytest

from t2ilib.encoders.windows import OVERLAP, text_windows


def words_and_two(text):
    return len(text.split()) + 2


@pytest.fixture(scope="module")
def clip_count():
    import open_clip

    tokenizer = open_clip.SimpleTokenizer()
    return lambda text: len(tokenizer.encode(text)) + 2


def places(windows, words):
    """Return the first and last place of each window among words that are all different."""
    return [(words.index(w.split()[0]), words.index(w.split()[-1])) for w in windows]


def test_a_text_that_fits_is_left_alone():
    text = "  one two\nthree "
    assert text_windows(text, 5, words_and_two) == [text]
    assert text_windows("", 5, words_and_two) == [""]


@pytest.mark.parametrize("count", [9, 11, 40, 77, 500])
def test_windows_are_equal_fit_and_overlap_by_a_quarter(count):
    words = [f"w{i}" for i in range(count)]
    windows = text_windows("  ".join(words), 10, words_and_two)
    spans = places(windows, words)
    sizes = [last - first + 1 for first, last in spans]
    assert max(sizes) <= 8 and max(sizes) - min(sizes) <= 1
    assert spans[0][0] == 0 and spans[-1][1] == count - 1
    shared = [a[1] - b[0] + 1 for a, b in pairwise(spans)]
    assert all(1 <= n <= 3 for n in shared) and abs(fmean(shared) - OVERLAP * fmean(sizes)) < 0.75
    assert len(windows) <= count / 5 + 2  # no more windows than needed


def test_windows_are_the_texts_own_words_and_signs():
    text = "A fox,\n\tquick & brown;  jumps -- over... the (lazy) dog!"
    windows = text_windows(text, 6, words_and_two)
    assert len(windows) > 1 and all(w in text and w == w.strip() for w in windows)
    assert {word for w in windows for word in w.split()} == set(text.split())


def test_a_giant_word_is_cut_inside(clip_count):
    giant = "".join("abcdefgh"[i * i % 7] + "xyz"[i % 3] for i in range(400))
    assert clip_count(giant) > 2 * 77
    windows = text_windows(giant, 77, clip_count)
    assert all(clip_count(w) <= 77 for w in windows) and all(w in giant for w in windows)
    assert windows[0] == giant[:len(windows[0])] and windows[-1] == giant[-len(windows[-1]):]
    assert sum(map(len, windows)) >= 1.1 * len(giant)  # nothing is left out, and neighbours overlap
    mixed = text_windows(f"a red {giant} heart", 77, clip_count)
    assert mixed[0].startswith("a red ") and mixed[-1].endswith(" heart") and all(clip_count(w) <= 77 for w in mixed)


def test_long_words_do_not_make_windows_short(clip_count):
    address = "-".join(f"part{i}" for i in range(12))
    assert 36 <= clip_count(address) <= 77
    text = " ".join(["see " * 9 + address] * 20)
    sizes = [clip_count(w) for w in text_windows(text, 77, clip_count)]
    assert max(sizes) <= 77 and min(sizes) > 50 and len(sizes) < 1.3 * clip_count(text) / (0.75 * 75)


def test_signs_without_blanks_and_signs_of_many_tokens(clip_count):
    windows = text_windows("漢字絵" * 60, 77, clip_count)
    assert len(windows) > 1 and all(clip_count(w) <= 77 for w in windows)
    assert text_windows("ab", 3, lambda text: 2 + 5 * len(text)) == ["a", "b"]  # nothing fits: the reader cuts


def test_a_text_repeated_keeps_all_its_windows():
    assert len(text_windows("fish " * 100, 12, words_and_two)) == len(text_windows(
        " ".join(f"w{i}" for i in range(100)), 12, words_and_two))
