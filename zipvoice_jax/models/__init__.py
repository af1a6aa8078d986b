"""The models: the ZipVoice family, and the Vocos vocoder."""
