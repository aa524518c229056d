import pytest

from pipelines.config import JobConfig, ReplicaRange
from pipelines.errors import ConfigError
from pipelines.job_file import load_job, parse_job, read_job

GOOD = {"corpus": {"uri": "c"}, "table": {"uri": "t", "name": "n"}}


def job(**sections):
    data = {name: dict(values) for name, values in GOOD.items()}
    for name, values in sections.items():
        data.setdefault(name, {}).update(values)
    return data


def write(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return path


MINIMAL = "corpus: {uri: c}\ntable: {uri: t, name: n}\n"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"corpus": {"colums": ["a"]}}, ["corpus.colums", "unknown key", "did you mean 'columns'"]),
        ({"chunking": {"overlap": 3}}, ["chunking.overlap", "unknown key", "overlap_tokens"]),
        ({"run": {"zzz": 1}}, ["run.zzz", "unknown key", "known here", "replicas"]),
        ({"run": {"replicas": 0}}, ["run.replicas", "at least 1, or auto", "got 0"]),
        ({"run": {"replicas": "many"}}, ["1 wrong field", "run.replicas", "many"]),
        ({"run": {"replicas": {"min": 0, "max": 2}}}, ["1 wrong field", "run.replicas.min", "equal to 1 (got 0)"]),
        ({"run": {"replicas": {"min": 3, "max": 2}}}, ["1 wrong field", "run.replicas: max (2) is less than min (3)"]),
        ({"run": {"replicas": {"min": 3}}}, ["run.replicas.max: is required"]),
        ({"run": {"replicas": {"min": 1, "maxx": 2}}}, ["run.replicas.maxx: unknown key; did you mean 'max'?"]),
        ({"run": {"stage_timeout_seconds": 0}}, ["run.stage_timeout_seconds", "greater than 0"]),
        ({"run": {"engine": "spark"}}, ["run.engine", "'auto'", "'ray'", "'inline'", "spark"]),
        ({"run": {"commit_every_seconds": 0}}, ["run.commit_every_seconds", "greater than 0"]),
        ({"model": {"dimensions": 0}}, ["model.dimensions", "greater than or equal to 1"]),
        ({"model": {"dtype": "float64"}}, ["model.dtype", "bfloat16", "float8"]),
        ({"model": {"dtype": "float16"}}, ["model: dtype float16 is refused", "force_float16"]),
        ({"model": {"weights": "fake:quick"}}, ["model: weights 'fake:quick'", "tokens per second"]),
        ({"table": {"name": "a/b"}}, ["table.name"]),
        ({"table": {"vector_dtype": "int8"}}, ["table.vector_dtype", "float16"]),
        ({"corpus": {"columns": ["vector"]}}, ["corpus.columns", "belong to the table"]),
        ({"corpus": {"columns": ["_unit"]}}, ["corpus.columns", "belong to the table"]),
        ({"corpus": {"columns": ["a", "a"]}}, ["corpus.columns", "twice"]),
        ({"corpus": {"text": "{a.b}"}}, ["corpus.text", "plain column names"]),
        ({"corpus": {"text": "{a"}}, ["corpus.text", "not a valid template"]),
        ({"corpus": {"text": "{a!r}"}}, ["corpus.text", "plain column names"]),
        ({"corpus": {"text": "{{}}"}}, ["corpus.text", "names no column"]),
        ({"corpus": {"csv_delimiter": ""}}, ["corpus.csv_delimiter"]),
        ({"chunking": {"max_tokens": 100, "overlap_tokens": 60}}, ["chunking", "at most half"]),
        ({"table": {"text_column": "title"}, "corpus": {"columns": ["title"]}}, ["text_column", "clashes"]),
        ({"storage": {"secret_key": "x"}}, ["storage.secret_key", "unknown key"]),
    ],
)
def test_each_mistake_is_named_with_its_cure(sections, words):
    with pytest.raises(ConfigError) as bad:
        parse_job(job(**sections), "job.yaml")
    for word in ["job.yaml", *words]:
        assert word in str(bad.value)
    assert bad.value.exit_code == 2


