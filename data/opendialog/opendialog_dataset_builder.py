"""OpenDialog for `tfds build`: two-speaker dialogues in English and Chinese, 24 kHz MP3.

    tfds build data/opendialog --manual_dir DIR --data_dir TO

DIR holds what was downloaded: `manifest.en.jsonl`, `manifest.zh.jsonl` and the tar files, or what
was in them. A `tokens.txt` there is the token table whose unknown tokens are left out.
"""

from pathlib import Path

from zipvoice_jax.data.builder import SpeechBuilder
from zipvoice_jax.data.prepare_config import PrepareConfig, TokenizerSettings
from zipvoice_jax.data.sources import Source
from zipvoice_jax.text.tokens import TokenTable


class Builder(SpeechBuilder):
    """The corpus of the official ZipVoice-Dialog, with its official dev set."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download k2-fsa/OpenDialog from the Hugging Face hub or from ModelScope into manual_dir."
    )

    def preparation(self, manual_dir: Path) -> PrepareConfig:
        """OpenDialog by the official rules."""
        tokens = manual_dir / "tokens.txt"
        table = TokenTable.load(tokens) if tokens.is_file() else None
        return PrepareConfig(
            name=self.name,
            source=Source("opendialog", manual_dir),
            tokenizer=TokenizerSettings(name="dialog", table=table),
            split="official",
        )
