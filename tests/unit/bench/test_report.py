from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.gates import judge
from bench.plot import draw
from bench.report import BEGIN, END, build_report, insert
from bench.results import load, quantile, save
from tests.unit.bench.factories import build_quiet, build_results, build_round

RESULTS = build_results(
    build_round("floor"), build_round("kopf", seconds=20.0), build_round("capn", seconds=12.5), quiet=[build_quiet()]
)


def test_the_tables_hold_the_numbers_and_the_missed_gates() -> None:
    text = build_report(RESULTS, judge(RESULTS))
    assert "| capn | 8.00 | 19.0 | 16.0 | 0.0 | 0.100 | 0.200 | 0.050 | 0% | 100 |" in text
    assert "| POST secrets | 7.00 | 7.00 | 7.00 |" in text
    assert "| B1 clusters/s against kopf | >= 5x | 1.60x | **missed** |" in text
    assert "| B1 clusters/s against floor | >= 0.8x | 0.80x | held |" in text


def test_a_report_replaces_the_one_before_and_nothing_else() -> None:
    document = f"# Title\n\n{BEGIN}\nold\n{END}\n\nAfter.\n"
    once = insert(document, "new\n")
    assert insert(once, "new\n") == once
    assert "old" not in once
    assert once.startswith("# Title\n")
    assert once.endswith("\n\nAfter.\n")


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the line"):
        insert("# Title\n", "new\n")


def test_results_survive_the_file(tmp_path: Path) -> None:
    save(RESULTS, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == RESULTS


def test_the_picture_is_an_svg_and_always_the_same(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(RESULTS, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert ET.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")  # noqa: S314 - our own file
    assert (tmp_path / "a.svg").stat().st_size < 40_000


def test_quantiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile(values[:1], 0.99)) == (50.0, 99.0, 1.0)
    assert quantile([], 0.99) == 0.0


@pytest.mark.parametrize(("kopf_s", "status"), [(60.0, 0), (20.0, 1)])
def test_the_exit_status_is_the_gates_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kopf_s: float, status: int
) -> None:
    results = build_results(build_round("floor"), build_round("kopf", seconds=kopf_s), build_round("capn"))
    save(results, tmp_path / "results.json")
    assert main(["show", "--results", str(tmp_path / "results.json")]) == status
    assert f"\n{status} of 5 gates missed\n" in capsys.readouterr().out


def test_no_results_yet_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--results", str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.startswith("bench: [Errno 2] No such file")
