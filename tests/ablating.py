"""A config whose runs differ by seed, and dialogues to speak, for the tests of ablations."""

from generation import VOICES
from training import CONFIG

GUIDED = CONFIG.replace("steps: int = 8", "seed: int = 0, steps: int = 2").replace(
    "model=model,", "model=model, seed=seed,"
)
ITEMS = [
    (f"item{i}", VOICES[0][1], VOICES[1][1], VOICES[0][0], VOICES[1][0], f"[S1] {word} [S2] No.")
    for i, word in enumerate(("Yes.", "Perhaps.", "Never."))
]
