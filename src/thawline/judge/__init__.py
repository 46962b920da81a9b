"""Judgement: arrays in, numbers out. A leaf that imports only `types` and `errors`."""
