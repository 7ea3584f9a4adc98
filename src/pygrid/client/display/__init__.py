"""Draws tables, reviews and the progress of trainings for people, in a terminal and in a notebook."""
