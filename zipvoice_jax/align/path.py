"""The best monotone assignment of frames to tokens."""

import numpy as np
from jaxtyping import Float, Int


def best_starts(scores: Float[np.ndarray, "frames tokens"]) -> Int[np.ndarray, " tokens"]:
    """The frames at which tokens begin on the best monotone path (Viterbi).

    Every frame belongs to one token, and every token has one or more frames, in order. Ties go to
    the path whose tokens begin latest, from the last token on. If there are more tokens than
    frames, frames are shared evenly.

    Args:
        scores: score of each token at each frame; the best path has the greatest sum.

    Returns:
        The first frame of each token; int32, the first is 0.
    """
    frames, tokens = scores.shape
    if tokens > frames:
        return even_starts(frames, tokens)
    best = np.full(tokens, -np.inf)
    best[0] = scores[0, 0]
    arrives = np.zeros((frames, tokens), bool)  # from the token before
    for frame in range(1, frames):
        before = np.concatenate([[-np.inf], best[:-1]])
        arrives[frame] = before >= best
        best = np.maximum(before, best) + scores[frame]
    starts = np.zeros(tokens, np.int32)
    frame = frames - 1
    for token in range(tokens - 1, 0, -1):
        while not arrives[frame, token]:
            frame -= 1
        starts[token] = frame
        frame -= 1
    return starts


def even_starts(frames: int, tokens: int) -> Int[np.ndarray, " tokens"]:
    """Starts of tokens that share frames evenly; several share a start if tokens > frames."""
    return (np.arange(tokens) * frames // max(tokens, 1)).astype(np.int32)
