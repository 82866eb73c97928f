"""Transcriptomic correlates of histology. `from lib import correlation`; the README maps the modules."""
