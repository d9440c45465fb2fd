"""docs/results.md agrees with the archived study in analysis/small."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.data.mlflow_store import folder
from analysis.report.paper_verdicts import claims
from analysis.report.study_data import StudyData

ROOT = Path(__file__).parents[2]
WRITTEN = " ".join((ROOT / "docs/results.md").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def study() -> StudyData:
    return StudyData(folder(ROOT / "analysis/small/small.tar.xz"), "small")


def test_the_page_has_every_computed_verdict(study: StudyData) -> None:
    for sentence in claims(study):
        assert sentence in WRITTEN


def test_nothing_is_missing_from_the_study(study: StudyData) -> None:
    assert set(study.frame["status"]) == {"done"}
    assert f"{len(study.frame):,} cells" in WRITTEN
