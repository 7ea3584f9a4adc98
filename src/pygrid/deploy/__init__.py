"""Several apps at once, as a compose file describes them: the file, the plan for this machine, and whether an app is
ready.
"""
