"""Times autoregressive models of dialogue in PyTorch, with random weights: a standalone program.

    PYTHON autoregressive.py --model dia --device cpu --dtype float32 --steps 24 --repeats 1

prints one line of JSON. It imports torch and transformers and nothing of this package, so that any
environment that has them can run it; `zipvoice-jax bench compare` does.

Dia is that of transformers at its published sizes (1.61B parameters; each of its 86.1 frames a
second is a step, with guidance, hence a batch of two). MoonCast's language model has 2.67B
parameters and 50 tokens a second according to its paper and code; the shape of its layers is
assumed (Llama, 16 layers of width 3072, 24 heads, 160,000 tokens). Speed does not depend on the
weights. Neither the decoding of tokens into sound nor the reading of the prompt is timed, and the
timed steps have a short context, while steps slow down as it grows: all this favours them.
"""

import argparse
import importlib
import json
import time
from typing import Any

# Steps per second of audio.
RATES = {"dia": 44_100 / 512, "mooncast": 50.0}
PROMPT = 128  # tokens of text, or of text and voices


def dia(transformers: Any, layers: int | None) -> Any:
    """Dia-1.6B, or fewer layers of it."""
    config = transformers.DiaConfig()
    if layers is not None:
        config.encoder_config.num_hidden_layers = layers
        config.decoder_config.num_hidden_layers = layers
    return transformers.DiaForConditionalGeneration(config)


def mooncast(transformers: Any, layers: int | None) -> Any:
    """A language model of MoonCast's size, or fewer layers of it."""
    config = transformers.LlamaConfig(
        vocab_size=160_000,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=16 if layers is None else layers,
        num_attention_heads=24,
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)


def timed(torch: Any, model: Any, name: str, steps: int) -> float:
    """Seconds of `steps` steps, after the prompt."""
    device = model.device
    ids = torch.randint(3, 200, (1, PROMPT), device=device)
    options: dict[str, Any] = {"do_sample": True, "max_new_tokens": steps, "min_new_tokens": steps}
    if name == "dia":
        options["guidance_scale"] = 3.0
        del options["min_new_tokens"]  # it does not end within so few steps
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    made = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    wait()
    seconds = time.perf_counter() - begin
    # Dia's output begins with one token of its own, the language model's with the prompt.
    count = made.shape[1] - (1 if name == "dia" else PROMPT)
    if count < steps:
        raise SystemExit(f"{name} ended after {count} of {steps} steps")
    return seconds


def step_seconds(torch: Any, model: Any, name: str, steps: int, repeats: int) -> float:
    """Seconds of one step; the difference of two lengths excludes the prompt."""
    few = max(steps // 4, 2)
    with torch.no_grad():
        timed(torch, model, name, few)  # warms up
        short, long = (
            min(timed(torch, model, name, count) for _ in range(repeats)) for count in (few, steps)
        )
    if long <= short:
        raise SystemExit(f"{steps} steps took no longer than {few}; give more --steps")
    return (long - short) / (steps - few)


def main() -> None:
    """Times one model."""
    parser = argparse.ArgumentParser(description="Times one autoregressive model.")
    parser.add_argument("--model", choices=tuple(RATES), required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=1, help="the best counts")
    parser.add_argument("--layers", type=int, help="fewer, for a quick look")
    args = parser.parse_args()
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, args.dtype))
    with torch.device(args.device):
        model = {"dia": dia, "mooncast": mooncast}[args.model](transformers, args.layers).eval()
    step = step_seconds(torch, model, args.model, args.steps, args.repeats)
    print(
        json.dumps(
            {
                "parameters": sum(p.numel() for p in model.parameters()),
                "seconds_per_step": step,
                "steps_per_second_of_audio": RATES[args.model],
                "rtf": step * RATES[args.model],
                "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
            }
        )
    )


if __name__ == "__main__":
    main()
