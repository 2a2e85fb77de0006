"""The index: the `VectorIndex` and `GenerationCatalog` ports, their adapters, and answering."""
