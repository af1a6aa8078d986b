"""Text to tokens: token tables, normalisers, phonemes, tokenizers, chunking.

Nothing here needs jax; eSpeak, jieba, pypinyin, cn2an and inflect are loaded on first use.
"""
