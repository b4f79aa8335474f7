"""The score: windows out, logits in, nats and bytes counted here. Only `wire` is for submissions, too."""
