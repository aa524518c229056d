"""What a model does between its matrix products: operations says what, plain and triton do it, choose takes one.

Imports nothing of actors but itself and, to try them, the device room.
"""
