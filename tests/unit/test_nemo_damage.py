"""Damaged and hostile .nemo files: each is refused with the reason, before NeMo opens it."""

import io
import random
import tarfile
from pathlib import Path

import hydra
import pytest
import torch
from click.testing import CliRunner
from omegaconf import OmegaConf

from nemo_birq import BiRQModel, load_encoder, load_model
from nemo_birq.checkpoint.nemo_archive import CHECKSUMS, check_nemo, read_config, read_weights, verify_nemo
from nemo_birq.cli import main
from nemo_birq.export.bare_encoder import strip
from nemo_birq.labels.teacher import TeacherFile, read_teacher_file
from nemo_birq.scoring.recognizers import open_recognizer
from tests.helpers.hostile_files import Bomb, flip
from tests.helpers.models import make_model
from tests.helpers.nemo_files import repack
from tests.helpers.paths import CORPUS
from tests.helpers.scoring_models import make_ctc

pytestmark = pytest.mark.unit
TENSORS = "birq_label_tensors.pt"


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    """Returns files by name, without the 33 characters that NeMo adds before the name of an artifact."""
    with tarfile.open(path) as archive:
        found = {member.name.removeprefix("./"): member for member in archive if member.isreg()}
    return {name[33:] if name[32:33] == "_" else name: member for name, member in found.items()}


def content(path: Path) -> tuple[dict, ...]:
    """Returns all tensors of a model."""
    with tarfile.open(path) as archive:
        labels = torch.load(io.BytesIO(archive.extractfile(members(path)[TENSORS]).read()), weights_only=True)
    return read_config(path), read_weights(path), labels


def are_same(one: tuple[dict, ...], two: tuple[dict, ...]) -> bool:
    tensors = zip(one[1:], two[1:], strict=True)
    return one[0] == two[0] and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in tensors
    )


def copy_with_changed_weight(source: Path, target: Path) -> Path:
    """Writes a copy with a changed byte in a tensor."""
    data = source.read_bytes()
    tensor = read_weights(source)["encoder.layers.0.conv.pointwise_conv1.weight"]
    target.write_bytes(data)
    flip(target, data.index(tensor.numpy().tobytes()) + 7)
    return target


def test_a_changed_byte_is_found_or_changes_nothing(nemo, tmp_path):
    path, expected, drawn = tmp_path / "a.nemo", content(nemo), random.Random(0)
    path.write_bytes(nemo.read_bytes())
    assert {CHECKSUMS, "model_config.yaml", "model_weights.ckpt", "README.md", TENSORS} == members(nemo).keys()
    for name, member in members(nemo).items():
        found = 0
        for position in [member.offset + number for number in (0, 107, 124, 148, 150, 257)] + [
            member.offset_data + drawn.randrange(member.size) for _ in range(10)
        ]:
            flip(path, position)
            try:
                verify_nemo(path)
                assert are_same(content(path), expected), (name, position)
            except ValueError as error:
                assert "a.nemo" in str(error)
                found += 1
            flip(path, position)
        assert found >= (5 if name.endswith((".ckpt", ".pt")) else 14), name
    verify_nemo(path)


def test_a_changed_weight_is_found_however_the_file_is_opened(nemo, tmp_path):
    path = copy_with_changed_weight(nemo, tmp_path / "bad.nemo")
    check_nemo(path)
    for opens in (load_model, load_encoder, read_weights, strip, BiRQModel.restore_from):
        with pytest.raises(ValueError, match=r"bad\.nemo: its model_weights\.ckpt cannot be read \(it is damaged"):
            opens(path)
    with pytest.raises(ValueError, match=r"bad\.nemo: its model_weights\.ckpt"):
        make_model().maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": str(path)}))


