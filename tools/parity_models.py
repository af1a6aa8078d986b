"""Parity cases of whole models: text, velocity, samples, losses, gradients, releases."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from parity_core import GRADIENT_LIMIT, Case, mismatches, relative_error

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.audio.mel import log_mel, log_mel_host
from zipvoice_jax.audio.ops import rms_norm, stereo_prompt
from zipvoice_jax.checkpoint import growth, mapping
from zipvoice_jax.checkpoint.official import read_official
from zipvoice_jax.config import ModelConfig
from zipvoice_jax.flow.losses import DistillBatch, FlowBatch, flow_matching_loss
from zipvoice_jax.flow.sampling import SampleInputs, predicted_frames, sample, time_steps
from zipvoice_jax.models.zipvoice import ZipVoice
from zipvoice_jax.text.tokenizer import make_tokenizer
from zipvoice_jax.train.objectives import OBJECTIVES, Objective

Cases = Callable[[Path], Iterator[Case]]


def _ids(array: Any) -> jax.Array:
    return jnp.asarray(np.asarray(array, np.int32))


def _pad(x: np.ndarray, frames: int) -> jax.Array:
    return jnp.asarray(np.pad(x, ((0, 0), (0, frames - x.shape[1]), (0, 0))))


def _load(golden: Path, kind: str) -> tuple[ModelConfig, dict[str, Any], Any]:
    values = json.loads((golden / f"models/{kind}.config.json").read_text("utf-8"))
    model = values.pop("model")
    # Random tokens put two turns of one speaker in a row, where the official rule differs.
    config = ModelConfig.from_model_json(model, kind=kind, speaker_turns="official", **values)
    state = np.load(golden / f"models/{kind}.params.npz")
    params = jax.tree.map(jnp.asarray, mapping.from_official(state, config))
    return config, params, np.load(golden / f"models/{kind}.io.npz")


def model(kind: str) -> Cases:
    """The cases of models/<kind>.*: each item alone, in a batch, and in a longer bucket."""

    def cases(golden: Path) -> Iterator[Case]:
        config, params, io = _load(golden, kind)
        yield from _velocities(config, params, io)
        yield from _samples(config, params, io)
        if config.is_distill:
            yield from _distillation(golden, config, params, io)
        else:
            yield from _losses(golden, config, params, io)

    return cases


def _distillation(
    golden: Path, config: ModelConfig, params: dict[str, Any], io: Any
) -> Iterator[Case]:
    """Losses and gradients of both stages."""
    for stage in ("first", "second"):
        official = np.load(golden / f"models/{config.kind}.{stage}.npz")
        teacher = _load(golden, "zipvoice")[1] if stage == "first" else params
        times = dict(zip(("t", "t_middle", "t_end"), jnp.asarray(official["times"]), strict=True))
        batch = DistillBatch(
            tokens=_ids(io["tokens"]),
            tokens_lens=_ids(io["tokens_lens"]),
            features=jnp.asarray(io["features"]),
            features_lens=_ids(io["features_lens"]),
            noise=jnp.asarray(io["noise"]),
            speech_condition_mask=jnp.asarray(io["speech_condition_mask"]),
            guidance_scale=jnp.asarray(io["guidance_scale"]),
            **times,
        )
        objective = OBJECTIVES[f"distill_{stage}"]

        def loss(
            params: Any, teacher: Any, batch: DistillBatch, objective: Objective = objective
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            return objective.loss(params, teacher, batch, {}, None, config=config)

        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (value, parts), grads = run(params, teacher, batch)
        yield Case(f"{stage} distillation: loss", relative_error(value, official["loss"]))
        reference = relative_error(parts["reference"], official["reference"])
        yield Case(f"{stage} distillation: reference", reference)
        gradients = {n: official[n] for n in official.files if n.startswith("fm_decoder")}
        ours = mapping.to_official(grads, config)
        yield from _gradients(ours, gradients, f"{stage} distillation: gradient")


def _velocities(config: ModelConfig, params: dict[str, Any], io: Any) -> Iterator[Case]:
    tokens, tokens_lens = _ids(io["tokens"]), _ids(io["tokens_lens"])
    lens, frames = _ids(io["features_lens"]), io["features"].shape[1]

    @functools.partial(jax.jit, static_argnames=("method", "num_frames"))
    def apply(method: Callable[..., Any], params: Any, *args: Any, **static: int) -> Any:
        return ZipVoice(config).apply({"params": params}, *args, method=method, **static)

    embed = apply(ZipVoice.text_embed, params, tokens, tokens_lens)
    yield Case("text_embed", relative_error(embed, io["text_embed"]))
    t, noise, features = jnp.asarray(io["t"][:, 0, 0]), io["noise"], io["features"]
    xt = features * io["t"] + noise * (1 - io["t"])
    speech = np.where(io["speech_condition_mask"][:, :, None], 0, features).astype(np.float32)
    scale = jnp.asarray(io["guidance_scale"]) if config.is_distill else None
    outputs = {"velocity": features.shape[-1]}
    if config.is_stereo:
        outputs["velocity_one_channel"] = config.feat_dim
    items = range(len(lens))
    for label, total, rows in (
        ("alone", int(lens[0]), [0]),  # the others are held to their results alone in batches
        ("in one batch", frames, list(items)),
        ("in a reversed, longer batch", frames + 27, list(items)[::-1]),
    ):
        pick = np.array(rows)
        picked = (tokens[pick], tokens_lens[pick], lens[pick])
        condition = apply(ZipVoice.text_condition, params, *picked, num_frames=total)
        mask = jnp.arange(total)[None, :] >= lens[pick][:, None]
        cut = min(total, frames)
        for row, b in enumerate(rows):
            ours = condition[row : row + 1, : int(lens[b])]
            error = relative_error(ours, io[f"text_condition_item{b}"])
            yield Case(f"text_condition, item {b}, {label}", error, detail=len(rows) > 1)
        for name, dim in outputs.items():
            velocity = apply(
                ZipVoice.velocity,
                params,
                t[pick],
                _pad(xt[pick][:, :cut, :dim].astype(np.float32), total),
                condition,
                _pad(speech[pick][:, :cut, :dim], total),
                mask,
                None if scale is None else scale[pick],
            )
            for row, b in enumerate(rows):
                ours = velocity[row : row + 1, : int(lens[b])]
                yield Case(
                    f"{name}, item {b}, {label}", relative_error(ours, io[f"{name}_item{b}"])
                )


def _samples(config: ModelConfig, params: dict[str, Any], io: Any) -> Iterator[Case]:
    prompt_tokens, prompt_tokens_lens = io["sample_prompt_tokens"], io["sample_prompt_tokens_lens"]
    items = [
        np.r_[prompt_tokens[b, : prompt_tokens_lens[b]], io["tokens"][b, : io["tokens_lens"][b]]]
        for b in range(len(prompt_tokens_lens))
    ]
    prompt_lens = io["sample_prompt_features_lens"]
    new = [
        predicted_frames(int(prompt), int(a), int(b), float(io["sample_speed"]))
        for prompt, a, b in zip(prompt_lens, prompt_tokens_lens, io["tokens_lens"], strict=True)
    ]
    yield Case("sample lengths", mismatches(new, io["sample_x1_lens"].tolist()), 0.0)
    x0 = io["sample_x0"]
    run = jax.jit(functools.partial(sample, config=config))
    for label, total in (("in one batch", x0.shape[1]), ("in a longer bucket", x0.shape[1] + 25)):
        tokens = np.full((len(items), max(map(len, items)) + total % 5 + 1), config.pad_id)
        for row, ids in zip(tokens, items, strict=True):
            row[: len(ids)] = ids
        inputs = SampleInputs(
            tokens=_ids(tokens),
            tokens_lens=_ids([len(ids) for ids in items]),
            prompt_features=_pad(io["sample_prompt_features"], total),
            prompt_lens=_ids(prompt_lens),
            features_lens=_ids(prompt_lens + np.array(new)),
            noise=_pad(x0, total),
        )
        times = time_steps(int(io["sample_num_step"]), float(io["sample_t_shift"]))
        scale = jnp.full(len(items), io["sample_guidance_scale"], jnp.float32)
        x1 = run(params, inputs=inputs, times=jnp.asarray(times), guidance_scale=scale)
        for b, prompt in enumerate(prompt_lens):
            ours = x1[b : b + 1, prompt : prompt + new[b]]
            yield Case(f"sample, item {b}, {label}", relative_error(ours, io[f"sample_x1_item{b}"]))


def _losses(golden: Path, config: ModelConfig, params: dict[str, Any], io: Any) -> Iterator[Case]:
    def loss(params: Any, batch: FlowBatch, weight: jax.Array) -> jax.Array:
        return flow_matching_loss(params, config, batch, weights={"exclusive_weight": weight})[0]

    run = jax.jit(jax.value_and_grad(loss))
    dim, feat = io["features"].shape[-1], config.feat_dim
    wanted = [("loss", dim, 1.0, "grads")]
    if config.is_stereo:
        wanted += [
            ("loss_without_exclusive_term", dim, 0.0, None),
            ("loss_one_channel", feat, 0.0, "grads_one_channel"),
        ]
    for name, channels_feat, weight, gradients in wanted:
        batch = FlowBatch(
            tokens=_ids(io["tokens"]),
            tokens_lens=_ids(io["tokens_lens"]),
            features=jnp.asarray(io["features"][:, :, :channels_feat]),
            features_lens=_ids(io["features_lens"]),
            noise=jnp.asarray(io["noise"][:, :, :channels_feat]),
            t=jnp.asarray(io["t"][:, 0, 0]),
            speech_condition_mask=jnp.asarray(io["speech_condition_mask"]),
            keep_text=jnp.ones(len(io["tokens_lens"]), jnp.float32),
        )
        value, grads = run(params, batch, jnp.float32(weight))
        yield Case(name, relative_error(value, io[name]))
        if not gradients:
            continue
        ours = mapping.to_official(grads, config)
        official = np.load(golden / f"models/{config.kind}.{gradients}.npz")
        yield from _gradients(ours, official, gradients)


def _gradients(ours: dict[str, np.ndarray], official: Any, name: str) -> Iterator[Case]:
    """Every parameter's gradient, and the worst of them as a row of its own."""
    errors = {}
    for key in official:
        errors[key] = relative_error(ours[key], official[key])
        yield Case(f"{name} {key}", errors[key], GRADIENT_LIMIT, detail=True)
    # What the official pass leaves without a gradient must have none here.
    unused = sum(float(np.abs(ours[key]).max()) for key in ours if key not in official)
    yield Case(f"{name}: parameters that the loss does not use", unused, 0.0)
    worst = max(errors, key=errors.__getitem__)
    yield Case(f"{name}: worst of {len(errors)} parameters", errors[worst], GRADIENT_LIMIT)


