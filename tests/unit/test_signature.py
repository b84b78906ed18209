"""What get_config takes is read from its source, which is never run."""

import sys
from pathlib import Path

import pytest
from said import says

from rvk8s.errors import InputError
from rvk8s.project.signature import Signature, find_module, nearest, read_signature

ANY = Signature("get_config", any_name=True)


@pytest.mark.parametrize(
    ("code", "signature"),
    [
        ("def get_config(runner, a, b=1): ...", Signature("get_config", ("a", "b"), ("a",))),
        (
            "def get_config(r, /, a, *, b, c=1): ...",
            Signature("get_config", ("a", "b", "c"), ("a", "b")),
        ),
        ("def get_config(runner='x', a=1): ...", Signature("get_config", ("a",))),
        ("def get_config(*all): ...", Signature("get_config")),
        ("def get_config(runner, a, **kw): ...", Signature("get_config", ("a",), ("a",), True)),
        # Raster Vision prefers get_configs.
        (
            "def get_config(runner, a): ...\ndef get_configs(runner, b): ...",
            Signature("get_configs", ("b",), ("b",)),
        ),
        # The last definition counts, as when the module is run.
        (
            "def get_config(runner, a): ...\ndef get_config(runner, b): ...",
            Signature("get_config", ("b",), ("b",)),
        ),
        ("if x:\n    def get_config(runner, a=1): ...", Signature("get_config", ("a",))),
        ("try:\n    import x\nexcept E:\n    def get_config(r): ...", Signature("get_config")),
        # The source does not tell what these take.
        ("from base import get_config", ANY),
        ("from base import make as get_config", ANY),
        ("from base import *", ANY),
        ("get_config = make('x')", ANY),
        ("a, get_config = 1, make", ANY),
        ("get_config: Any = make", ANY),
        ("@decorator\ndef get_config(runner): ...", ANY),
        ("raise SystemExit('it was run')\ndef get_config(runner): ...", Signature("get_config")),
        ("# -*- coding: latin-1 -*-\ndef get_config(runner): '\xe9'", Signature("get_config")),
    ],
)
def test_signatures(code: str, signature: Signature, tmp_path: Path) -> None:
    (tmp_path / "exp.py").write_bytes(code.encode("latin-1"))
    assert read_signature(tmp_path / "exp.py", "exp.py") == signature


@pytest.mark.parametrize("deep", ["-" * 100_000 + "1", "a" + ".b" * 100_000])
def test_what_the_parser_cannot_hold(deep: str, tmp_path: Path) -> None:
    (tmp_path / "exp.py").write_text(f"x = {deep}\n")
    with pytest.raises(InputError, match=r"^exp\.py: not Python: nested too deeply$"):
        read_signature(tmp_path / "exp.py", "exp.py")


def test_what_can_be_given() -> None:
    signature = Signature("get_config", ("root_uri", "a", "b"), ("root_uri", "a"))
    assert signature.missing(["b"]) == ["a"]
    assert signature.missing(["a"]) == []
    assert signature.refusals(["a", "b"], {}) == []
    (error,) = Signature("get_config").refusals(["x"], {"x": "-a x"})
    assert says(str(error), "-a x: get_config…no argument x; …none")
    assert ANY.refusals(["x"], {}) == []
    assert len(ANY.refusals(["root_uri"], {"root_uri": "-a root_uri"})) == 1


def test_find_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pack/__init__.py", "pack/exp.py", "space/exp.py", "elsewhere/far.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('it was imported')\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert find_module("pack/exp.py", tmp_path) == tmp_path / "pack" / "exp.py"
    assert find_module("pack.exp", tmp_path) == tmp_path / "pack" / "exp.py"
    assert find_module("pack", tmp_path) == tmp_path / "pack" / "__init__.py"
    assert find_module("space.exp", tmp_path) == tmp_path / "space" / "exp.py"
    assert find_module("far", tmp_path) == tmp_path / "elsewhere" / "far.py"
    for nothing in ("pack.none", "pack.exp.deeper", "none", "space", "none.py", "sys"):
        assert find_module(nothing, tmp_path) is None
    assert not {"pack", "space", "far"} & set(sys.modules)


def test_nearest() -> None:
    assert nearest("bacbone", ["lr", "backbone"]) == "did you mean backbone?"
    assert nearest("zzz", ["lr", "backbone"]) == "it takes lr, backbone"
    assert nearest("zzz", []) == "it takes none"
