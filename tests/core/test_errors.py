from __future__ import annotations

from pathlib import Path

import pytest

from kerascv_course.core.errors import InputError, UnknownNameError, run_cli, shell_word


def test_unknown_name_suggests_the_nearest() -> None:
    assert str(UnknownNameError("model", "lenet", ["lenet5", "vgg16"])) == "unknown model 'lenet'; did you mean 'lenet5'?"
    assert str(UnknownNameError("model", "zzz", ["lenet5", "vgg16"])) == "unknown model 'zzz'; known: lenet5, vgg16"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("no such file"), 2, "error: no such file"),
        (ModuleNotFoundError("x", name="keras.layers"), 1, "needs the package 'keras.layers'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_run_cli_exit_codes(error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_cli(main)
    assert caught.value.code == code and message in capsys.readouterr().err


def test_run_cli_keeps_tracebacks_of_defects() -> None:
    with pytest.raises(ModuleNotFoundError):
        run_cli(lambda: (_ for _ in ()).throw(ModuleNotFoundError("x", name="export.nothing")))


def test_unknown_name_suggests_names_that_it_begins_first() -> None:
    known = ["ntu-lenet", "ntu-alexnet", "lenet5-digits"]
    assert str(UnknownNameError("recipe", "lenet", known)).endswith(
        "did you mean 'lenet5-digits' or 'ntu-lenet' or 'ntu-alexnet'?"
    )


def test_an_unknown_number_lists_all_known_ones() -> None:
    assert str(UnknownNameError("report", "009", ["000", "001"])) == "unknown report '009'; known: 000, 001"


def test_a_path_with_blanks_is_quoted_in_a_suggested_command() -> None:
    assert [shell_word(Path(path)) for path in ("runs/a-2", "my runs/a", "it's")] == ["runs/a-2", "'my runs/a'", "'it'\"'\"'s'"]
