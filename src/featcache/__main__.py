"""Hands over to the command line."""

from featcache.cli import main

main()
