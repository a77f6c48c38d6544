"""The table of rules at equal budget, as HTML: two lines a cell, the number and its interval."""

from __future__ import annotations

from fss_core.numerals import number
from fss_core.retraining.comparing import EVERYTHING, NO_RETRAINING, Comparison, Estimate, Row
from fss_core.retraining.results import JUDGED, Judged
from pages.common.frame import escaped

TABLE_STYLE = """<style>
.fss-table {border-collapse: collapse; font-size: 0.82rem; font-variant-numeric: tabular-nums; width: 100%;}
.fss-table th, .fss-table td {text-align: right; padding: 0.25rem 0.5rem; vertical-align: top; white-space: nowrap;}
.fss-table th {font-weight: 600; border-bottom: 1px solid currentColor; vertical-align: bottom; white-space: normal;}
.fss-table tr + tr td {border-top: 1px solid rgba(128,128,128,0.25);}
.fss-table th:first-child, .fss-table td:first-child {text-align: left; white-space: normal; min-width: 9rem;}
.fss-table td.why {text-align: left; white-space: normal;}
.fss-table small {display: block; opacity: 0.75; font-size: 0.74rem;}
</style>"""

_ACCURACY: dict[Judged, str] = {"clean": "Clean", "fgsm": "FGSM", "pgd": "PGD", "transfer": "Transfer"}
_DIFFERENCES: tuple[Judged, ...] = ("fgsm", "pgd")


def comparison_table(comparison: Comparison) -> str:
    """Write the rules, the best under white-box FGSM first."""
    heads = ["Rule", "Live weights trained", *(_ACCURACY[kind] for kind in JUDGED)]
    heads += [f"{_ACCURACY[kind]} against {other}" for other in (NO_RETRAINING, EVERYTHING) for kind in _DIFFERENCES]
    body = "".join(_row(row, len(heads)) for row in comparison.sorted_rows())
    head = "".join(f"<th>{escaped(text)}</th>" for text in heads)
    return (
        f'{TABLE_STYLE}<div style="overflow-x:auto"><table class="fss-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(row: Row, num_columns: int) -> str:
    name = f"<td>{escaped(row.rule)}<small>{escaped(row.title)}</small></td>"
    if not row.accuracy:
        why = "; ".join(dict.fromkeys(row.reasons.values()))
        return f'<tr>{name}<td class="why" colspan="{num_columns - 1}">{escaped(why)}</td></tr>'
    weights = "–" if row.mean_live_trained is None else f"{row.mean_live_trained:,.0f}"
    cells = [_cell(row.accuracy.get(kind)) for kind in JUDGED]
    cells += [_cell(own.get(kind), sign=True) for own in (row.to_before, row.to_all) for kind in _DIFFERENCES]
    return f"<tr>{name}<td>{weights}</td>{''.join(cells)}</tr>"


def _cell(estimate: Estimate | None, sign: bool = False) -> str:
    if estimate is None:
        return "<td>–</td>"
    value, low, high = (number(own, 3, sign=sign) for own in (estimate.value, estimate.low, estimate.high))
    return f"<td>{value}<small>[{low}, {high}]</small></td>"