@pytest.mark.parametrize("kind", ["ssl", "ctc"])
def test_commands_end_in_one_line_that_names_the_file(nemo, tmp_path, kind):
    data, out = str(CORPUS / "test" / "test.json"), str(tmp_path / "out")
    phones = ["--alignments", str(CORPUS / "test" / "phones.ctm")]
    if kind == "ssl":
        path = copy_with_changed_weight(nemo, tmp_path / "bad.nemo")
        commands = [
            ["label-quality", path, data, *phones],
            ["label-quality-over-training", path, data, *phones],
            ["show-utterance", path, data, "--utterance", "x"],
            ["probe", path, "--train", data, "--dev", data, "--test", data],
            ["extract-features", path, data, "--layers", "1", "--out", out],
            ["extract-labels", path, data, "--labels", "anchor", "--out", out],
            ["cluster-labels", path, data, "--layer", "1", "--clusters", "4", "--out", out],
            ["export", path, tmp_path / "hub" / "out.nemo"],
        ]
    else:
        make_ctc().save_to(str(tmp_path / "good.nemo"))
        path = copy_with_changed_weight(tmp_path / "good.nemo", tmp_path / "bad.nemo")
        commands = [
            ["score", path, data, "--device", "cpu"],
            ["estimate-ngram", data, "--out", out, "--tokens-of", path],
        ]
    for command in commands:
        done = CliRunner().invoke(main, [str(argument) for argument in command], prog_name="birq")
        assert done.exit_code == 1 and f"birq {command[0]}: {path}: its model_weights.ckpt" in done.output, done.output
    assert not Path(out).exists() and not (tmp_path / "hub" / "out.nemo").exists()


def test_a_lost_or_doubled_member_is_found(nemo, tmp_path):
    path = tmp_path / "a.nemo"
    path.write_bytes(nemo.read_bytes())
    flip(path, members(nemo)[TENSORS].offset)  # tarfile takes a damaged header for the end of the archive
    with (
        tarfile.open(path) as archive,
        pytest.raises(ValueError, match=r"a\.nemo is not a \.nemo, or .*no member begins at"),
    ):
        assert len(archive.getmembers()) < len(members(nemo))
        check_nemo(path)
    path.write_bytes(nemo.read_bytes())
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("model_config.yaml"))  # NeMo would unpack the last of both
    with pytest.raises(ValueError, match=r"a\.nemo has several members of the same name"):
        check_nemo(path)
    with tarfile.open(path, "w") as archive:
        pipe = tarfile.TarInfo("pipe")
        pipe.type = tarfile.FIFOTYPE
        archive.addfile(pipe)
    with pytest.raises(ValueError, match=r"a\.nemo has members .* pipe"):
        check_nemo(path)


def test_a_file_that_was_changed_on_purpose_opens_without_the_list(nemo, tmp_path):
    def change(folder):
        (folder / "README.md").write_text("mine")

    repack(nemo, tmp_path / "mine.nemo", change)
    verify_nemo(tmp_path / "mine.nemo")
    assert are_same(content(tmp_path / "mine.nemo"), content(nemo))


def test_label_tensors_of_another_shape_name_the_file_and_print_no_traceback(nemo, tmp_path, capfd):
    """All checksums are right. The model finds the error while NeMo builds it, and NeMo would print a traceback."""

    def change(folder):
        path = next(folder.glob(f"*{TENSORS}"))
        torch.save(torch.load(path, weights_only=True) | {"running_covariance": torch.zeros(3, 3)}, path)

    path = tmp_path / "other.nemo"
    repack(nemo, path, change)
    capfd.readouterr()
    for opens in (load_model, load_encoder):
        with pytest.raises(ValueError, match=r"other\.nemo: running_covariance has the shape \(3, 3\)"):
            opens(path)
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed and "instantiation failed" not in printed, printed


def test_exchanged_files_of_tensors_are_found(nemo, tmp_path):
    """Each file has right checksums, and no list assigns them to names."""

    def exchange(folder):
        weights, labels = folder / "model_weights.ckpt", next(folder.glob(f"*{TENSORS}"))
        weights.rename(folder / "other")
        labels.rename(weights)
        (folder / "other").rename(labels)

    path = tmp_path / "exchanged.nemo"
    repack(nemo, path, exchange)
    with pytest.raises(ValueError, match=r"exchanged\.nemo: .*there is no anchor_projection and no "):
        load_model(path)


