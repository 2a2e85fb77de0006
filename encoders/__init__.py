"""Pictures and texts to vectors in one space: safe decoding, and adapters of the `Encoder` port."""
