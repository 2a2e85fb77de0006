"""The model that `pip install` includes: good enough to try pixtide without any model hub."""

from pixtide.encoders.starter.encoder import StarterEncoder

__all__ = ["StarterEncoder"]
