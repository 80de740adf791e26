"""The page: systems, comparisons, cost, faults, and the questions that changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zh_retrieval.evaluation.dataset import Fault
from zh_retrieval.evaluation.report.language import both, explanation, text
from zh_retrieval.evaluation.report.plot import plot
from zh_retrieval.evaluation.report.queries import changes
from zh_retrieval.evaluation.report.style import STYLE
from zh_retrieval.evaluation.results import Comparison, Evaluation, SystemResult

_MEGA = 1_000_000
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # no script, no network, whatever a text holds
_LANGUAGES = (
    '<fieldset class="languages" aria-label="Language 语言">'
    '<label><input type="radio" name="language" id="english" checked> English</label>'
    '<label><input type="radio" name="language" id="chinese"> 中文</label></fieldset>'
)
_TONES = {"pays": "good", "better": "good", "worse": "bad"}


def write(evaluation: Evaluation, path: Path) -> None:
    """Write the report as one HTML file, in English and Chinese, that loads nothing and runs nothing."""
    path.write_text(render(evaluation), encoding="utf-8")


def render(evaluation: Evaluation) -> str:
    """Return the page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(evaluation.dataset.name)}: zh-retrieval eval</title><style>{STYLE}</style></head><body>"
        f"{_LANGUAGES}{_head(evaluation)}<main>{_systems(evaluation)}{_comparisons(evaluation)}{_cost(evaluation)}"
        f"{_faults(evaluation)}{_sweep(evaluation)}{_settings(evaluation)}</main></body></html>\n"
    )


def _head(evaluation: Evaluation) -> str:
    data = evaluation.dataset
    split = f", {data.split}" if data.split else ""
    numbers = both(
        f"{len(data.judged)} questions, {len(data.corpus)} passages{split}",
        f"{len(data.judged)} 个问题，{len(data.corpus)} 个段落{split}",
    )
    made_up = both(
        "Synthetic questions: made from the corpus by rule, no person asked them. Use the order of the systems with "
        "care, and do not quote the values.",
        "合成问题：按规则从语料生成，并非真人提问。系统的先后仅供参考，数值不宜引用。",
    )
    notice = f'<p class="notice"><b>{made_up}</b></p>' if data.synthetic else ""
    return f"<header><h1>{text(data.name)}</h1><p>{numbers}</p>{notice}</header>"


def _systems(evaluation: Evaluation) -> str:
    main, *others = evaluation.results[0].metrics
    costs = (
        both("ms/query", "毫秒/次"),
        both("passages/s", "段落/秒"),
        both("index MB", "索引 MB"),
        both("memory MB", "内存 MB"),
    )
    header = (both("System", "系统"), text(main), *costs, *map(text, others))
    note = both(
        f"Means over all questions with a right answer; below each its 95 % interval. Systems are compared by "
        f"{evaluation.main}. –: not measured.",
        f"各值为全部有正确答案的问题的平均，下方为 95 % 区间。系统按 {evaluation.main} 比较。–：未测。",
    )
    rows = [_row(result) for result in evaluation.results]
    return f'<h2>{both("Systems", "系统")}</h2>{_table(header, rows)}<p class="soft">{note}</p>'


def _row(result: SystemResult) -> list[str]:
    costs = result.costs
    values = []
    for metric, value in result.metrics.items():
        low, high = result.intervals[metric]
        between = f"{low:.3f} – {high:.3f}" if low <= high else "–"  # one question: not a number
        values.append(f"{value:.3f}<small>{between}</small>")
    sizes = (costs.ms_per_query, costs.passages_per_second, *map(_megabytes, (costs.index_bytes, costs.memory_bytes)))
    return [text(result.name), values[0], *map(_size, sizes), *values[1:]]


def _megabytes(size: int | None) -> float | None:
    return None if size is None else size / _MEGA


def _size(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _comparisons(evaluation: Evaluation) -> str:
    if not evaluation.comparisons:
        return ""
    note = both(
        "In brackets the 95 % interval of the difference; the verdict takes the number of comparisons into account "
        "(randomisation test, Holm).",
        "括号内为差值的 95 % 区间；结论已考虑比较次数（随机化检验，Holm 校正）。",
    )
    said = "".join(_comparison(evaluation, comparison) for comparison in evaluation.comparisons)
    return f'<h2>{both("Comparisons", "对比")}</h2>{said}<p class="soft">{note}</p>'


def _comparison(evaluation: Evaluation, comparison: Comparison) -> str:
    tone = _TONES.get(comparison.verdict, "")
    sentence = both(comparison.sentence, comparison.sentence_zh)
    return f'<section><p class="{tone}">{sentence}</p>{changes(evaluation, comparison)}</section>'


def _cost(evaluation: Evaluation) -> str:
    drawn = plot(evaluation)
    return f"<h2>{both('Quality and cost', '质量与代价')}</h2>{drawn}" if drawn else ""


def _faults(evaluation: Evaluation) -> str:
    found: list[tuple[str, Fault]] = [("", fault) for fault in evaluation.faults]
    found += [(result.name, fault) for result in evaluation.results for fault in result.faults]
    title = f"<h2>{both('Faults in the data', '数据问题')}</h2>"
    if not found:
        return f"{title}<p>{both('None found.', '没有发现。')}</p>"
    names = (("Fault", "问题"), ("System", "系统"), ("Count", "数量"), ("Meaning", "含义"), ("Examples", "例子"))
    rows = []
    for system, fault in found:
        count, examples = f"{fault.count} / {fault.total}", text(", ".join(fault.examples))
        rows.append([text(fault.kind), text(system), count, explanation(fault), examples])
    return title + _table([both(*name) for name in names], rows, "text")


def _sweep(evaluation: Evaluation) -> str:
    parts = []
    for what, found in evaluation.sweep.items():
        if found:
            rows = [[text(f"{v:.3f}" if isinstance(v, float) else str(v)) for v in row.values()] for row in found]
            parts.append(f"<details><summary>{text(what)}</summary>{_table([*map(text, found[0])], rows)}</details>")
    return f"<h2>{both('What can be tuned', '可调参数')}</h2>{''.join(parts)}" if parts else ""


def _settings(evaluation: Evaluation) -> str:
    rows = [
        [text(result.name), text(", ".join(f"{key}={value}" for key, value in result.settings.items()))]
        for result in evaluation.results
    ]
    note = f"top_k={evaluation.top_k}, seed={evaluation.seed}"
    header = (both("System", "系统"), both("Settings", "设置"))
    return f'<h2>{both("Settings", "设置")}</h2>{_table(header, rows, "text")}<p class="soft">{note}</p>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )
