"""The referee of the Parameter Golf contest. This is its glossary; code, docs and evidence use these words.

rules        limits, seeds, hardware and significance of a contest, one TOML file (`rules.py`, `rules/*.toml`)
submission   the contestant's folder; copied, never imported (`contestant.py`)
phase        train, quantize, eval or probe: one sandbox, one clock, declared inputs and outputs (`phases.py`)
gate         the inputs whose first open starts a phase's clock; the kernel asks before it opens them (`access.py`)
clock        monotonic seconds from the gate to the empty sandbox, read by the harness alone (`clock.py`)
preparation  what a phase does before its gate; it has a limit of its own
sandbox      namespaces with nothing in them but the phase's inputs and /out (`sandbox/`)
guard        trusted process that starts a sandbox, sees it end, kills it if the harness dies (`sandbox/guard.py`)
listener     trusted process that answers the kernel about opens; there are two, each can deny (`listener.py`)
decoy        a file without data at the place of an input that a phase may not see; opening it is a forbidden open
opener       who tried to open a gated file: a phase's sandbox, the harness, another run, or an outsider (`policy.py`)
checkpoint   what train leaves: declared tensors, rounded by the harness (`checkpoint.py`)
artifact     what quantize leaves and eval may read; with the code it must fit the size limit
calibration  the tokens the quantizer measured its Hessians on
window       a stretch of val tokens sent to the model; only its last positions are scored (`scoring/windows.py`)
probe        a scored window asked again with something else changed (`scoring/probes.py`); also the phase that does so
score        nats per token, computed here from the model's logits (`scoring/scorer.py`); bits per byte from them
ledger       the run's append-only, hash-chained list of events (`evidence/ledger.py`)
record       record.json: the verdict and every number behind it (`evidence/record.py`)
verdict      PASS; FAIL, the submission broke a rule; UNPROVEN, a witness was missing; ERROR, the referee failed
"""
