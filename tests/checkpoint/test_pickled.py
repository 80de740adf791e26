"""`.bin` files read without torch: equal to torch.load, and nothing that a pickle names is run."""

import io
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.depth import examples
from zh_retrieval.checkpoint.pickled import ForeignPickleError, read_pickled
from zh_retrieval.checkpoint.tensors import stored_in

KINDS = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip


def tensors():
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    table = OrderedDict((str(kind), (base * 9).to(kind)) for kind in KINDS)
    table |= {"rows": base[1:3], "turned": base.T, "steps": base[::2, 1::3], "wide": base[:1].expand(5, 8)}
    table |= {"one": torch.tensor(3.5), "none": torch.empty(0, 4), "parameter": torch.nn.Parameter(base[0].clone())}
    table._metadata = {"": {"version": 1}}
    return table


@pytest.fixture(params=[True, False], ids=["archive", "before torch 1.6"])
def file(request, tmp_path):
    torch.save(tensors(), tmp_path / "x.bin", _use_new_zipfile_serialization=request.param)
    return tmp_path / "x.bin"


def test_every_kind_of_tensor_equals_what_torch_loads(file):
    expected = torch.load(file, weights_only=True)
    found = dict(stored_in(file))
    assert list(found) == list(expected)
    for name, tensor in ((name, tensor.detach()) for name, tensor in expected.items()):
        assert found[name].shape == tuple(tensor.shape)
        numbers = found[name].float32() if found[name].floating else found[name].values
        np.testing.assert_array_equal(numbers, (tensor.float() if tensor.is_floating_point() else tensor).numpy())


def test_no_torch_is_needed(file):
    code = (
        "import sys; sys.modules['torch'] = None\nfrom pathlib import Path\n"
        "from zh_retrieval.checkpoint.weight_files import shapes\nprint(len(shapes(Path(sys.argv[1]))))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(len(tensors()))


class Reduced:
    """Pickles as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        (exec, ("raise SystemExit",)),
        (torch.load, ("other.bin",)),
        (torch.nn.Linear, (10**6, 10**6)),
        (torch.zeros, ((2,),)),
    ],
    ids=["exec", "torch.load", "a module", "a function of torch"],
)
@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_that_calls_anything_is_refused_before_it_is_called(tmp_path, call, new):
    file = tmp_path / "x.bin"
    torch.save({"a": torch.zeros(2), "b": Reduced(*call)}, file, _use_new_zipfile_serialization=new)
    with pytest.raises(ForeignPickleError, match="it names "):
        read_pickled(file)


def rewritten(file, change):
    """Write an archive again with other content: `change` takes and returns {name: bytes}."""
    with zipfile.ZipFile(file) as archive:
        content = change({name: archive.read(name) for name in archive.namelist()})
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def pickled(call):
    class Persistent(pickle.Pickler):
        def persistent_id(self, entry):
            return ("storage", torch.FloatStorage, "0", "cpu", 8) if entry == "STORAGE" else None

    stream = io.BytesIO()
    Persistent(stream, 2).dump({"a": call})
    return stream.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        (0, (9,), (1,)), (7, (2,), (1,)), (0, (2, 4), (5, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2,), (1, 1)),
        (0, (2**50,), (0,)), (0, (1,) * 9, (1,) * 9), (0, (True,), (1,)), ("0", (2,), (1,)), (0, [2], [1]),
    ],
)  # fmt: skip
def test_a_view_beyond_its_storage_is_refused(tmp_path, arguments):
    file = tmp_path / "x.bin"
    torch.save({"a": torch.zeros(8)}, file)
    call = Reduced(torch._utils._rebuild_tensor_v2, ("STORAGE", *arguments, False, OrderedDict()))
    rewritten(file, lambda content: content | {"x/data.pkl": pickled(call)})
    with pytest.raises(ValueError, match="a tensor "):
        read_pickled(file)


def test_a_view_within_its_storage_is_read(tmp_path):
    file = tmp_path / "x.bin"
    torch.save({"a": torch.arange(8.0)}, file)
    call = Reduced(torch._utils._rebuild_tensor_v2, ("STORAGE", 1, (2, 3), (3, 1), False, OrderedDict()))
    rewritten(file, lambda content: content | {"x/data.pkl": pickled(call)})
    assert dict(stored_in(file))["a"].values.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content | {"x/byteorder": b"big"},
        lambda content: {name: data for name, data in content.items() if name != "x/data/0"},
        lambda content: content | {"x/data/0": content["x/data/0"][:-1]},
        lambda content: {name: data for name, data in content.items() if name != "x/data.pkl"},
        lambda content: content | {"x/data.pkl": pickle.dumps([1])},
        lambda content: content | {"x/data.pkl": pickle.dumps({"a": 1})},
        lambda content: content | {"x/data.pkl": b"\x80\x02" + b"(" * 100},
    ],
)
def test_a_broken_archive_is_a_value_error(tmp_path, change):
    file = tmp_path / "x.bin"
    torch.save({"a": torch.zeros(8)}, file)
    rewritten(file, change)
    with pytest.raises(ValueError, match=r"\w"):
        read_pickled(file)


def test_a_compressed_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"0" * 10_000_000)
    with pytest.raises(ValueError, match="compressed"):
        read_pickled(tmp_path / "x.bin")


CONTENT = {}
for _new in (True, False):
    _stream = io.BytesIO()
    torch.save({"a": torch.zeros(3), "b": torch.ones(2, 2)}, _stream, _use_new_zipfile_serialization=_new)
    CONTENT[_new] = _stream.getvalue()


@settings(max_examples=examples(200), deadline=None)
@given(st.booleans(), st.floats(0, 1), st.integers(0, 255), st.booleans())
def test_a_changed_or_cut_file_is_read_or_said_to_be_broken(tmp_path_factory, new, place, byte, cut):
    content = bytearray(CONTENT[new])
    position = int(place * (len(content) - 1))
    content[position] = byte
    file = tmp_path_factory.getbasetemp() / "changed.bin"
    file.write_bytes(content[:position] if cut else content)
    try:
        tensors = dict(stored_in(file))
    except (ValueError, OSError):
        return
    assert sum(tensor.values.size for tensor in tensors.values()) < 10_000
