"""Judges that need torch, run for real on tiny random models; left out where torch is missing.

In an environment of their own (see the group torch-judges of pyproject.toml).
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from complaints import message
from conftest import ROOT

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.judge.backends import RATE, text_of
from zipvoice_jax.judge.config import JudgeConfig
from zipvoice_jax.judge.judge import Judge
from zipvoice_jax.judge.quality import open_quality_predictor
from zipvoice_jax.judge.recognisers import cut, open_recogniser, pieces
from zipvoice_jax.judge.speakers import open_speaker_encoder, spoken

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that are not the package's own

WAVE = read_audio(ROOT / "tests" / "data" / "prompt_s1.flac", RATE)[0]
SIZES = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    conv_dim=(16, 16), conv_kernel=(10, 8), conv_stride=(20, 16), num_feat_extract_layers=2,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def whisper(folder: Path, *, aligned: bool = False, english: bool = False) -> Path:
    """A random Whisper whose tokens are bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocabulary = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[])
    names = ("startoftranscript", "en", "zh", "translate", "transcribe", "startoflm", "startofprev")
    names = [f"<|{name}|>" for name in (*names, "nospeech", "notimestamps")]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.add_tokens([f"<|{0.02 * i:.2f}|>" for i in range(1501)])
    ids = {name.strip("<|>"): tokenizer.convert_tokens_to_ids(name) for name in names}
    end = tokenizer.eos_token_id
    common = dict(
        pad_token_id=end, bos_token_id=end, eos_token_id=end,
        decoder_start_token_id=ids["startoftranscript"],
    )  # fmt: skip
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=16, d_model=16, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_target_positions=64, **common,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    with torch.no_grad():  # letters are likelier than times
        model.model.decoder.embed_tokens.weight[: len(vocabulary)] *= 10.0
    more: dict[str, Any] = dict(
        no_timestamps_token_id=ids["notimestamps"], prev_sot_token_id=ids["startofprev"],
        is_multilingual=not english, max_length=24,
    )  # fmt: skip
    if not english:
        more["lang_to_id"] = {f"<|{name}|>": ids[name] for name in ("en", "zh")}
        more["task_to_id"] = {name: ids[name] for name in ("transcribe", "translate")}
    if aligned:
        more["alignment_heads"] = [[0, 0], [1, 1]]
    model.generation_config = transformers.GenerationConfig(**common, **more)
    model.save_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor(feature_size=16)
    transformers.WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("aligned", "english"), [(True, False), (False, False), (True, True)])
def test_whisper_gives_words_with_times(tmp_path: Path, aligned: bool, english: bool) -> None:
    folder = whisper(tmp_path, aligned=aligned, english=english)
    judge = open_recogniser(f"transformers:{folder}")
    assert judge.english_only == english and not judge.writes_tags
    assert (
        "torch.float32" in judge.description["options"] and len(judge.description["weights"]) == 16
    )
    words = judge.words(WAVE, "en")
    assert len(words) > 1 and words[0].text.startswith(" ")
    assert all(0.0 <= w.start <= w.end <= len(WAVE) / RATE + 0.1 for w in words)
    samples, _ = cut(WAVE, next(pieces(WAVE)))
    own = transformers.pipeline("automatic-speech-recognition", model=str(folder))
    options: dict[str, Any] = {"return_timestamps": "word" if aligned else True}
    options["generate_kwargs"] = {"num_beams": 5}
    if not english:
        options["generate_kwargs"] |= {"language": "en", "task": "transcribe"}
    heard = own({"raw": samples, "sampling_rate": RATE}, **options)["text"]
    assert "".join(text_of(words).split()) == "".join(heard.split())
    if english:
        config = JudgeConfig(metrics=("wer",), recogniser=f"transformers:{folder}", language="zh")
        assert "knows English only" in message(Judge.open, config)


