"""Writes tests/golden/judges.npz: what Resemblyzer and speechmos compute, for tests/test_judge.py.

Run where torch, librosa, onnxruntime, resemblyzer 0.1.4 and speechmos 0.0.1.1 (both installed with
--no-deps) are: python tests/make_golden_judges.py
"""

import sys
import types
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch

sys.modules["webrtcvad"] = types.ModuleType("webrtcvad")  # imported there, not needed here
from resemblyzer import VoiceEncoder  # noqa: E402
from speechmos import dnsmos  # noqa: E402

TESTS = Path(__file__).resolve().parent
wave, rate = soundfile.read(TESTS / "data" / "prompt_s1.flac", dtype="float32")
mel = librosa.feature.melspectrogram(y=wave, sr=rate, n_fft=400, hop_length=160, n_mels=40).T
windows = np.stack([mel[b : b + 160] for b in (0, 77, 154)]).astype(np.float32)
with torch.no_grad():
    embedding = VoiceEncoder("cpu", verbose=False)(torch.from_numpy(windows)).numpy()
overall = dnsmos.run(wave, rate, return_df=False)["ovrl_mos"]
np.savez_compressed(
    TESTS / "golden" / "judges.npz",
    resemblyzer_mel=windows,
    resemblyzer_embedding=embedding,
    dnsmos_overall=overall,
)
