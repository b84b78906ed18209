"""The message of an InputError is one line."""

from rvk8s.errors import InputError, InputErrors


def test_parts() -> None:
    assert str(InputError("x is -1")) == "x is -1"
    error = InputError("x is -1", where="f.yaml:3: x", fix="give 1")
    assert str(error) == "f.yaml:3: x: x is -1; give 1"
    assert (error.what, error.where, error.fix) == ("x is -1", "f.yaml:3: x", "give 1")


def test_one_line_without_control_codes() -> None:
    assert str(InputError("no file é\n  \x1b[31mred\r\n", fix="look")) == (
        "no file é \\x1b[31mred ; look"
    )


def test_several() -> None:
    errors = InputErrors([InputError("a\nb"), InputError("c")])
    assert str(errors).splitlines() == ["a b", "c"]
    assert errors.exit_code == 2
