"""What strangers send, generated: raw records and raw requests, against running workers.

Whatever comes, these hold: every process lives, good neighbours are served, each record has its
outcome and each group reads to the end, replies are strict JSON and tell nothing private.

`PIXTIDE_TEST_STRANGERS=long` makes many more examples, for hours at night; each failing example is
printed as Python, to be kept in `CASES` of its module.
"""