def test_weights_that_are_not_finite_are_named(nemo, tmp_path):
    """Their checksums are right, because they were written again."""
    name = "encoder.layers.1.conv.batch_norm.running_var"

    def change(folder):
        weights = torch.load(folder / "model_weights.ckpt", weights_only=True)
        weights[name][3] = torch.inf
        torch.save(weights, folder / "model_weights.ckpt")

    path = tmp_path / "infinite.nemo"
    repack(nemo, path, change)
    for opens in (load_model, load_encoder, read_weights, strip):
        with pytest.raises(ValueError, match=rf"infinite\.nemo: .*{name} holds values that are not finite"):
            opens(path)


def arm(bomb: Bomb, name: str):
    """Adds a bomb to a file of torch.save, as a change for ``repack``."""

    def change(folder):
        path = next(folder.glob(f"*{name}"))
        torch.save(torch.load(path, weights_only=True) | {"bomb": bomb}, path)

    return change


def test_bombs_do_not_go_off(nemo, tmp_path):
    bomb, config = Bomb(tmp_path / "ran"), {"hyper_parameters": {"cfg": make_model().cfg}}
    for name in ("model_weights.ckpt", TENSORS):
        path = tmp_path / f"{name}.nemo"
        repack(nemo, path, arm(bomb, name))
        for opens in (load_model, load_encoder, BiRQModel.restore_from):
            with pytest.raises(ValueError, match=rf"its (\w+_)?{name} .* could run code") as error:
                opens(path)
            assert "\n" not in str(error.value) and str(path) in str(error.value)
    torch.save(config | {"bomb": bomb}, tmp_path / "bad.ckpt")
    node = OmegaConf.create({"init_from_ptl_ckpt": {"one": {"path": str(tmp_path / "bad.ckpt")}}})
    begin = make_model().maybe_init_from_pretrained_checkpoint
    for opens in (load_model, BiRQModel.load_from_checkpoint, lambda path: begin(node)):
        with pytest.raises(ValueError, match=r"bad\.ckpt .* could run code"):
            opens(tmp_path / "bad.ckpt")
    make_ctc().save_to(str(tmp_path / "ctc.nemo"))
    repack(tmp_path / "ctc.nemo", tmp_path / "bad.nemo", arm(bomb, "model_weights.ckpt"))
    with pytest.raises(ValueError, match=r"bad\.nemo: its model_weights\.ckpt .* could run code"):
        open_recognizer(tmp_path / "bad.nemo", "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_teacher_is_checked_before_it_is_read(tmp_path):
    path = tmp_path / "teacher.pt"
    TeacherFile(1, torch.arange(200.0).reshape(10, 20), {}, {}, {"w": torch.ones(3)}, 7, "model.nemo").save(path)
    assert read_teacher_file(path).seed == 7
    data = path.read_bytes()
    for wanted in (torch.arange(200.0).numpy().tobytes(), b"model.nemo"):  # its own checksum is not over all values
        flip(path, data.index(wanted))
        with pytest.raises(ValueError, match=r"teacher\.pt is not a teacher, or is truncated or damaged"):
            read_teacher_file(path)
        path.write_bytes(data)
    torch.save(torch.load(path, weights_only=True) | {"bomb": Bomb(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match=r"teacher\.pt .* could run code"):
        read_teacher_file(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("node", ["preprocessor", "encoder", None])
def test_a_configuration_cannot_name_foreign_functions(nemo, tmp_path, node):
    call = {"_target_": "os.makedirs", "name": str(tmp_path / "ran")}

    def change(folder):
        config = OmegaConf.load(folder / "model_config.yaml")
        config[node or "target"] = call if node else "os.makedirs"
        OmegaConf.save({key: value for key, value in config.items() if key != "birq"}, folder / "model_config.yaml")

    repack(nemo, tmp_path / "bad.nemo", change)
    with pytest.raises(ValueError, match=r"bad\.nemo.*os\.makedirs"):
        load_encoder(tmp_path / "bad.nemo")
    assert not (tmp_path / "ran").exists()
    hydra.utils.instantiate(call)
    assert (tmp_path / "ran").exists()  # it would work
