"""`make mutations` runs for minutes; here only that each mutation still fits the source."""

import pytest

from tests.house import mutations


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_fits_the_source(mutation):
    for edit in (*mutation.edits, *mutation.provocation):
        assert mutations.changed(edit, mutations.ROOT) != (mutations.ROOT / edit[0]).read_text()


def test_a_mutation_that_does_not_fit_fails_loudly():
    with pytest.raises(ValueError, match="0 times, not once"):
        mutations.changed(("pipelines/units.py", "no such line", ""), mutations.ROOT)
