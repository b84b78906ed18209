"""Which Python files of a project go with a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from said import check_lines, says

from rvk8s import project
from rvk8s.errors import InputError
from rvk8s.project import sources

GET_CONFIG = "def get_config(runner):\n    ...\n"


def made(folder: Path, module: str, files: dict[str, str]) -> project.Experiment:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    text = f"apiVersion: rvk8s/v1\nexperiments:\n  one:\n    module: {module}\n"
    (folder / "rvk8s.yaml").write_text(text)
    (experiment,) = project.load(folder / "rvk8s.yaml").experiments
    return experiment


def files_of(experiment: project.Experiment) -> dict[str, str]:
    return dict(sources.sources(experiment).files)


def test_the_module_its_folder_and_what_they_import(tmp_path: Path) -> None:
    files = {
        "exp/one.py": f"import numpy\nfrom shared.scenes import draw\n{GET_CONFIG}",
        "exp/beside.py": "from . import deep\n",
        "exp/below/more.py": "",
        "exp/.venv/pyvenv.cfg": "",
        "exp/.venv/lib/x.py": "",
        "exp/env/pyvenv.cfg": "",
        "exp/env/lib/y.py": "",
        "exp/__pycache__/z.py": "",
        "shared/__init__.py": "",
        "shared/scenes.py": "import shared.colors as c\n",
        "shared/colors.py": "",
        "shared/unused.py": "",
        "other/exp2.py": "",
    }
    found = files_of(made(tmp_path, "exp/one.py", files))
    assert sorted(found) == [
        *("exp/below/more.py", "exp/beside.py", "exp/one.py"),
        *("shared/__init__.py", "shared/colors.py", "shared/scenes.py"),
    ]
    assert found["exp/one.py"] == files["exp/one.py"]


def test_a_module_beside_the_file_takes_what_it_imports(tmp_path: Path) -> None:
    files = {"one.py": f"import two\n{GET_CONFIG}", "two.py": "", "three.py": "", "lib/a.py": ""}
    assert sorted(files_of(made(tmp_path, "one.py", files))) == ["one.py", "two.py"]


def test_copies_that_nothing_can_import_stay_here(tmp_path: Path) -> None:
    files = {"exp/one.py": GET_CONFIG, "exp/old copy.py": "", "exp/a:b.py": "", "exp/c d/e.py": ""}
    files |= {"exp/2019-lab/f.py": "", "exp/g-h.py": "", "exp/t\tu.py": "", "exp/v\\w.py": ""}
    found = files_of(made(tmp_path, "exp/one.py", files))
    assert sorted(found) == ["exp/2019-lab/f.py", "exp/g-h.py", "exp/one.py"]


def test_an_experiment_of_such_a_name_is_refused(tmp_path: Path) -> None:
    experiment = made(tmp_path, "my lab/one.py", {"my lab/one.py": GET_CONFIG})
    with pytest.raises(InputError) as caught:
        sources.sources(experiment)
    assert says(str(caught.value), "…:3: experiments.one: 'my lab'…space…")


def test_of_a_dotted_name_its_top_package(tmp_path: Path) -> None:
    files = {"team/__init__.py": "", "team/exp/one.py": GET_CONFIG, "team/lib.py": "", "x.py": ""}
    found = files_of(made(tmp_path, "team.exp.one", files))
    assert sorted(found) == ["team/__init__.py", "team/exp/one.py", "team/lib.py"]


def test_what_is_installed_is_in_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "installed"
    (installed / "lib_of_team").mkdir(parents=True)
    (installed / "lib_of_team" / "one.py").write_text(GET_CONFIG)
    monkeypatch.syspath_prepend(str(installed))
    folder = tmp_path / "project"
    folder.mkdir()
    assert files_of(made(folder, "lib_of_team.one", {})) == {}


def test_too_much_is_refused_with_the_largest(tmp_path: Path) -> None:
    files = {"exp/one.py": GET_CONFIG, "exp/table.py": f"X = '{'x' * 750_000}'\n"}
    with pytest.raises(InputError, match=r"2 .*732 KiB \(exp/table\.py, exp/one\.py"):
        sources.sources(made(tmp_path, "exp/one.py", files))


def test_what_is_not_utf8_is_refused(tmp_path: Path) -> None:
    experiment = made(tmp_path, "exp/one.py", {"exp/one.py": GET_CONFIG})
    (tmp_path / "exp" / "latin.py").write_bytes("# é".encode("latin-1"))
    with pytest.raises(InputError, match=r"exp/latin\.py: is not UTF-8"):
        sources.sources(experiment)


@pytest.mark.parametrize("module", ["../exps/e.py", "{outside}/exps/e.py"])
def test_a_file_outside_of_the_folder_is_refused(tmp_path: Path, module: str) -> None:
    (tmp_path / "exps").mkdir()
    (tmp_path / "exps" / "e.py").write_text(GET_CONFIG)
    (tmp_path / "conf").mkdir()
    experiment = made(tmp_path / "conf", module.format(outside=tmp_path), {})
    assert experiment.module == module.format(outside=tmp_path), "which a local run can use"
    with pytest.raises(InputError, match=r":3: experiments\.one: module .*/e\.py .*outside"):
        sources.sources(experiment)


@pytest.mark.parametrize("module", ["./exp/one.py", "exp/../exp/one.py", "{folder}/exp/one.py"])
def test_a_way_round_to_a_file_below_is_made_straight(tmp_path: Path, module: str) -> None:
    files = {"exp/one.py": f"import two\n{GET_CONFIG}", "two.py": ""}
    experiment = made(tmp_path, module.format(folder=tmp_path), files)
    assert experiment.module == "exp/one.py"
    assert sorted(files_of(experiment)) == ["exp/one.py", "two.py"]


def test_imports_are_found_behind_a_byte_order_mark(tmp_path: Path) -> None:
    text = f"\ufeffimport two\n{GET_CONFIG}"
    found = files_of(made(tmp_path, "one.py", {"one.py": text, "two.py": ""}))
    assert found == {"one.py": text, "two.py": ""}


@pytest.mark.parametrize(
    ("name", "made_as"),
    [
        (".#one.py", "link to nothing"),  # Emacs, while the file has unsaved changes
        ("._one.py", "binary"),  # macOS, on file systems of others
        (".one.py", "text"),
        (".hidden/x.py", "text"),
        ("__pycache__/x.py", "text"),
        (".ipynb_checkpoints/one-checkpoint.py", "text"),
    ],
)
def test_hidden_files_do_not_go(tmp_path: Path, name: str, made_as: str) -> None:
    experiment = made(tmp_path, "exp/one.py", {"exp/one.py": GET_CONFIG})
    path = tmp_path / "exp" / name
    path.parent.mkdir(exist_ok=True)
    if made_as == "link to nothing":
        path.symlink_to("me@laptop.4711:1764600000")
    else:
        path.write_bytes(b"\0\5\x16\7\xff" if made_as == "binary" else b"")
    found = sources.sources(experiment)
    assert (list(found.files), found.notes) == (["exp/one.py"], ())


def test_what_may_surprise_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    files = {"exp/one.py": GET_CONFIG, "exp/tokenizer.py": "", "exp/my_secrets.py": ""}
    experiment = made(folder, "exp/one.py", files | {"exp/api_key.py": "", "lib/a.py": ""})
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "colors.py").write_text("BLUE = 1\n")
    (folder / "exp" / "colors.py").symlink_to(tmp_path / "shared" / "colors.py")
    (folder / "exp" / "inside.py").symlink_to(folder / "lib" / "a.py")
    (folder / "exp" / "shared").symlink_to(tmp_path / "shared")
    (folder / "exp" / "gone.py").symlink_to("nothing.py")
    os.mkfifo(folder / "exp" / "pipe.py")
    (folder / "exp" / "folder.py").mkdir()
    found = sources.sources(experiment)
    assert found.files["exp/colors.py"] == "BLUE = 1\n"
    assert sorted(found.files) == [
        *("exp/api_key.py", "exp/colors.py", "exp/inside.py", "exp/my_secrets.py", "exp/one.py"),
        "exp/tokenizer.py",
    ]
    wanted = [
        "exp/shared is a link: …imported…",
        "exp/gone.py is a link to nothing, …not go",
        "exp/pipe.py is a …FIFO…not go",
        "exp/api_key.py …secret…",
        f"exp/colors.py is a link to {tmp_path}/shared/colors.py, outside…",
        "exp/my_secrets.py …secret…",
    ]
    check_lines(found.notes, wanted)


def test_a_pipe_is_no_module_and_not_proposed(tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    os.mkfifo(tmp_path / "exp" / "one.py")
    with pytest.raises(InputError) as refused:
        made(tmp_path, "exp/one.py", {})
    assert says(str(refused.value), "…no file exp/one.py…; give a path…")
