"""The interfaces of 2020 and 2021, for the clients of that time."""
