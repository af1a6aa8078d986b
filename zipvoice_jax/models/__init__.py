"""The models: the ZipVoice family, and the vocoders Vocos and HiFi-GAN."""
