"""Backbones, their weights, the inference engine, features and heads."""
