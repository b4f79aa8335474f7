"""The checks, by id, with why each is there. What finds their violations is elsewhere: `code.py` for sources,
`record_folder.py` for what lies beside them."""

from __future__ import annotations

from harness.compliance.findings import Check, Severity

ERROR, WARNING = Severity.ERROR, Severity.WARNING
CONDITIONS = "the four validity conditions of eval-time methods"
CHECKS = {
    check.id: check
    for check in (
        Check(
            "target-keyed-cache",
            "An n-gram cache is keyed by the token that it predicts",
            "A cache that is read under a key that holds the target token gives one number, for the true token only. "
            "Mixed into the model's probability of that token it is no distribution: over all tokens the sum is "
            "far above "
            "one, and a single bucket can bring the score to zero. Reading the counts of every token under the "
            "context "
            "and normalising them is allowed.",
            CONDITIONS + ": 2, a full normalised distribution over the vocabulary",
            ERROR,
        ),
        Check(
            "target-gate",
            "The token that is predicted decides how it is scored",
            "A mixing weight, or a choice between two scores, is made from the likelihood, count or class of the "
            "realised target: mixed only where its count is not zero, trusted only where it is likely, the better of "
            "two scores kept. Each token then gets another mixture, so that over all tokens the sum is above one. "
            "Or the prediction itself is changed where that token stands, as by a mask of unlikely tokens which spares "
            "it. "
            "Weights from the entropy, the largest probability or the context's counts are the same for every token "
            "and allowed; so is a boost of a hinted token that is normalised again. Native code that is given the "
            "tokens, and whose results the score holds, cannot be read, and is a question.",
            CONDITIONS + ": 2, a full normalised distribution over the vocabulary",
            ERROR,
        ),
        Check(
            "unnormalised-mixture",
            "What is mixed into the score is no distribution",
            "Among the likelihoods that are mixed stands a number that the model gives whatever token comes, as the "
            "entropy of its prediction in place of a loss. Every token gets it, so that over all tokens the sum is far "
            "above one, and no loss can be much larger than it. Entropies may decide weights; a uniform distribution "
            "may be mixed in. Or the loss of the token that came is shared out among its bytes, and each share is "
            "mixed with the likelihood that something else gives that byte: the shares are known for that token alone, "
            "so that no byte has a distribution, and over all tokens the products can come to more than one. A model "
            "of bytes may be mixed with likelihoods of bytes that are summed over the tokens which begin so, or with "
            "whole tokens.",
            CONDITIONS + ": 2, a full normalised distribution over the vocabulary",
            ERROR,
        ),
        Check(
            "two-pass-rescoring",
            "Tokens are scored again after state was built from them",
            "A first pass over the validation data fills a cache or adapts the model, a second pass scores the "
            "same tokens with it, or of the scores of several passes the best one is kept. Each token's score must be "
            "fixed before anything derived from it changes state, and only once. Where the first pass adapts weights, "
            "`trains-on-val` says so too; several turns over the same chunk, of which the last one's scores count, "
            "are `trains-on-val` alone.",
            CONDITIONS + ": 3 and 4, one left-to-right pass without rescoring",
            ERROR,
        ),
        Check(
            "trains-on-val",
            "Weights are trained on validation tokens before these are scored",
            "An optimizer step, or any other update of what is scored with, uses validation tokens whose score "
            "is not fixed "
            "yet: several epochs over the split, a document or a chunk whose last scores count, fine-tuning before "
            "quantization, adapting to a window before scoring it, a pass of test-time training whose weights score "
            "the split again.",
            CONDITIONS + ": 1 and 3",
            ERROR,
        ),
        Check(
            "score-first-ttt",
            "Test-time training scores each chunk before it learns from it",
            "Recognised as allowed: the loss of a chunk is added to the score under the weights as they were, "
            "and only then "
            "the weights are updated with it. It is said of the run that is judged, not of code that is switched off "
            "in it, and not where the weights had learned the same tokens before.",
            CONDITIONS + ": 3",
            Severity.NOTE,
        ),
        Check(
            "slot",
            "A per-window delta is optimised on the very tokens that it scores",
            "Scored-region SLOT fits a vector (or logit bias) to the loss of the tokens that are about to be "
            "counted, and "
            "counts them under it.",
            CONDITIONS + ": 1 and 3",
            ERROR,
        ),
        Check(
            "calibration-data",
            "Quantization is calibrated on data that it may not see then",
            "Hessians or scales are collected from train shards after the training clock has stopped, or from "
            "validation tokens. A loop that ends 3 s early keeps time for it; where logs say when it ended and how "
            "long the statistics took, or training on validation tokens before them, these decide.",
            "no training data after the training clock; no validation data before it has been scored",
            ERROR,
        ),
        Check(
            "self-generated-calibration",
            "Calibration tokens are sampled from the model itself, or random",
            "Recognised as allowed: no data are read.",
            "no training data after the training clock",
            Severity.NOTE,
        ),
        Check(
            "val-in-training",
            "Training batches are read from validation shards",
            "The loader of the training loop matches validation files, or is given the validation tokens; or the "
            "README says that the files it is given under the names of train shards are validation shards.",
            "no validation data before it has been scored",
            ERROR,
        ),
        Check(
            "network-at-eval",
            "The network is used while training or evaluating",
            "Downloads, sockets, remote data or package installation in code that is reached from the entry point.",
            "no network in eval",
            ERROR,
        ),
        Check(
            "hidden-code",
            "Code runs that cannot be read here",
            "A subprocess, compiler, foreign binary, pickle that the program does not write itself, text that is "
            "executed and could not be unpacked (or is read from a file that the program writes, if what is in it is "
            "not certain), or an imported module that is neither in the folder nor a known package. A function that "
            "clocks, scores or sizes rely on (time, math, numpy, losses) and that the program replaces is a question, "
            "as its name no longer says what it does.",
            "a submission's code counts and must be readable",
            WARNING,
        ),
        Check(
            "size-cap",
            "The size cap is computed wrongly",
            "16,000,000 bytes are decimal and hold for artifact and code together; a guard above "
            "that number, as 16 MiB are, lets too much through; one of fewer MiB is a question.",
            "artifact + code <= 16,000,000 bytes",
            ERROR,
        ),
        Check(
            "wallclock-cap",
            "The wall-clock cap can be off, or is not consulted",
            "With its defaults and its documented command, or in the run that its logs show, the training loop has no "
            "limit of 600 s, a larger one, or one that is never compared with the time. In the track without a limit "
            "on time this is noted, and allowed. A folder that lies in the track of 600 s, but names the other in its "
            "submission.json, is a question.",
            "train <= 600 s, eval <= 600 s",
            ERROR,
        ),
        Check(
            "constant-score",
            "The reported score is a constant, or does not come from scoring",
            "The number that is printed as val_bpb or val_loss is written in the code, or a constant changes it on its "
            "way: a factor other than the bytes of the text, a term, a power or a bound, in the number or in its "
            "divisor. What is summed up for it and changed by a number in the code, or by one for each token, is a "
            "question, or left out by its own loss, and a folder in which nothing that is started gets to score.",
            "the score is measured on the validation split",
            ERROR,
        ),
        Check(
            "byte-count",
            "Bytes are counted in another way than the contest does",
            "A token's bytes are its piece's UTF-8 bytes, one more for a leading space unless a boundary token "
            "precedes, one for a byte piece. Another count changes every score. The code that measures the pieces and "
            "the code that adds up the bytes of what is scored are worked out on a small vocabulary of every kind of "
            "piece, and the first token that comes to other bytes than its text has is named. The score holds only "
            "their sum: where logs give the tokens of the split, nats per token and bits per byte, the bytes that "
            "these come to are compared with those of the split's text.",
            "the score is bits per byte of the fixed validation split",
            ERROR,
        ),
        Check(
            "other-data",
            "Tokenizer or data are not the contest's",
            "Shards, tokenizer or validation documents come from elsewhere, or only a part of the split is scored. "
            "Another tokenizer is not forbidden, and therefore a question, as is code that keeps a share of the "
            "validation tokens, or stops scoring after so many windows or so much time; logs that show a score of a "
            "part of the split's bytes are a violation.",
            "BPB on the fixed FineWeb validation split",
            WARNING,
        ),
        Check(
            "seed-search",
            "Seeds are tried until one is good",
            "A loop over seeds, or a restart on a bad loss, keeps the best result.",
            "three seeds, all of them reported",
            WARNING,
        ),
        Check(
            "dead-claim",
            "A documented feature has no effect",
            "The README names a technique whose code cannot be reached with the defaults and the documented command, "
            "or whose result is thrown away, or the command has a setting that no code reads. Code that does nothing "
            "and that nobody speaks of is no claim.",
            "a record says what it did",
            WARNING,
        ),
        Check(
            "record-schema",
            "submission.json is not as it should be",
            "Fields are missing, of another type, or contradict each other.",
            "the contest's record folder",
            ERROR,
        ),
        Check(
            "record-logs",
            "Logs are missing, cut off, or say something else",
            "Each seed has a log that goes to its final score, in a line that code of the folder prints, and README, "
            "submission.json and logs agree.",
            "the contest's record folder",
            ERROR,
        ),
        Check(
            "record-score",
            "The score is lower than a model of this size is known to have",
            "The accepted records came from 1.22 to 1.06 bits per byte in six weeks, a hundredth at a time. A score "
            "under 0.95 is more often that of a program that knows what it predicts than of a better model: attention "
            "that is not causal, tokens that are merged with the one behind them, state that was made of the whole "
            "text. `harness record` tries that with probes; here it is a question.",
            CONDITIONS + ": 1, strict causality",
            WARNING,
        ),
        Check(
            "record-size",
            "A run is over 16,000,000 bytes",
            "Artifact and code, as the log and the folder give them.",
            "artifact + code <= 16,000,000 bytes",
            ERROR,
        ),
        Check(
            "record-time",
            "A run is over 600 s",
            "Training with quantization, or evaluation, as the log gives it.",
            "train <= 600 s, eval <= 600 s",
            ERROR,
        ),
        Check(
            "record-seeds",
            "Seeds are missing or the same run is counted twice",
            "Three seeds are customary, each with a log of its own; two logs of one run are one.",
            "three seeds, all of them reported",
            WARNING,
        ),
        Check(
            "record-significance",
            "The improvement is not shown",
            "Welch's t-test, one-sided, of at least 0.005 nats over the named baseline with p < 0.01.",
            "a new record must beat the old one by >= 0.005 nats at p < 0.01",
            WARNING,
        ),
        Check(
            "unreadable",
            "A file could not be analysed",
            "It is no text, no Python, too large, or nested too deeply.",
            "a submission's code must be readable",
            WARNING,
        ),
    )
}
