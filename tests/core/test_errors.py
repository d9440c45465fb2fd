from __future__ import annotations

import inspect

import pytest

from pruning.core import errors
from pruning.core.errors import InputError, PruningError, UnreachableError, merged_error, unknown


def test_a_misspelt_name_is_shown_with_the_near_and_all_known_names() -> None:
    error = unknown("algo", "gredy", ["one_shot", "greedy", "evopress"])
    assert isinstance(error, InputError)
    assert str(error) == ("unknown algo 'gredy'. Did you mean greedy? Available: evopress, greedy, one_shot.")


def test_several_near_names_are_joined_best_first() -> None:
    text = str(unknown("model", "llama", ["llama3_2_1b", "llama3", "mistral"]))
    assert "Did you mean llama3 or llama3_2_1b?" in text


def test_a_name_that_is_near_nothing_gets_no_hint() -> None:
    text = str(unknown("algo", "zzz", ["greedy", "one_shot"]))
    assert "Did you mean" not in text
    assert "Available: greedy, one_shot." in text


@pytest.mark.parametrize("known", [[], (), iter(())])
def test_without_known_names_none_is_available(known: object) -> None:
    assert str(unknown("algo", "greedy", known)).endswith("Available: none.")  # type: ignore[arg-type]


def test_names_may_come_from_an_iterator() -> None:
    assert "Did you mean greedy?" in str(unknown("algo", "greedi", iter(["greedy"])))


def test_a_merged_error_keeps_the_order_and_has_each_text_once() -> None:
    wrong = [InputError("ratio is wrong"), UnreachableError("no network"), InputError("ratio is wrong")]
    assert isinstance(merged_error(wrong), InputError)
    assert str(merged_error(wrong)).splitlines() == ["ratio is wrong", "no network"]


def test_a_merged_error_of_one_error_has_its_text() -> None:
    assert str(merged_error([InputError("k=0 removes no block")])) == "k=0 removes no block"


def test_all_errors_derive_from_one_class_and_have_docstrings() -> None:
    raised = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert len(raised) > 5
    for cls in raised:
        assert issubclass(cls, PruningError)
        assert cls.__doc__, cls
