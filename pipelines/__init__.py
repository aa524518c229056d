"""The data layer: corpora in, exactly-once LanceDB tables out."""

__version__ = "0.1.0"