@pytest.mark.parametrize(("kind", "beams"), [("whisper-d", 5), ("whisper-large-v3", 1)])
def test_the_paper_hears_the_whole(tmp_path: Path, kind: str, beams: int) -> None:
    folder = whisper(tmp_path)
    judge = open_recogniser(f"{kind}:{folder}")
    assert judge.writes_tags == (kind == "whisper-d")
    assert judge.description["options"].startswith(f"the whole, 30 s at a time, beam {beams}")
    (word,) = judge.words(WAVE, "en")
    assert (word.start, word.end) == (0.0, len(WAVE) / RATE)
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
    features = processor(WAVE, sampling_rate=RATE, return_tensors="pt").input_features
    found = model.generate(features, language="en", task="transcribe", num_beams=beams)
    (text,) = processor.batch_decode(found, skip_special_tokens=True)
    assert word.text == text and text.strip()


def test_words_of_ctc_models_are_apart(tmp_path: Path) -> None:
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]
    (tmp_path / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(letters)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor()
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path)
    config = transformers.Wav2Vec2Config(vocab_size=len(letters), pad_token_id=0, **SIZES)
    model = transformers.Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.weight *= 20.0
    model.save_pretrained(tmp_path)
    words = open_recogniser(f"transformers:{tmp_path}").words(WAVE, "en")
    assert len(words) > 2 and all(word.text.startswith(" ") for word in words)
    samples, begin = cut(WAVE, next(pieces(WAVE)))
    own = transformers.pipeline("automatic-speech-recognition", model=str(tmp_path))
    assert text_of(words) == " ".join(own({"raw": samples, "sampling_rate": RATE})["text"].split())
    starts = [word.start for word in words]
    assert starts == sorted(starts) and starts[0] >= begin


def test_xvectors_are_those_of_the_model(tmp_path: Path) -> None:
    config = transformers.WavLMConfig(tdnn_dim=(16, 16, 16, 16, 16), xvector_output_dim=8, **SIZES)
    model = transformers.WavLMForXVector(config).eval()
    model.save_pretrained(tmp_path / "voices")
    found = open_speaker_encoder(f"transformers:{tmp_path / 'voices'}").embed(WAVE)
    with torch.no_grad():
        own = model(torch.from_numpy(spoken(WAVE))[None]).embeddings[0].numpy()
    np.testing.assert_allclose(found, own / np.linalg.norm(own), atol=1e-5)
    short = open_speaker_encoder(f"transformers:{tmp_path / 'voices'}").embed(WAVE[:1600])
    assert np.linalg.norm(short) == pytest.approx(1.0, abs=1e-5)
    # Neither is it a recogniser, nor is a model without its head an encoder of voices.
    said = message(open_recogniser, f"transformers:{tmp_path / 'voices'}")
    assert "is no recogniser of transformers" in said
    transformers.WavLMModel(config).save_pretrained(tmp_path / "base")
    said = message(open_speaker_encoder, f"transformers:{tmp_path / 'base'}")
    assert "is no speaker encoder: it has no weights" in said
    (tmp_path / "empty").mkdir()
    said = message(open_recogniser, f"transformers:{tmp_path / 'empty'}")
    assert "holds no *.safetensors" in said


def scripted(folder: Path, body: str) -> Path:
    """A file of TorchScript that computes `body` from samples x."""
    unit = torch.jit.CompilationUnit(f"def forward(x):\n    return {body}\n")
    path = folder / "model.pt"
    unit.forward.save(str(path))
    return path


def test_torchscript_serves_both_roles(tmp_path: Path) -> None:
    voice = scripted(tmp_path, "torch.stack([x.mean(1), x.std(1)], dim=1)")
    found = open_speaker_encoder(f"torchscript:{voice}").embed(WAVE)
    part = spoken(WAVE)
    own = np.array([part.mean(), part.std(ddof=1)])
    np.testing.assert_allclose(found, own / np.linalg.norm(own), atol=1e-5)
    opinion = scripted(tmp_path, "1.0 + x.abs().mean(1)")
    score = open_quality_predictor(f"torchscript:{opinion}").score(WAVE)
    assert score == pytest.approx(1.0 + np.abs(WAVE).mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("body", "voice", "opinion"),
    [
        ("(x, x)", "gives a tuple", "gives a tuple"),
        ("x[:, :6].reshape(1, 2, 3)", "gives a Tensor (1, 2, 3)", "gives a Tensor (1, 2, 3)"),
        ("x[:, :6]", None, "gives 6 numbers"),
        ("x.mean(1) / 0.0 * 0.0", "NaN or infinite", "NaN or infinite"),
        ("x @ x", "fails on (1, samples)", "fails on (1, samples)"),
    ],
)
def test_odd_torchscript_is_one_line(
    tmp_path: Path, body: str, voice: str | None, opinion: str
) -> None:
    path = scripted(tmp_path, body)
    encoder = open_speaker_encoder(f"torchscript:{path}")
    if voice is None:
        assert len(encoder.embed(WAVE)) == 6
    else:
        assert voice in message(encoder.embed, WAVE)
    assert opinion in message(open_quality_predictor(f"torchscript:{path}").score, WAVE)
    path.write_bytes(b"nothing")
    assert "is no file of TorchScript" in message(open_speaker_encoder, f"torchscript:{path}")


