"""An exported folder works with transformers only: one process, which cannot import NeMo, runs all of this."""

import subprocess
import sys
import textwrap

import pytest
import torch
from huggingface_hub import ModelCard

from nemo_birq.export.bare_encoder import strip
from nemo_birq.export.transformers_folder import write_folder
from tests.helpers.models import FAST, make_batch, trained_model
from tests.helpers.scripts import run

ALONE = '''
    import sys
    for name in ("nemo", "nemo_birq", "lightning", "pytorch_lightning", "omegaconf", "lhotse", "librosa"):
        sys.modules[name] = None  # importing it raises ImportError from here on
    import json, os, re
    from pathlib import Path
    import torch
    from transformers import (AutoFeatureExtractor, AutoModel, ParakeetCTCConfig, ParakeetEncoder, ParakeetFeatureExtractor,
                              ParakeetForCTC)
    torch.manual_seed(0)
    os.chdir(sys.argv[1])
    expected = torch.load("expected.pt", weights_only=True)

    extractor, encoder = AutoFeatureExtractor.from_pretrained("hub/whole"), AutoModel.from_pretrained("hub/whole").eval()
    assert type(encoder) is ParakeetEncoder and type(extractor) is ParakeetFeatureExtractor
    two = AutoModel.from_pretrained("hub/two").eval()
    assert len(two.layers) == 2 and len(encoder.layers) == 3

    def check(batch):
        """All utterances of NeMo's batch that are in this one, whatever the padding is."""
        inputs = extractor([expected["signal"][i, :expected["lengths"][i]].numpy() for i in batch], sampling_rate=16000,
                           return_tensors="pt")
        with torch.inference_mode():
            found = encoder(**inputs, output_hidden_states=True)
            short = two(**inputs)
        for row, i in enumerate(batch):
            frames = int(expected["frames"][i])
            assert int(found.attention_mask[row].sum()) == frames
            wanted = [layer[i, :frames] for layer in expected["layers"]]
            assert len(found.hidden_states) == 1 + len(wanted) == 4
            for one, other in zip(found.hidden_states[1:], wanted):
                assert (one[row, :frames] - other).abs().max() < 1e-4
            assert (found.last_hidden_state[row, :frames] - wanted[-1]).abs().max() < 1e-4
            assert (short.last_hidden_state[row, :frames] - wanted[1]).abs().max() < 1e-4
        return inputs

    for batch in ([0], [4], [4, 2], [1, 3, 0]):
        check(batch)
    inputs = check([0, 1, 2, 3, 4])

    os.chdir("hub")
    snippets = re.findall(r"```python\\n(.*?)```", Path("whole/README.md").read_text(), re.S)
    assert len(snippets) == 3
    scope = {}
    for snippet in snippets:
        exec(snippet, scope)

    recognizer = ParakeetForCTC(ParakeetCTCConfig(encoder_config=encoder.config, vocab_size=12, pad_token_id=11))
    recognizer.encoder.load_state_dict(encoder.state_dict())
    recognizer.train()
    labels = torch.tensor([[1, 2, 3], [4, 5, 11], [6, 7, 11], [8, 9, 11], [10, 11, 11]])
    optimizer = torch.optim.AdamW(recognizer.parameters(), lr=1e-3)
    for _ in range(2):
        loss = recognizer(**inputs, labels=labels).loss
        assert torch.isfinite(loss) and loss > 0
        optimizer.zero_grad()
        loss.backward()
        silent = [name for name, one in recognizer.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
        assert not silent, silent
        optimizer.step()
    before = encoder.state_dict()
    unmoved = [name for name, one in recognizer.encoder.state_dict().items() if torch.equal(one, before[name])]
    assert unmoved == [], unmoved
    assert not any(sys.modules[name] for name in sys.modules if name.partition(".")[0] in ("nemo", "nemo_birq", "lightning"))
    print("transformers did it all")
'''


@pytest.mark.integration
def test_transformers_alone_gives_the_outputs_of_nemo_and_fine_tunes(tmp_path):
    model = trained_model(**FAST, preprocessor__features=24, encoder__feat_in=24).eval()
    model.save_to(str(tmp_path / "model.nemo"))
    source, whole = tmp_path / "model.nemo", tmp_path / "hub" / "whole"
    whole.mkdir(parents=True)
    printed = run("export_encoder.py", str(source), str(whole), "--license", "cc-by-4.0", "--language", "en")
    assert "largest difference from NeMo" in printed and "decoder_losses.anchor" in printed
    assert f"{sum(path.stat().st_size for path in whole.iterdir()) / 1e6:.2f} MB  {whole}\n" in printed
    write_folder(strip(source, layer=2).model, tmp_path / "hub" / "two")
    for folder in ("whole", "two"):
        written = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "hub" / folder).iterdir()}
        assert set(written) == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
        assert len(set(written.values())) == 1, written  # whoever may read one may read all
    card = ModelCard.load(whole / "README.md")
    assert (card.data.library_name, card.data.license, card.data.language) == ("transformers", "cc-by-4.0", ["en"])
    assert "NeMo" not in card.data.tags and "restore_from" not in card.text

    batch = make_batch((2.0, 1.3, 0.7, 1.99, 0.1))
    layers = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda _, __, output: layers.append(output))
    with torch.no_grad():
        features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        _, frames = model.encoder(audio_signal=features, length=lengths)
    expected = {"signal": batch.signal, "lengths": batch.signal_length, "frames": frames.clone(), "layers": layers}
    torch.save(expected, tmp_path / "expected.pt")

    script = tmp_path / "alone.py"
    script.write_text(textwrap.dedent(ALONE))
    done = subprocess.run([sys.executable, "-I", str(script), str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    assert "transformers did it all" in done.stdout, done.stderr[-3000:]


@pytest.mark.system
def test_a_conformer_is_refused_before_anything_is_written(nemo, tmp_path):
    printed = run("export_encoder.py", str(nemo), str(tmp_path / "hub" / "new"), fails=True)
    assert "encoder.subsampling=striding" in printed and "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []
