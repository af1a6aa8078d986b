"""Items and the chunks of them that are sampled."""

import dataclasses

import numpy as np
from jaxtyping import Float

from zipvoice_jax.infer.requests import Request


@dataclasses.dataclass(frozen=True)
class Job:
    """One chunk to sample.

    Attributes:
        item_id: id of the request.
        chunk: position in the item.
        token_ids: ids of the tokens of prompt and text.
        tokens: tokens of the text only, as strings.
        prompt_features: scaled log-mel, (frames, channels * n_mels).
        features_len: number of frames of prompt and speech.
        prompt_tokens: number of ids that belong to the prompt.
        prompt_parts: where each recording of the prompt but the last ends, in tokens and frames;
            empty if there is one.
        durations: predicted frames of each of the text's tokens, before scaling to the length of
            the speech; None if tokens are looked up by the average rule.
        pause: seconds of silence before the chunk; 0 if it directly follows the one before.
    """

    item_id: str
    chunk: int
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    prompt_features: Float[np.ndarray, "frames channels_feat"]
    features_len: int
    prompt_tokens: int = 0
    prompt_parts: tuple[tuple[int, int], ...] = ()
    durations: Float[np.ndarray, " text_tokens"] | None = None
    pause: float = 0.0

    @property
    def new_frames(self) -> int:
        """Frames of the speech without the prompt."""
        return self.features_len - self.prompt_features.shape[0]


@dataclasses.dataclass(frozen=True)
class Item:
    """A prepared request: its jobs in order, and notes for the user.

    Attributes:
        samples: number of samples of the wave, if the request fixes its length; None: that of the
            jobs, with silence at the edges cut.
        ending: seconds of silence after the last job.
    """

    request: Request
    jobs: tuple[Job, ...]
    prompt_rms: float
    notes: tuple[str, ...]
    samples: int | None = None
    ending: float = 0.0
