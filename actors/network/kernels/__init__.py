"""What Qwen3 does between its matrix products: operations says what, plain and triton do it, choose takes one of them.

Imports nothing of actors but itself and, to try them, the device room.
"""
