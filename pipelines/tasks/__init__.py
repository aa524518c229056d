"""What a row becomes: vectors (`embed`), scores of pairs (`rerank`). To add a task: a module with what `JobTask` in
`task` asks for, and its line in `TASKS` of `registry`; its name and result columns in `pipelines/config.py`.

`read` and `write` are the first and last stage of every task, `replica` those between that hold a model. May import:
engine, corpus, table, storage, and the ground. The hits of a search are a task, too: see `pipelines/search/task.py`.
"""
