"""A decoder that pictures of one size kill, for `sabotage.bad_pictures`."""

import os

from PIL import Image

from pixtide.encoders.pictures import decoder_child
from pixtide.encoders.pictures.images import Limits, Picture, render
from pixtide.encoders.port import Crop

main = decoder_child.main

#: The size of pictures that kill their decoder.
DEADLY = (40, 8)


def _render_or_die(image: Image.Image, crop: Crop, limits: Limits) -> Picture:
    if image.size == DEADLY:
        os._exit(9)
    return render(image, crop, limits)


setattr(decoder_child, "render", _render_or_die)  # noqa: B010