def test_all_mistakes_at_once():
    with pytest.raises(ConfigError, match=r"3 wrong field") as bad:
        parse_job({"corpus": {}, "table": {"uri": "t"}, "modle": {}})
    assert "corpus.uri: is required" in str(bad.value)
    assert "did you mean 'model'" in str(bad.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("corpus: [", "not valid YAML"),
        ("- a\n- b\n", "it holds list"),
        ("", "it holds NoneType"),
        ("corpus: {uri: a, uri: b}", r"corpus\.uri is given twice, in line 1 and in line 1"),
        ("corpus:\n  uri: a\nmodel: {}\ncorpus:\n  id: b\n", r"corpus is given twice, in line 1 and in line 4"),
        ("a:\n- {x: 1}\n- x: 1\n  y:\n    z: 1\n    'z': 2\n", r"a\.y\.z is given twice, in line 5 and in line 6"),
    ],
)
def test_broken_files(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        load_job(write(tmp_path, text))


def test_a_key_may_be_given_again_elsewhere_and_over_what_is_merged(tmp_path):
    text = "base: &base {uri: a, name: t}\ncorpus: {<<: *base, uri: c}\ntable: *base\n"
    found = read_job(write(tmp_path, text))
    assert found["corpus"]["uri"] == "c"
    assert found["table"]["uri"] == "a"


def test_an_override_gives_a_key_once(tmp_path):
    with pytest.raises(ConfigError, match=r"min is given twice"):
        load_job(write(tmp_path, "corpus: {uri: a}\n"), ["run.replicas={min: 1, min: 2}"])


def test_missing_and_undecodable_files(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_job(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"corpus: \xe9\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_job(tmp_path / "latin.yaml")


def test_overrides(tmp_path):
    path = write(tmp_path, MINIMAL)
    loaded = load_job(path, ["run.replicas=4", "chunking.max_tokens=128", "model.revision=null", "corpus.text={a}"])
    assert (loaded.run.replicas, loaded.chunking.max_tokens, loaded.corpus.text) == (4, 128, "{a}")
    null_section = write(tmp_path, MINIMAL + "chunking: null\n")
    loaded = load_job(null_section, ["chunking.max_tokens=64", "chunking.overlap_tokens=0", "corpus.text={a}: {b}"])
    assert (loaded.chunking.max_tokens, loaded.corpus.text) == (64, "{a}: {b}")
    path = write(tmp_path, MINIMAL)
    for wrong in ("run.replicas", "=3", "run..x=1", "corpus.uri.x=1"):
        with pytest.raises(ConfigError, match="--set"):
            load_job(path, [wrong])
    with pytest.raises(ConfigError, match="did you mean 'replicas'"):
        load_job(path, ["run.replica=4"])


def test_replicas_are_a_number_a_word_or_a_range(tmp_path):
    def given(value):
        return load_job(write(tmp_path, MINIMAL), [f"run.replicas={value}"]).run.replicas

    assert (given(4), given("auto")) == (4, "auto")
    assert given("{min: 2, max: 8}") == ReplicaRange(min=2, max=8)
    dumped = parse_job(job(run={"replicas": {"min": 2, "max": 8}})).model_dump(mode="json")
    assert dumped["run"]["replicas"] == {"min": 2, "max": 8}


def test_yaml_cannot_execute(tmp_path):
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_job(write(tmp_path, "corpus: !!python/object/apply:os.system ['true']\n"))


def test_defaults_and_frozen():
    config = parse_job(GOOD)
    assert (config.chunking, config.run.engine, config.model.weights) == (None, "auto", "bundled")
    with pytest.raises(Exception, match="frozen"):
        config.run.replicas = 3


def test_endpoint_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert parse_job(GOOD).storage.endpoint_url == "http://127.0.0.1:1"
    assert parse_job(job(storage={"endpoint_url": None})).storage.endpoint_url is None


def test_text_columns():
    assert parse_job(job(corpus={"text": "{b} {a} {b}"})).corpus.text_columns == ("b", "a")
    assert parse_job(GOOD).corpus.text_columns == ("text",)


TEXTS = [
    ("passage: ", "passage: "),
    ('"passage: "', "passage: "),
    ("'passage: '", "passage: "),
    (' "a b" ', "a b"),
    (r'"a\n\tb"', "a\n\tb"),
    (r"a\nb", r"a\nb"),
    ("Given a claim: find evidence", "Given a claim: find evidence"),
    *((value, value) for value in ("123", "007", "1e5", "1_000", "no", "true", "2026-01-31", "[a]", "{a: b}", "- a")),
    *((value, value) for value in ("a # b", "#", "&a", "*", "!!int 5", "|", "%", "@x", " in front", "x=y", "", "  ")),
    *((value, None) for value in ("null", "Null", "NULL", "~")),
    ('"null"', "null"),
]


@pytest.mark.parametrize(("value", "meant"), TEXTS)
@pytest.mark.parametrize("field", ["prompt", "query_prompt", "revision"])
def test_a_text_on_the_command_line_is_as_it_is_written(tmp_path, field, value, meant):
    assert getattr(load_job(write(tmp_path, MINIMAL), [f"model.{field}={value}"]).model, field) == meant


def test_every_text_field_is_read_as_a_text(tmp_path):
    path = write(tmp_path, MINIMAL)
    fields = [
        (section, name)
        for section, of in JobConfig.model_json_schema()["$defs"].items()
        for name, field in of["properties"].items()
        if field.get("type", field.get("anyOf", [{}])[0].get("type")) == "string" and "enum" not in field
    ]
    assert len(fields) == 19
    for section, name in fields:
        place = section.removesuffix("Config").lower(), name
        rerank = ["task=rerank", "corpus.query=q"] if name in ("query", "document", "candidates", "instruction") else []
        rerank += ["corpus.document=d"] if name in ("query", "instruction") else []
        value = "7" if name == "csv_delimiter" else "007"
        loaded = load_job(path, [*rerank, f"{'.'.join(place)}={value}"])
        assert getattr(getattr(loaded, place[0]), name) == value, name


def test_a_list_of_texts_on_the_command_line(tmp_path):
    path = write(tmp_path, MINIMAL)
    loaded = load_job(path, ["corpus.columns=[007, no, 2026-01-31, 'a, b', \"c: d\"]"])
    assert loaded.corpus.columns == ("007", "no", "2026-01-31", "a, b", "c: d")
    with pytest.raises(ConfigError, match=r"corpus\.columns"):
        load_job(path, ["corpus.columns=a"])


@pytest.mark.parametrize("value", ['"open', "'tis", '"a" b'])
def test_quotes_that_do_not_close(tmp_path, value):
    with pytest.raises(ConfigError, match=r"(?s)--set model\.prompt=.* put all of it into quotes"):
        load_job(write(tmp_path, MINIMAL), [f"model.prompt={value}"])


def test_a_section_on_the_command_line_is_yaml(tmp_path):
    loaded = load_job(write(tmp_path, MINIMAL), ["model={prompt: 'passage: ', dimensions: 8}", "chunking=null"])
    assert (loaded.model.prompt, loaded.model.dimensions, loaded.chunking) == ("passage: ", 8, None)


def test_float16_can_be_forced():
    forced = parse_job(job(model={"dtype": "float16", "force_float16": True})).model
    assert (forced.dtype, forced.force_float16) == ("float16", True)


def test_every_field_is_described():
    for section in JobConfig.model_json_schema()["$defs"].values():
        for name, field in section["properties"].items():
            assert field.get("description"), name
