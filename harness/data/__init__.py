"""The data of a run: what a submission trains on, and what it is scored on.

shard      a file of tokens in the contest's format: a header and 16-bit token ids (`shards`)
document   a text; in a shard each document begins with BOS (id 1), and nothing marks its end
split      `train` or `val`; a document, and every near copy of it, belongs to exactly one of them (`split`)
manifest   `manifest.json`, beside the shards: names, sizes and hashes of all of them and of the tokenizer (`manifest`)
published  what the contest offers for download, with a manifest of its own, not ours (`published`, `collect`, `hub`)
demo corpus  English prose from the documentation that every Python installation carries, needing no download (`demo`)
"""
