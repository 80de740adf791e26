"""What an operator asks of long jobs: how much it will be, how far it is, and whether it came to its end."""

import json
import re
from contextlib import suppress

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.serving import wait_until
from zh_retrieval.cli import job_metrics as module
from zh_retrieval.cli.console import Progress
from zh_retrieval.cli.estimating import _SAMPLE, estimate
from zh_retrieval.cli.job_metrics import job_metrics
from zh_retrieval.cli.main import main, parser
from zh_retrieval.errors import ConfigError
from zh_retrieval.files.reading.records import Reader, text_form
from zh_retrieval.testing import FakeEncoder


def written(file, count=7, text="绿茶用八十度的水冲泡。"):
    rows = ({"id": f"r{number}", "text": text} for number in range(count))
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def samples(file):
    found = text_string_to_metric_families(file.read_text(encoding="utf-8"))
    return {sample.name: (sample.labels, sample.value) for family in found for sample in family.samples}


def test_a_dry_run_counts_estimates_and_writes_nothing(tmp_path, capsys):
    file = written(tmp_path / "in.jsonl")
    arguments = ["embed", file, "-o", str(tmp_path / "out.parquet"), "--dry-run", "--hour-price", "3600"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "nothing was written" in shown.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.jsonl"]
    lines = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    assert lines["rows"] == "7"
    assert re.match(r"98: 14 a row ± 0%, 0\.0% of the rows longer than 512", lines["tokens"])
    assert lines["vectors"].startswith("0.00 GB")
    price, rate = float(lines["cost"].split()[0]), float(re.search(r"([\d.]+) texts/s", lines["time"])[1])
    assert price == pytest.approx(7 / rate, abs=0.01 + 7 / rate * 0.1)


def test_a_sample_of_many_rows_says_how_sure_it_is(tmp_path):
    short, long = written(tmp_path / "a.jsonl", 1500, "茶"), written(tmp_path / "b.jsonl", 1500, "茶" * 101)

    class Counting(FakeEncoder):
        def token_counts(self, documents):
            return [len(text) for text in documents]

    reader = Reader(text_form("text", None))
    found = estimate(reader.live([short, long]), Counting(), "document", None)
    assert found.rows == 3000
    assert found.tokens == pytest.approx(51, rel=3 * found.error)
    assert 0.03 < found.error < 0.09  # 1.96 * 50 / sqrt(1024) / 51
    assert found.encoded <= _SAMPLE
    assert found.bytes == 3000 * 64 * 4
    with pytest.raises(ConfigError, match="no rows"):
        estimate([], Counting(), "document", None)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--hour-price", "2"], "beside --dry-run"), (["--dry-run", "--hour-price", "-1"], "--hour-price -1"),
        (["--dry-run", "--ray"], "this machine"), (["--dry-run", "--sparse", "bm25-zh", "--no-dense"], "dense vectors"),
    ],
)  # fmt: skip
def test_flags_that_would_do_nothing_are_refused(tmp_path, more, said, capsys):
    file = written(tmp_path / "in.jsonl")
    assert main(["embed", file, "-o", str(tmp_path / "out.jsonl"), *more]) == 2
    assert said in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_file_for_node_exporter_is_what_prometheus_reads(tmp_path):
    file = tmp_path / "job.prom"
    out = tmp_path / 'a "b".npy'
    arguments = ["embed", written(tmp_path / "in.jsonl"), "-o", str(out), "--metrics-file", str(file)]
    assert main(arguments) == 0
    found = samples(file)
    labels = {"command": "embed", "output": str(out)}
    assert found["zh_retrieval_job_texts_total"] == (labels, 7)
    assert found["zh_retrieval_job_running"] == (labels, 0)
    assert found["zh_retrieval_job_success"] == (labels, 1)
    assert found["zh_retrieval_job_start_time_seconds"][1] <= found["zh_retrieval_job_update_time_seconds"][1]
    assert file.stat().st_mode & 0o044  # node_exporter is another user
    assert not list(tmp_path.glob(".*"))


def made_a_folder(file):
    """Return True once a folder stands in a file's place, which somebody else may write anew at any time."""
    file.unlink(missing_ok=True)
    with suppress(FileExistsError):
        file.mkdir()
    return file.is_dir()


def test_the_file_moves_while_the_job_runs_and_says_when_it_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_EVERY", 0.01)
    file = tmp_path / "job.prom"
    arguments = parser().parse_args(["embed", "in", "-o", "out.npy", "--metrics-file", str(file)])

    def seen(done):
        return samples(file)["zh_retrieval_job_texts_total"][1] == done

    def fail():
        with Progress("text") as shown, job_metrics(arguments, shown):
            assert seen(0)
            assert samples(file)["zh_retrieval_job_running"][1] == 1
            shown.advance(5)
            wait_until(lambda: seen(5))
            wait_until(lambda: made_a_folder(file))
            wait_until(lambda: "goes on without it" in capsys.readouterr().err)
            file.rmdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (samples(file)["zh_retrieval_job_running"][1], samples(file)["zh_retrieval_job_success"][1]) == (0, 0)
    with Progress("text") as shown, job_metrics(arguments, shown) as failed:
        failed()
    assert samples(file)["zh_retrieval_job_success"][1] == 0


def test_a_file_that_nobody_reads_or_that_cannot_be_is_said_at_once(tmp_path, capsys):
    file = written(tmp_path / "in.jsonl")
    for name, said in (("job.txt", "must end in .prom"), ("nowhere/job.prom", "nowhere")):
        assert main(["embed", file, "-o", str(tmp_path / "out.npy"), "--metrics-file", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err
