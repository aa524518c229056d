"""The device a replica works on: what "auto" means (auto, cpu), its errors and copies (device), how its memory is cut
(allocator), how many tokens it holds (memory), and micro-batches of which one is always queued (double_buffered).

Imports the ground alone.
"""
