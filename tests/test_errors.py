import pytest

from t2ilib.errors import (
    BadParameter,
    CheckpointMismatch,
    KernelUnavailable,
    MissingAsset,
    RunFailed,
    T2IError,
    UnknownName,
    close_matches,
    unknown_name,
)

METHODS = ["vqgan_clip", "generator", "gigagan", "minimagen", "text_transformer"]


def test_each_error_is_ours_and_also_what_python_code_expects():
    for error, builtin in ((UnknownName, ValueError), (BadParameter, ValueError), (MissingAsset, FileNotFoundError),
                           (CheckpointMismatch, Exception), (KernelUnavailable, RuntimeError),
                           (RunFailed, RuntimeError)):
        assert issubclass(error, T2IError) and issubclass(error, builtin)
        assert str(error("what to do")) == "what to do"
    assert issubclass(UnknownName, BadParameter)


@pytest.mark.parametrize(("name", "best"), [("vqgan-clip", "vqgan_clip"), ("VQGAN_CLIP", "vqgan_clip"),
                                            ("minimage", "minimagen"), ("transformer", "text_transformer"),
                                            ("giga", "gigagan")])
def test_misspelt_names_find_their_neighbours(name, best):
    assert close_matches(name, METHODS)[0] == best
    assert f"did you mean {best}" in str(unknown_name("method", name, METHODS))


def test_nothing_similar_lists_all_and_many_names_are_not_listed():
    text = str(unknown_name("method", "zzz", METHODS))
    assert "no similar name" in text and all(name in text for name in METHODS)
    many = [f"model-{i:03}" for i in range(50)]
    text = str(unknown_name("model", "model-7", many))
    assert "did you mean" in text and text.count("model-") <= 5
    assert close_matches("", METHODS) == [] and "no similar name" in str(unknown_name("method", "", []))
    assert len(close_matches("model", many)) == 3
