"""A small dataset of our own, big enough for several blocks where a test makes blocks small."""

from zh_retrieval.evaluation.dataset import Dataset, Passage

THINGS = ("绿茶", "红茶", "米饭", "菜刀", "自行车", "台灯", "棉被", "花盆", "雨伞", "算盘")
PLACES = ("厨房", "阳台", "书房", "仓库", "车站")


def dataset():
    """Return 50 passages and 10 questions, each with the five passages about its thing, one of them graded 2."""
    corpus, qrels = {}, {}
    for t, thing in enumerate(THINGS):
        for p, place in enumerate(PLACES):
            text = f"{place}里的{thing}每隔{t + 2}天检查一次，第{p + 1}位管理员负责登记。" + "注意安全。" * p
            corpus[f"d{t}-{p}"] = Passage(text, title=f"{thing}管理")
            qrels.setdefault(f"q{t}", {})[f"d{t}-{p}"] = 2 if p == 0 else 1
    return Dataset("茶与杂物", {f"q{t}": f"{thing}几天检查一次？" for t, thing in enumerate(THINGS)}, corpus, qrels)


def write(folder):
    """Write it as a BEIR folder and return the folder."""
    import json

    data = dataset()
    folder.mkdir(exist_ok=True)
    passages = [{"_id": name, "title": p.title, "text": p.text} for name, p in data.corpus.items()]
    queries = [{"_id": name, "text": text} for name, text in data.queries.items()]
    for name, rows in (("corpus", passages), ("queries", queries)):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    rows = [f"{query}\t{name}\t{grade}\n" for query, found in data.qrels.items() for name, grade in found.items()]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows), encoding="utf-8")
    return folder
