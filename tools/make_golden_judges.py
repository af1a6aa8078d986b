"""Writes tests/golden/judges.npz: what the judges' own code computes, for tests of the judges.

Run where torch, librosa, onnxruntime, resemblyzer 0.1.4 and speechmos 0.0.1.1 (both installed with
--no-deps) are, with checkouts of k2-fsa/ZipVoice (2f7326f) and s3prl/s3prl (ec8064b):

    python tools/make_golden_judges.py --zipvoice DIR --s3prl DIR

Resemblyzer and DNSMOS have the weights of their packages. WavLM with ECAPA-TDNN, small, and UTMOS,
with two of its twelve layers, have random ones by `judging.random_weights`, whose names and shapes
are kept.
"""

import argparse
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
import torch

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))
from judging import random_weights  # noqa: E402

SECONDS = (1.7, 0.9)  # of the recordings that are judged


def load(path: Path, package: str = "") -> Any:
    """A module from a file; its package need not be installed."""
    name = f"{package}.{path.stem}" if package else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def fill(model: torch.nn.Module) -> str:
    """Gives a model its random weights; returns their shapes as JSON."""
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    shapes = {name: list(value.shape) for name, value in state.items()}
    found = {name: torch.from_numpy(x) for name, x in random_weights(shapes).items()}
    model.load_state_dict(found, strict=False)
    return json.dumps(shapes)


def ecapa(zipvoice: Path, s3prl: Path) -> torch.nn.Module:
    """The official speaker encoder, on a small WavLM of WavLM-large's shape."""
    folder = s3prl / "s3prl" / "upstream" / "wavlm"
    package = types.ModuleType("wavlm")
    package.__path__ = [str(folder)]
    sys.modules["wavlm"] = package
    load(folder / "modules.py", "wavlm")
    wavlm = load(folder / "WavLM.py", "wavlm")
    config = wavlm.WavLMConfig({
        "extractor_mode": "layer_norm", "layer_norm_first": True, "normalize": True,
        "encoder_layers": 3, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48,
        "encoder_attention_heads": 2, "relative_position_embedding": True, "num_buckets": 320,
        "max_distance": 800, "gru_rel_pos": True, "conv_pos": 16, "conv_pos_groups": 4,
        "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    })  # fmt: skip

    class Upstream(torch.nn.Module):
        """What s3prl's expert gives: the input of each layer, and the encoder's output."""

        def __init__(self) -> None:
            super().__init__()
            self.model = wavlm.WavLM(config)
            self.model.feature_grad_mult = 0.0

        def forward(self, waves: list[torch.Tensor]) -> dict[str, Any]:
            found: list[torch.Tensor] = []
            hooks = [
                layer.register_forward_hook(lambda m, x, y: found.append(x[0].transpose(0, 1)))
                for layer in self.model.encoder.layers
            ]
            (wave,) = [torch.nn.functional.layer_norm(w, w.shape) for w in waves]
            mask = torch.zeros(1, len(wave), dtype=torch.bool)
            last, _ = self.model.extract_features(wave[None], padding_mask=mask, mask=False)
            for hook in hooks:
                hook.remove()
            return {"hidden_states": (*found, last)}

    torch.hub.load = lambda *_, **__: Upstream().eval()  # type: ignore[assignment]
    official = load(zipvoice / "zipvoice" / "eval" / "models" / "ecapa_tdnn_wavlm.py")
    return official.ECAPA_TDNN_WAVLM(feat_dim=32, channels=16, emb_dim=8).eval()


def utmos(zipvoice: Path) -> torch.nn.Module:
    """The official predictor with two layers."""
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))  # imported, not used
    model = load(zipvoice / "zipvoice" / "eval" / "models" / "utmos.py").UTMOS22Strong()
    model.wav2vec2.encoder.layers = model.wav2vec2.encoder.layers[:2]
    return model.eval()


def main() -> None:
    """Computes everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zipvoice", type=Path, required=True)
    parser.add_argument("--s3prl", type=Path, required=True)
    args = parser.parse_args()
    sys.modules["webrtcvad"] = types.ModuleType("webrtcvad")  # imported there, not needed here
    from resemblyzer import VoiceEncoder
    from speechmos import dnsmos

    wave, rate = soundfile.read(TESTS / "data" / "prompt_s1.flac", dtype="float32")
    mel = librosa.feature.melspectrogram(y=wave, sr=rate, n_fft=400, hop_length=160, n_mels=40).T
    windows = np.stack([mel[b : b + 160] for b in (0, 77, 154)]).astype(np.float32)
    waves = [torch.from_numpy(wave[: round(seconds * rate)]) for seconds in SECONDS]
    speaker, opinion = ecapa(args.zipvoice, args.s3prl), utmos(args.zipvoice)
    shapes = {"ecapa_shapes": fill(speaker), "utmos_shapes": fill(opinion)}
    attention = speaker.feature_extract.model.encoder.layers[0].self_attn
    far = torch.arange(-6000, 6001)
    with torch.no_grad():
        np.savez_compressed(
            TESTS / "golden" / "judges.npz",
            resemblyzer_mel=windows,
            resemblyzer_embedding=VoiceEncoder("cpu", verbose=False)(torch.from_numpy(windows)),
            dnsmos_overall=dnsmos.run(wave, rate, return_df=False)["ovrl_mos"],
            seconds=SECONDS,
            ecapa_embedding=np.concatenate([speaker([w]).numpy() for w in waves]),
            ecapa_distance_classes=attention._relative_positions_bucket(far).numpy(),
            utmos_score=np.concatenate([opinion(w[None], rate).numpy() for w in waves]),
            **shapes,  # type: ignore[arg-type]
        )


if __name__ == "__main__":
    main()
