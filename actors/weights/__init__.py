"""Where weights come from, and what a folder says of its model: locate, fetch, cache, modules, recipe.

Imports the ground alone and never torch: who only plans or tokenises fetches the small files and loads no more.
"""
