"""The device a replica works on: what "auto" means (auto, cpu), what a card and its driver can do (gpu), what fails
before it works (refusal), its errors and copies (device), how its memory is cut (allocator), how many tokens it holds
(memory), and micro-batches of which one is always queued (double_buffered).

Imports the ground alone.
"""
