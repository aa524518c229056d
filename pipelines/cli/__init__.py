"""The command line: declares commands and options, prints results, shows progress. What is done lives elsewhere.

May import: every room; nothing imports it. `app` has a function a command; `display` and `terminal` are what is seen.
"""
