"""`python -m benchmarks.gpu`: settles on one CUDA GPU what this project says about GPUs.

__main__ and supervise are the first process, worker the second; steps is what is run, in which order, and how long it
may take; paths is which of Triton's kernels and which attention the steps use, by what passed before.
"""
