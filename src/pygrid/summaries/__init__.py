"""Summaries for people, in the words that the console, the SDK and the commands share."""
