"""Transcriptomic correlates of histology. `from lib import correlation`; README has the map of the modules."""
