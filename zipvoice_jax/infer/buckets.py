"""Packing jobs into a small, fixed set of shapes, so that few programs are compiled."""

from collections.abc import Sequence

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.infer.prepare import MAX_FRAMES, Job

# Steps of a fifth to a third, so that no bucket above the first is more than a quarter padding.
FRAMES = (384, 512, 640, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 6144, MAX_FRAMES)
TOKENS = (256, 512, 1024, 2048, 4096, MAX_FRAMES)
MAX_BATCH = 32


def _fit(size: int, steps: tuple[int, ...], what: str) -> int:
    for step in steps:
        if size <= step:
            return step
    raise UserError(f"a text needs {size} {what}, more than {steps[-1]}; split it into parts.")


def shape_of(job: Job) -> tuple[int, int]:
    """The padded numbers of frames and tokens of a job, with room for one padding token."""
    frames = _fit(job.features_len, FRAMES, "frames")
    return frames, padded_tokens(len(job.token_ids))


def padded_tokens(count: int) -> int:
    """The padded length for this many tokens and at least one of padding."""
    return _fit(count + 1, TOKENS, "tokens")


def batch_sizes(devices: int) -> tuple[int, ...]:
    """Batch sizes in use: powers of two, multiples of the number of devices."""
    sizes = [devices]
    while sizes[-1] * 2 <= max(MAX_BATCH, devices):
        sizes.append(sizes[-1] * 2)
    return tuple(sizes)


def pack(
    jobs: Sequence[Job], *, max_frames: int, devices: int = 1
) -> list[tuple[Bucket, list[Job]]]:
    """Groups jobs of one shape into batches, longest first.

    Args:
        jobs: the jobs, in any order.
        max_frames: most padded frames in a batch, unless one item per device needs more.
        devices: number of devices; batch sizes are multiples of it.

    Returns:
        Buckets with the jobs that fill them; a job's result does not depend on the other jobs.
    """
    groups: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        groups.setdefault(shape_of(job), []).append(job)
    sizes = batch_sizes(devices)
    packed = []
    for (frames, tokens), members in sorted(groups.items(), reverse=True):
        most = max((size for size in sizes if size * frames <= max_frames), default=sizes[0])
        for begin in range(0, len(members), most):
            part = members[begin : begin + most]
            batch = next(size for size in sizes if size >= len(part))
            packed.append((Bucket(frames, tokens, batch), part))
    return packed
