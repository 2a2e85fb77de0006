"""open_clip's text tower without the padding.

Texts are padded to the context length, 77 tokens for most models, while a search uses about ten. If
attention looks only back, and the vector is read at the end of the text, then the padding changes
nothing and needn't be computed.
"""

from typing import Any

import open_clip
import torch


def encode_text(network: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Encode padded tokens of shape (n, context length) to (n, dimension), not normalised."""
    if not ends_where_it_is_read(network):
        features: torch.Tensor = network.encode_text(tokens)
        return features
    # As open_clip.CLIP.encode_text, on the tokens up to the end of the batch's longest text.
    last = tokens.argmax(dim=-1)  # the end-of-text token has the highest number
    length = int(last.max()) + 1
    dtype = network.transformer.get_cast_dtype()
    states = network.token_embedding(tokens[:, :length]).to(dtype)
    states = states + network.positional_embedding[:length].to(dtype)
    states = network.transformer(states, attn_mask=network.attn_mask[:length, :length])
    read = network.ln_final(states[torch.arange(len(tokens), device=tokens.device), last])
    vectors: torch.Tensor = read @ network.text_projection
    return vectors


def ends_where_it_is_read(network: Any) -> bool:
    """Whether padding can't change a text's vector, because of how the network is built."""
    return (
        type(network) is open_clip.CLIP
        and network.text_pool_type == "argmax"
        and network.attn_mask is not None
        and isinstance(network.text_projection, torch.nn.Parameter)
    )
