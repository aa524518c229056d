"""Where stages run: in this process, or on Ray. To add an engine: a module with what `Executor` in `stage` asks for,
which gives the same table as `InlineExecutor`; its branch in `open`; its name in `RunConfig.engine`.

`workers` and `wire` are what runs in an engine's processes and what travels to them; `deadline` and `watch` see to it
that nothing is waited for that cannot come. May import: the ground. Knows neither corpus nor table nor task.
"""