def release(kind: str) -> Cases:
    """The cases of release/<kind>: from prompt recordings and text to features."""

    def cases(golden: Path) -> Iterator[Case]:
        loaded = read_official(golden / "release" / kind)
        config = loaded.config
        yield Case("kind told by the tensors", float(config.kind != kind), 0.0)
        d = np.load(golden / "release" / kind / "expected.npz")
        rate = loaded.features.sampling_rate
        waves = [read_audio(golden / f"release/prompt_s{i}.wav", rate) for i in (1, 2)]
        prompt = stereo_prompt(waves) if config.is_stereo else np.concatenate(waves, axis=1)
        wave, rms = rms_norm(prompt, 0.1)
        yield Case("prompt rms", relative_error(rms, d["prompt_rms"]))
        read = min(relative_error(w, d["prompt_wave"]) for w in (prompt, wave))
        yield Case("prompt wave", read)
        scale = float(d["feat_scale"])
        mel = log_mel_host(wave, loaded.features, channels=config.channels) * scale
        yield Case("prompt features on host", relative_error(mel[None], d["prompt_features"]))
        on_device = log_mel(jnp.asarray(wave), loaded.features, channels=config.channels) * scale
        yield Case(
            "prompt features on device", relative_error(on_device[None], d["prompt_features"])
        )

        tokenizer = make_tokenizer("dialog" if config.is_dialog else "emilia", loaded.table)
        tokens = tokenizer.encode(str(d["text"])).ids
        prompt_tokens = tokenizer.encode(str(d["prompt_text"])).ids
        error = mismatches(tokens, d["token_ids"].tolist())
        error += mismatches(prompt_tokens, d["prompt_token_ids"].tolist())
        yield Case("token ids", error, 0.0)
        frames = mel.shape[0]
        new = predicted_frames(frames, len(prompt_tokens), len(tokens), float(d["speed"]))
        yield Case("length", mismatches([new], d["features_lens"].tolist()), 0.0)

        x0 = d["x0"]
        total = x0.shape[1]
        ids = (*prompt_tokens, *tokens, config.pad_id)
        inputs = SampleInputs(
            tokens=_ids([ids]),
            tokens_lens=_ids([len(ids) - 1]),
            prompt_features=_pad(np.asarray(mel[None], np.float32), total),
            prompt_lens=_ids([frames]),
            features_lens=_ids([frames + new]),
            noise=jnp.asarray(x0),
        )
        times = jnp.asarray(time_steps(int(d["num_step"]), float(d["t_shift"])))
        guidance = jnp.full(1, d["guidance_scale"], jnp.float32)
        for rule in ("tag", "official") if config.is_dialog else ("tag",):
            ruled = dataclasses.replace(config, speaker_turns=rule)
            run = jax.jit(functools.partial(sample, config=ruled))
            x1 = run(loaded.params, inputs=inputs, times=times, guidance_scale=guidance)
            # The official result is the model's output, to be divided by feat_scale.
            ours = x1[:, frames : frames + new]
            errors = [
                relative_error(ours, d["features"]),
                relative_error(ours / scale, d["features"]),
            ]
            yield Case(f"features, speaker turns by {rule} rule", min(errors))

    return cases


def stereo_init(golden: Path) -> Iterator[Case]:
    """The projections of a dialogue model grown to stereo."""
    loaded = read_official(golden / "release" / "zipvoice_dialog")
    params, config = growth.grow_to_stereo(loaded.params, loaded.config)
    ours, official = (
        mapping.to_official(params, config),
        np.load(golden / "release/stereo_init.npz"),
    )
    for name in official.files:
        yield Case(name, relative_error(ours[name], official[name]), 0.0)
