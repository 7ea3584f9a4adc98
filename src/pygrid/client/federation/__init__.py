"""Trains a model across Domains of several owners."""
