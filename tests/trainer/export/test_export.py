from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from threading import Thread

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from huggingface_hub import HfApi
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from shards.common.errors import InputError
from tests.support.forks import python
from tests.support.launching import ROOT, SMALL, run
from tests.trainer.folder.test_load_run import OTHER, make_run
from trainer import hub
from trainer.cli import conclude
from trainer.config import Model
from trainer.export.__main__ import Export, export
from trainer.export.folder import write_folder
from trainer.folder.load_run import load_run
from trainer.gan.dcgan import DcganDiscriminator
from trainer.hub import Generator
from trainer.samples import fixed_latents, generate


@pytest.fixture(scope="module")
def trained(faces32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    done = run("faces", "--data.shards", str(faces32), "--out", str(out), "--steps", "6", "--data.workers", "0", *SMALL)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "faces-generator"
    export(Export(trained, out))
    return out


@pytest.fixture(scope="module")
def model(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "new" / "faces.onnx"
    export(Export(trained, out, "onnx"))
    return out


def test_a_folder_gives_the_same_images_to_the_bit(trained: Path, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    loaded = Generator.from_pretrained(folder)
    assert not loaded.training
    for batch in (1, 5):
        noise = fixed_latents(1, batch, 8)
        assert torch.equal(generate(loaded, noise), generate(load_run(trained).generator, noise))


def test_the_state_dict_has_the_keys_of_the_file_and_no_discriminator_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DcganDiscriminator, "__init__", None)
    loaded, weights = Generator.from_pretrained(folder), load_file(folder / "model.safetensors")
    assert loaded.state_dict().keys() == weights.keys()
    loaded.load_state_dict({name: torch.zeros_like(value) for name, value in weights.items()})
    assert not loaded(torch.ones(2, 8)).any() and copy.deepcopy(loaded).double()(torch.ones(2, 8).double()).dim() == 4
    loaded.load_state_dict(weights)
    assert torch.equal(loaded(torch.ones(2, 8)), Generator.from_pretrained(folder)(torch.ones(2, 8)))


def test_weights_that_are_missing_or_of_another_network_are_refused(folder: Path, tmp_path: Path) -> None:
    metadata = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(metadata | {"size": 64}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(RuntimeError):
        Generator.from_pretrained(tmp_path)


@pytest.mark.parametrize("batch", [1, 5])
def test_onnx_gives_the_same_images(trained: Path, model: Path, batch: int) -> None:
    session = onnxruntime.InferenceSession(model)
    noise = fixed_latents(1, batch, 8)
    (images,) = session.run(["images"], {"latents": noise.float().numpy()})
    assert images.shape == (batch, 3, 32, 32) and images.dtype == np.float32
    assert np.abs(images - generate(load_run(trained).generator, noise).numpy()).max() < 1e-4


@pytest.mark.parametrize("model", [OTHER, replace(OTHER, kind="residual")], ids=lambda model: model.kind)
def test_other_networks_are_exported(tmp_path: Path, model: Model) -> None:
    """Latents this large give a network without Tanh pixels beyond [-1, 1]."""
    make_run(tmp_path / "run", model=model)
    export(Export(tmp_path / "run", tmp_path / "exported"))
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["kind"] == model.kind and config["upsampling"] == model.upsampling
    noise = 100 * fixed_latents(1, 3, 8)
    images = generate(Generator.from_pretrained(tmp_path / "exported"), noise)
    assert images.abs().max() == 1
    assert torch.equal(images, generate(load_run(tmp_path / "run").generator, noise))
    export(Export(tmp_path / "run", tmp_path / "model.onnx", "onnx"))
    (others,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(
        ["images"], {"latents": noise.float().numpy()}
    )
    assert np.abs(others - images.numpy()).max() < 1e-4


def test_classes_are_exported(tmp_path: Path) -> None:
    """By name, in the card too, whose example draws some of each."""
    names = ("cat", "dog|`{x}", "eel")
    make_run(tmp_path / "run", classes=names, model=replace(OTHER, conditional=True))
    export(Export(tmp_path / "run", tmp_path / "exported"))
    loaded = Generator.from_pretrained(tmp_path / "exported")
    assert loaded.class_names == names
    embedding = load_run(tmp_path / "run").generator.get_parameter("embedding.weight")
    assert torch.equal(loaded.state_dict()["embedding.weight"], embedding)
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| labels | int64 (batch,), numbers of classes: 0 cat, 1 dog&#124;&#96;{x}, 2 eel |" in card
    assert "unconditional" not in card and "class-conditional" in card
    done = python()("-c", card.partition("```python")[2].partition("```")[0], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "samples.png") as samples:
        assert samples.size == (8 * 32, 32)


def test_both_hold_the_metadata(folder: Path, model: Path) -> None:
    metadata = json.loads((folder / "config.json").read_text())
    assert metadata["input"]["name"] == "latents" and metadata["input"]["shape"] == ["batch", 8]
    assert metadata["input"]["distribution"].startswith("N(0, 1)")
    assert metadata["output"]["shape"] == ["batch", 3, 32, 32] and metadata["output"]["range"] == [-1, 1]
    assert metadata["batch_norm"].startswith("eval: running statistics")
    assert metadata["training"]["images"] == 48 and "200 faces images" in metadata["training"]["data"]
    stored = onnx.load(model)
    assert {entry.key: json.loads(entry.value) for entry in stored.metadata_props} == metadata
    assert [(entry.domain, entry.version) for entry in stored.opset_import] == [("", 18)]
    assert stored.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_nothing_of_this_machine_is_in_it(folder: Path, model: Path, trained: Path, faces32: Path) -> None:
    for path in (*folder.iterdir(), model):
        data = path.read_bytes()
        assert not [place for place in (ROOT, trained, faces32, Path.home()) if str(place).encode() in data], path


def test_the_example_on_the_card_runs(folder: Path) -> None:
    """In another folder, as a reader would run it."""
    example = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert example and example[1].count("\n") == 10
    python = [sys.executable, "-W", "error", "-c", example[1]]
    done = subprocess.run(python, cwd=folder.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Image.open(folder.parent / "samples.png") as picture:
        assert picture.size == (8 * 32, 32) and picture.mode == "RGB"
    (folder.parent / "samples.png").unlink()


NAMES = ("a'b\"c", "back\\slash", "new\nline", "```", "`tick`", "{where}{0}", "é😀", "<script>", "~root", "a|b",
         "%s$HOME", " # ", os.fsdecode(b"\xe9"), "\u202ex", "runs")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_example_on_the_card_loads_a_folder_of_any_name(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    export(Export(trained, tmp_path / name))
    card = (tmp_path / name / "README.md").read_text("utf-8")
    example = re.search(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    assert example and example[1].count("\n") == 10 and not {"`", "<"} & {*example[1]}
    monkeypatch.chdir(tmp_path)
    exec(example[1], {})
    assert Path("samples.png").exists()


def test_the_card_keeps_its_shape_whatever_the_data_are_called(trained: Path, tmp_path: Path) -> None:
    loaded = load_run(trained)
    names = {"data": "a|b `c`\n---\n</script> {d} \udce9 <!--", "precision": "```"}
    write_folder(dataclasses.replace(loaded, metadata=loaded.metadata | names), tmp_path / "evil", "me/faces")
    card = (tmp_path / "evil" / "README.md").read_text("utf-8")
    write_folder(loaded, tmp_path / "plain", "me/faces")
    assert card.count("\n") == (tmp_path / "plain" / "README.md").read_text("utf-8").count("\n")
    assert 'from_pretrained("me/faces")' in card and card.count("```") == 2 and "<" not in card
    assert "| data | a&#124;b &#96;c&#96; --- &lt;/script&gt; {d} \\udce9 &lt;!-- |\n" in card
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "shardgan" and header["tags"] == ["gan", "dcgan", "pytorch"]


def test_other_libraries_find_the_format_of_the_weights(trained: Path, folder: Path, tmp_path: Path) -> None:
    Generator.from_pretrained(folder).to(memory_format=torch.channels_last).save_pretrained(tmp_path)
    for path in (folder, tmp_path, *trained.glob("checkpoints/*")):
        with safe_open(next(path.glob("*.safetensors")), "pt") as file:
            assert file.metadata() == {"format": "pt"}
    assert torch.equal(
        Generator.from_pretrained(tmp_path)(torch.ones(1, 8)), Generator.from_pretrained(folder)(torch.ones(1, 8))
    )


def refused(where: str | Path, **options: bool) -> str:
    with pytest.raises(InputError) as caught:
        Generator.from_pretrained(where, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_export_is_named_and_the_hub_is_not_asked(
    trained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get_hf_file_metadata", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for where in ("./x", "../x/y", "/x", "~/x", "~nobody-here/x", "a/b/c", "x", "x/", "a b/c", "é/x", Path("me/x")):
        message = refused(where)
        assert message.startswith("There is no folder ") and str(where).rstrip("/").split("/")[-1] in message
    (tmp_path / "me" / "x").mkdir(parents=True)
    for where in ("me/x", "./me/x", "me", "~/me/x", ".", ""):
        assert "no exported generator: it holds no config.json and no model.safetensors." in refused(where)
    for where in (trained, trained / "config.yaml", trained / "checkpoints", next((trained / "checkpoints").iterdir())):
        assert refused(where).endswith(f"python -m trainer.export {trained} OUT")
    assert refused(folder / "model.safetensors").endswith(f"is a file. Give its folder, {folder}.")
    assert Generator.from_pretrained(f"{folder}/").z_dim == 8


def test_a_damaged_export_is_one_line(folder: Path, tmp_path: Path) -> None:
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    kind = whole["config.json"].replace(b'"dcgan"', b'"other"')
    damaged = [("config.json", b"{"), ("config.json", b"[]"), ("config.json", b"{}"), ("config.json", kind),
               ("model.safetensors", whole["model.safetensors"][:-1]), ("model.safetensors", b"")]  # fmt: skip
    for name, content in damaged:
        for file, data in {**whole, name: content}.items():
            (tmp_path / file).write_bytes(data)
        assert refused(tmp_path).startswith(f"{tmp_path} holds no whole exported generator (")
    (tmp_path / "model.safetensors").unlink()
    assert "it holds no model.safetensors." in refused(tmp_path)


def test_a_hub_that_is_not_reached_is_named_at_once(tmp_path: Path) -> None:
    with socket() as unused:
        unused.bind(("127.0.0.1", 0))
        places = {"HF_ENDPOINT": f"http://127.0.0.1:{unused.getsockname()[1]}", "HF_HOME": str(tmp_path)}
        code = """if True:
            import time
            from trainer.hub import Generator
            for options in ({}, {"local_files_only": True}):
                began = time.monotonic()
                try:
                    Generator.from_pretrained("me/x", **options)
                except Exception as error:
                    print(type(error).__name__, error)
                assert time.monotonic() - began < 10"""
        for offline in ("0", "1"):
            done = python()("-c", code, cwd=ROOT, env={**places, "HF_HUB_OFFLINE": offline})
            lines = done.stdout.splitlines()
            assert done.returncode == 0 and len(lines) == 2, done.stderr
            assert all(
                line.startswith("InputError There is no folder me/x, and the Hub does not give") for line in lines
            )


def test_an_export_that_cannot_be_written_names_its_place(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for format in ("safetensors", "onnx"):
        message = fails(capsys, Export(trained, Path("/proc/self/x.onnx"), format))
        assert "/x.onnx" in message and ".partial" not in message


def test_a_run_without_an_average_gives_its_last_weights_and_float64_becomes_float32(
    faces32: Path, tmp_path: Path
) -> None:
    done = run("faces", "--data.shards", str(faces32), "--out", str(tmp_path / "run"), "--steps", "2", *SMALL,
               "--data.workers", "0", "--ema-images", "0", "--dtype", "float64")  # fmt: skip
    assert done.returncode == 0, done.stderr
    export(Export(tmp_path / "run", tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["weights"] == "of the last step"
    noise = fixed_latents(0, 4, 8)
    expected = generate(load_run(tmp_path / "run").generator.float(), noise)
    assert torch.equal(generate(Generator.from_pretrained(tmp_path / "out"), noise), expected)


def fails(capsys: pytest.CaptureFixture[str], options: Export) -> str:
    """Expects an error, and returns its one line."""
    assert conclude(lambda: export(options)) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_what_exists_is_kept_unless_forced(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "folder"):
        for format in ("safetensors", "onnx"):
            assert "--force" in fails(capsys, Export(trained, out, format))
    assert "not an export" in fails(capsys, Export(trained, tmp_path / "folder", force=True))
    assert "not an export" in fails(capsys, Export(trained, tmp_path / "folder", "onnx", force=True))
    assert "not an export" in fails(capsys, Export(trained, tmp_path / "file", force=True))
    assert "not an export" in fails(capsys, Export(trained, trained, force=True))
    for content in ("mine", "", "%PDF-1.7"):
        (tmp_path / "thesis.pdf").write_text(content)
        assert "not an export" in fails(capsys, Export(trained, tmp_path / "thesis.pdf", "onnx", force=True))
        assert (tmp_path / "thesis.pdf").read_text() == content
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "thesis").read_text() == "mine"


def test_force_replaces(trained: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")
    export(Export(trained, out, force=True))
    assert (out / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    (tmp_path / "old.onnx").write_text("old")
    export(Export(trained, tmp_path / "old.onnx", "onnx", force=True))
    onnx.checker.check_model(tmp_path / "old.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "old.onnx"}


def test_bad_input_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    (tmp_path / "file").touch()
    (tmp_path / "weights.pt").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert "no such folder" in fails(capsys, Export(tmp_path / "nowhere", tmp_path / "out"))
    assert "not a run" in fails(capsys, Export(tmp_path, tmp_path / "out"))
    assert "never opened" in fails(capsys, Export(trained, tmp_path / "out", checkpoint=tmp_path / "weights.pt"))
    assert "file" in fails(capsys, Export(trained, tmp_path / "file" / "out"))
    for out in ("/", ".", "..", "new/.."):
        assert "cannot be replaced" in fails(capsys, Export(trained, Path(out), force=True))
    assert "s3://b/x is a URL" in fails(capsys, Export(trained, Path("s3://b/x")))
    assert "must end in .onnx" in fails(capsys, Export(trained, tmp_path / "out", "onnx", force=True))
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "file", "weights.pt"}


def test_a_missing_extra_is_named(trained: Path, tmp_path: Path) -> None:
    """The import system cannot find onnxruntime."""
    code = """if True:
        import runpy, sys
        sys.modules["onnxruntime"] = None
        runpy.run_module("trainer.export", run_name="__main__", alter_sys=True)"""
    done = run(words=[sys.executable, "-c", code, str(trained), str(tmp_path / "out"), "--format", "onnx"])
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: This needs onnxruntime, not installed here. Run: uv sync --extra export\n"


def test_help_shows_an_example_and_loads_no_torch() -> None:
    code = """if True:
        import runpy, sys
        try:
            runpy.run_module("trainer.export", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert end.code == 0
        sys.exit(bool({"torch", "onnx", "huggingface_hub"} & {*sys.modules}))"""
    done = run(words=[sys.executable, "-c", code, "--help"])
    assert done.returncode == 0, done.stderr
    assert all(text in done.stdout for text in ("RUN OUT", "Example: python -m trainer.export", "--push"))


def test_what_was_written_stays_when_the_hub_is_not_reached(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub is a port where nothing listens. Without --push there is no request."""
    with socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address, clients = f"http://127.0.0.1:{unused.getsockname()[1]}", []

        def client() -> HfApi:
            clients.append(address)
            return HfApi(address, token="hf_no")

        monkeypatch.setattr(hub, "HfApi", client)
        export(Export(trained, tmp_path / "quiet"))
        assert not clients
        capsys.readouterr()
        assert conclude(lambda: export(Export(trained, tmp_path / "out", push="me/faces"))) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith(str(tmp_path / "out"))
    expected = f"error: {tmp_path / 'out'} is written, but could not be uploaded to me/faces"
    assert lines[1].startswith(expected) and clients
    assert load_file(tmp_path / "out" / "model.safetensors") and len([*tmp_path.iterdir()]) == 2
    assert "repo" in fails(capsys, Export(trained, tmp_path / "none", push="not a name"))
    assert not (tmp_path / "none").exists()


def test_a_push_uploads_what_was_written(trained: Path, tmp_path: Path) -> None:
    """The Hub is a server with the four answers that its client needs."""
    requests: list[tuple[str, bytes]] = []

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, body))
            answer: dict[str, object] = {"url": f"http://{self.headers['Host']}/me/faces"}
            if "preupload" in self.path:
                files = json.loads(body)["files"]
                answer = {
                    "files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
                }
            elif "commit" in self.path:
                answer |= {"commitUrl": f"{answer['url']}/commit/1", "commitOid": "1", "hookOutput": ""}
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        words = [sys.executable, "-m", "trainer.export", str(trained), str(tmp_path / "out"), "--push", "me/faces"]
        address = f"http://127.0.0.1:{server.server_port}"
        done = run(words=words, env={"HF_ENDPOINT": address, "HF_TOKEN": "hf_no", "HF_HOME": str(tmp_path / "home")})
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert "Uploaded to" in done.stderr and "me/faces" in done.stderr
    created = next(json.loads(body) for path, body in requests if path.endswith("repos/create"))
    assert created["visibility"] == "private"
    commit = next(body for path, body in requests if "/commit/" in path).decode()
    sent = [json.loads(line)["value"]["path"] for line in commit.splitlines() if '"file"' in line]
    assert sorted(sent) == ["README.md", "config.json", "model.safetensors"]
