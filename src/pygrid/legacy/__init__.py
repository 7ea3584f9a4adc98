"""The interfaces of 2020 and 2021: what clients of that time send and expect."""
