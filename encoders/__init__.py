"""Pictures and words into one vector space: safe decoding, and the `Encoder` port's adapters."""
