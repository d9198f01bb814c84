"""Swaps over HTTP: photos at once, videos as jobs."""
