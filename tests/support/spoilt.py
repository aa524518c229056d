"""Models whose results are not what they computed."""

from dataclasses import replace


def spoil(monkeypatch, model, hand):
    """From here on `hand` is laid on what each request of `model` (an Embedder or Reranker, or the class) gives, in
    place, before its caller gets it."""
    honest = model.request

    def request(*arguments, **how):
        real = honest(*arguments, **how)

        def result():
            found = real.result()
            hand(found)
            return found

        return replace(real, result=result)

    monkeypatch.setattr(model, "request", request)