def test_distillmos_is_that_of_its_package(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("xls_r_sqa")
    judge = open_quality_predictor("distillmos")
    assert len(judge.description["weights"]) == 16 and capsys.readouterr().out == ""
    own = sys.modules["distillmos"].ConvTransformerSQAModel().eval()
    noise = np.random.default_rng(0).standard_normal(len(WAVE)).astype(np.float32)
    scores = []
    for wave in (WAVE, WAVE + 0.02 * noise):
        scores.append(judge.score(wave))
        with torch.no_grad():
            assert scores[-1] == pytest.approx(float(own(torch.from_numpy(wave)[None])), abs=1e-4)
    assert scores[0] > scores[1] + 0.5


def paraformer(funasr: Any, folder: Path, kind: str) -> Path:
    """A random model of FunASR; "BiCifParaformer" knows times, "Paraformer" does not."""
    tokens = ["<blank>", "<s>", "</s>", *"今天气很好是吗", "yes", "<unk>"]
    (folder / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    block = dict(attention_heads=2, linear_units=32, num_blocks=2, kernel_size=11)
    predictor = dict(idim=16, threshold=1.0, l_order=1, r_order=1, tail_threshold=0.45)
    config: dict[str, Any] = dict(
        model=kind,
        model_conf=dict(ctc_weight=0.0, length_normalized_loss=True, predictor_bias=1),
        encoder="SANMEncoder",
        encoder_conf=dict(
            output_size=16, input_layer="pe", sanm_shfit=0, selfattention_layer_type="sanm", **block
        ),
        decoder="ParaformerSANMDecoder",
        decoder_conf=dict(att_layer_num=2, sanm_shfit=0, **block),
        predictor="CifPredictorV2",
        predictor_conf=predictor,
        frontend="WavFrontend",
        frontend_conf=dict(
            fs=RATE, window="hamming", n_mels=80, frame_length=25, frame_shift=10, lfr_m=7, lfr_n=6
        ),
        tokenizer="CharTokenizer",
        tokenizer_conf=dict(unk_symbol="<unk>", split_with_space=True),
    )
    if kind == "BiCifParaformer":
        config["predictor"] = "CifPredictorV3"
        predictor |= dict(
            smooth_factor2=0.25, noise_threshold2=0.01, upsample_times=3, use_cif1_cnn=False,
            upsample_type="cnn_blstm",
        )  # fmt: skip
    arguments = json.loads(json.dumps(config))
    arguments["tokenizer_conf"]["token_list"] = str(folder / "tokens.json")
    model, _ = funasr.AutoModel.build_model(**arguments, device="cpu")
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["BiCifParaformer", "Paraformer"])
def test_paraformer_gives_characters(tmp_path: Path, kind: str) -> None:
    funasr = pytest.importorskip("funasr")
    with contextlib.redirect_stdout(sys.stderr):
        folder = paraformer(funasr, tmp_path, kind)
        judge = open_recogniser(f"paraformer:{folder}")
    words = judge.words(WAVE, "zh")
    own = funasr.AutoModel(model=str(folder), disable_update=True, frontend_conf={"dither": 0.0})
    (heard,) = own.generate(input=WAVE, batch_size_s=300, disable_pbar=True)
    assert text_of(words) == " ".join(heard["text"].split())
    assert (len(words) > 1) == (kind == "BiCifParaformer")
    assert all(0.0 <= word.start <= word.end <= len(WAVE) / RATE + 0.1 for word in words)
    (folder / "model.pt").write_bytes(b"nothing")
    assert "is no model of FunASR" in message(open_recogniser, f"paraformer:{folder}")
