"""The zoo: downloads that go on, are checked and appear whole; models by name and by path."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from e2sam.errors import CheckpointError
from e2sam.modeling.build import build_model, teacher_config
from e2sam.weights import zoo
from e2sam.weights.checkpoint import save_checkpoint
from e2sam.weights.zoo import ZOO, ZooEntry, fetch, load_model, resolve_device, state_of, weights_file

CONTENT = bytes(range(256)) * 12_000  # three chunks of a download


class Server(ThreadingHTTPServer):
    """A server of one file, which can break off, forget ranges, or give another file."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.breaks_after: int | None = None
        self.knows_ranges = True
        self.asked: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.knows_ranges else 0
        content = self.server.content
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if self.server.breaks_after is None else start + self.server.breaks_after
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("E2SAM_MODEL_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def entry(server: Server) -> ZooEntry:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return ZooEntry("one", "weights.pth", len(CONTENT), sha256, "Apache-2.0", server.address, "for tests")


def test_a_download_is_whole_and_tells_how_far_it_is(entry: ZooEntry, folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    path = fetch(entry, lambda done, total: steps.append((done, total)))
    assert path == folder / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert steps[-1] == (len(CONTENT), len(CONTENT)) and len(steps) >= 3
    assert sorted(steps) == steps
    assert state_of(entry) == "here"


def test_a_broken_download_goes_on_where_it_ended(entry: ZooEntry, server: Server, folder: Path) -> None:
    server.breaks_after = 2**20 + 5
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        fetch(entry)
    assert state_of(entry) == "part"
    assert not weights_file(entry).exists()
    server.breaks_after = None
    assert fetch(entry).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={2**20 + 5}-"]
    assert {path.name for path in folder.iterdir()} == {"weights.pth", "weights.pth.checked"}


def test_of_two_downloads_one_waits_for_the_other(entry: ZooEntry, server: Server, folder: Path) -> None:
    begun = threading.Barrier(2)
    with ThreadPoolExecutor(2) as both:
        found = list(both.map(lambda _: (begun.wait(), fetch(entry).read_bytes())[1], range(2)))
    assert found == [CONTENT, CONTENT]
    assert server.asked == [None]
    assert {path.name for path in folder.iterdir()} == {"weights.pth", "weights.pth.checked"}


def test_a_server_without_ranges_starts_again(entry: ZooEntry, server: Server) -> None:
    server.breaks_after = 2**20
    with pytest.raises(CheckpointError):
        fetch(entry)
    server.breaks_after, server.knows_ranges = None, False
    assert fetch(entry).read_bytes() == CONTENT


def test_all_bytes_but_no_check_yet(entry: ZooEntry, folder: Path) -> None:
    """The last run ended between the last byte and the hash."""
    folder.mkdir()
    (folder / "weights.pth.part").write_bytes(CONTENT)
    assert fetch(entry).read_bytes() == CONTENT


def test_another_file_than_the_published_is_refused_and_removed(entry: ZooEntry, server: Server, folder: Path) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(CheckpointError, match="SHA-256"):
        fetch(entry)
    assert list(folder.iterdir()) == []


def test_without_a_network_it_says_which_file_to_put_where(entry: ZooEntry, folder: Path) -> None:
    unreachable = replace(entry, address="http://127.0.0.1:9/weights.pth")
    with pytest.raises(CheckpointError) as caught:
        fetch(unreachable)
    message = str(caught.value)
    assert "http://127.0.0.1:9/weights.pth" in message
    assert str(folder / "weights.pth") in message
    assert "Apache-2.0" in message and "3 MB" in message


def test_a_file_put_there_by_hand_is_checked_once(
    entry: ZooEntry, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    path = folder / "weights.pth"
    path.write_bytes(CONTENT)
    assert fetch(entry) == path
    assert server.asked == []
    monkeypatch.setattr(zoo, "sha256_of", lambda path: pytest.fail("computed again"))
    assert fetch(entry) == path
    monkeypatch.undo()
    monkeypatch.setenv("E2SAM_MODEL_DIR", str(folder))
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match="got another file"):
        fetch(entry)


def test_the_zoo_names_what_the_method_names() -> None:
    assert set(ZOO) == {"tiny", "vit_b", "vit_l", "vit_h"}
    for entry in ZOO.values():
        assert entry.licence == "Apache-2.0"
        if entry.address:
            assert entry.address.endswith(entry.file) and len(entry.sha256) == 64 and entry.size > 3e8


def test_tiny_loads_at_once() -> None:
    model = load_model("tiny", device="cpu")
    assert not model.training
    assert len(model.fingerprint) == 64
    assert model.device.type == "cpu"


def test_tiny_needs_no_package_that_is_slow_to_load() -> None:
    program = "import sys, e2sam; e2sam.Predictor(e2sam.load_model('tiny')); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    loaded = set(out.split())
    assert "torch" in loaded
    assert loaded.isdisjoint({"torchvision", "segment_anything", "skimage", "sklearn", "zarr", "dask", "lightning"})


def test_models_load_by_path_exact_or_fast(tmp_path: Path) -> None:
    source = build_model(teacher_config("vit_test"))
    path = save_checkpoint(tmp_path / "model.safetensors", source, {})
    torch.save({k.removeprefix("decoder."): v for k, v in source.state_dict().items()}, tmp_path / "model.pth")
    exact, fast = load_model(path, "cpu", exact=True), load_model(str(tmp_path / "model.pth"), "cpu")
    assert exact.fingerprint == fast.fingerprint
    assert exact.image_encoder.compute_dtype == torch.float32
    pixels = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.cosine_similarity(exact.encode(pixels), fast.encode(pixels), dim=1).min() > 0.999


def test_unknown_names_and_devices_are_refused() -> None:
    with pytest.raises(CheckpointError, match="tiny, vit_b, vit_l, vit_h"):
        load_model("vit_x")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model("absent.safetensors")
    with pytest.raises(CheckpointError, match="got None"):
        load_model(None)  # type: ignore[arg-type]
    for device in ("abacus", None, 3.5, ""):
        with pytest.raises(CheckpointError, match=f"got {device!r}"):
            resolve_device(device)  # type: ignore[arg-type]
    for device in ("meta", "hpu", "vulkan"):
        with pytest.raises(CheckpointError, match=f"device of this machine, got {device}"):
            load_model("tiny", device)
    for path in ("~nobody_of_this_name/x.pth", "a" * 5000 + ".pth", "a" * 5000 + ".safetensors", "a\0.pth"):
        with pytest.raises(CheckpointError, match="Expected") as caught:
            load_model(path)
        assert len(str(caught.value)) < 400
    if not torch.cuda.is_available():
        assert resolve_device("auto") == torch.device("cpu")
        with pytest.raises(CheckpointError, match="device='cpu'"):
            load_model("tiny", device="cuda")
